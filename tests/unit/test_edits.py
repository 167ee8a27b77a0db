"""Edits of a model's structure: what is cut, what is folded, and what is refused."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Self

import pytest
import torch
from torch import Tensor, nn

from pantheon.compress import registry
from pantheon.compress.fold import FoldBatchNorm
from pantheon.compress.registry import Edit, register
from pantheon.compress.select import SelectChannels
from pantheon.compress.undo import Undoing, undone
from pantheon.errors import ConfigError


def numbered(*shape: int) -> nn.Parameter:
    """Values 0, 1, 2, ... in the order of the memory."""
    return nn.Parameter(torch.arange(torch.Size(shape).numel(), dtype=torch.float).reshape(shape))


def with_numbers(module: nn.Module) -> nn.Module:
    for name, parameter in list(module.named_parameters(recurse=False)):
        setattr(module, name, numbered(*parameter.shape))
    return module


def cut(module: nn.Module, **kept: list[int]) -> Any:
    return SelectChannels({"": kept}).apply(with_numbers(module))


# --- select_channels


@pytest.mark.parametrize(("conv", "ones"), [(nn.Conv1d, 1), (nn.Conv2d, 2), (nn.Conv3d, 3)])
def test_a_convolution_keeps_outputs_and_inputs(conv: type[nn.Conv2d], ones: int) -> None:
    found = cut(conv(3, 4, 1), out=[1, 3], **{"in": [0, 2]})
    assert found.weight.reshape(2, 2).tolist() == [[3, 5], [9, 11]]
    assert found.bias.tolist() == [1, 3]
    assert (found.out_channels, found.in_channels) == (2, 2)
    assert found(torch.ones(1, 2, *[1] * ones)).flatten().tolist() == [9, 23]


def test_a_transposed_convolution_has_its_inputs_first() -> None:
    found = cut(nn.ConvTranspose2d(3, 4, 1), out=[1, 3], **{"in": [0, 2]})
    assert found.weight.reshape(2, 2).tolist() == [[1, 3], [9, 11]]
    assert found.bias.tolist() == [1, 3]
    assert found(torch.ones(1, 2, 1, 1)).flatten().tolist() == [11, 17]


@pytest.mark.parametrize("side", ["out", "in"])
def test_either_side_of_a_depthwise_convolution_says_the_other(side: str) -> None:
    found = cut(nn.Conv2d(4, 4, 1, groups=4), **{side: [1, 2]})
    assert found.weight.flatten().tolist() == found.bias.tolist() == [1, 2]
    assert (found.out_channels, found.in_channels, found.groups) == (2, 2, 2)
    assert found(torch.ones(1, 2, 1, 1)).flatten().tolist() == [2, 4]


def test_a_grouped_convolution_keeps_the_same_positions_of_every_group() -> None:
    # Groups of two outputs and three inputs; weight [4, 3].
    found = cut(nn.Conv2d(6, 4, 1, groups=2), out=[0, 3], **{"in": [0, 2, 3, 5]})
    assert found.weight.reshape(2, 2).tolist() == [[0, 2], [9, 11]]
    assert (found.out_channels, found.in_channels, found.groups) == (2, 4, 2)
    assert found(torch.ones(1, 4, 1, 1)).flatten().tolist() == [2, 23]


def test_a_group_goes_with_the_last_of_its_channels() -> None:
    found = cut(nn.Conv2d(6, 4, 1, groups=2), out=[2, 3], **{"in": [3, 4, 5]})
    assert found.weight.reshape(2, 3).tolist() == [[6, 7, 8], [9, 10, 11]]
    assert (found.out_channels, found.in_channels, found.groups) == (2, 3, 1)


def test_a_grouped_transposed_convolution_keeps_the_same_outputs_of_every_group() -> None:
    # Groups of two inputs and three outputs; weight [4, 3].
    found = cut(nn.ConvTranspose2d(4, 6, 1, groups=2), out=[0, 1, 3, 4], **{"in": [0, 3]})
    assert found.weight.reshape(2, 2).tolist() == [[0, 1], [9, 10]]
    assert found.bias.tolist() == [0, 1, 3, 4]
    assert found(torch.ones(1, 2, 1, 1)).flatten().tolist() == [0, 2, 12, 14]


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        ({"in": [0, 1, 3]}, "at [0, 1] and [0]"),
        ({"in": [0, 1, 3, 5]}, "at [0, 1] and [0, 2]; the groups that stay must keep the same"),
        ({"out": [0, 1, 2]}, "as many channels each"),
        ({"out": [0, 1]}, "group 1 of 2 keeps inputs and no outputs"),
        ({"in": [0, 1, 2]}, "group 1 of 2 keeps outputs and no inputs"),
    ],
)
def test_groups_that_would_differ_are_refused(kept: dict[str, list[int]], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        cut(nn.Conv2d(6, 4, 1, groups=2), **kept)
    assert said in str(caught.value)


def test_a_linear_layer_without_a_bias_keeps_none() -> None:
    found = cut(nn.Linear(3, 2, bias=False), **{"in": [1]})
    assert (found.weight.tolist(), found.bias) == ([[1], [4]], None)
    assert (found.in_features, found.out_features) == (1, 2)


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm])
def test_a_batch_norm_keeps_statistics_too(norm: type[nn.BatchNorm2d]) -> None:
    layer = norm(3)
    layer.running_mean = torch.tensor([1.0, 2, 3])
    layer.running_var = torch.tensor([4.0, 5, 6])
    found = cut(layer, out=[0, 2])
    tensors = (found.weight, found.bias, found.running_mean, found.running_var)
    assert [t.tolist() for t in tensors] == [[0, 2], [0, 2], [1, 3], [4, 6]]
    assert found.num_features == 2
    assert set(found.state_dict()) == set(norm(2).state_dict())
    assert isinstance(found.weight, nn.Parameter)
    assert not isinstance(found.running_mean, nn.Parameter)


def test_norms_without_weights_keep_count() -> None:
    assert (
        cut(nn.BatchNorm2d(3, affine=False, track_running_stats=False), out=[1]).num_features == 1
    )
    assert cut(nn.InstanceNorm2d(3), out=[1, 2]).num_features == 2
    assert cut(nn.LayerNorm(3, elementwise_affine=False), out=[1, 2]).normalized_shape == (2,)


def test_an_instance_norm_keeps_statistics_too() -> None:
    layer = nn.InstanceNorm2d(3, affine=True, track_running_stats=True)
    layer.running_mean = torch.tensor([1.0, 2, 3])
    found = cut(layer, out=[2])
    assert (found.running_mean.tolist(), found.weight.tolist(), found.num_features) == ([3], [2], 1)


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
def test_a_layer_norm_is_over_what_stays(norm: type[nn.LayerNorm]) -> None:
    found = cut(norm(4), out=[1, 2])
    assert (found.weight.tolist(), found.normalized_shape) == ([1, 2], (2,))
    assert found(torch.tensor([[-1.0, 1.0]])).shape == (1, 2)


def test_a_group_norm_keeps_as_many_channels_of_every_group() -> None:
    found = cut(nn.GroupNorm(2, 6), out=[0, 1, 4, 5])
    assert (found.weight.tolist(), found.num_channels, found.num_groups) == ([0, 1, 4, 5], 4, 2)
    found = cut(nn.GroupNorm(2, 6), out=[3, 4, 5])
    assert (found.weight.tolist(), found.num_channels, found.num_groups) == ([3, 4, 5], 3, 1)
    with pytest.raises(ConfigError, match="as many channels each"):
        cut(nn.GroupNorm(2, 6), out=[0, 1, 3])


def test_prelu_and_embedding_keep_features() -> None:
    assert cut(nn.PReLU(3), out=[2]).weight.tolist() == [2]
    found = cut(nn.Embedding(2, 3), out=[0, 2])
    assert (found.weight.tolist(), found.embedding_dim) == ([[0, 2], [3, 5]], 2)


class Odd(nn.Module):
    """A parameter and a buffer of its own, and a number of heads."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 4
        self.place = numbered(2, 3)
        self.register_buffer("mask", torch.tensor([1.0, 2, 3]), persistent=False)
        self.name = "odd"


def test_bare_parameters_buffers_and_attributes_are_edited() -> None:
    edit = SelectChannels(
        parameters={"0.place": {1: [0, 2]}, "0.mask": {0: [1]}}, attributes={"0": {"heads": 2}}
    )
    odd = edit.apply(nn.Sequential(Odd()))[0]
    assert (odd.place.tolist(), odd.mask.tolist(), odd.heads) == ([[0, 2], [3, 5]], [2], 2)
    assert set(odd.state_dict()) == {"place"}


def test_parameters_stay_trained_or_frozen() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2).requires_grad_(False))
    SelectChannels({"0": {"out": [0]}, "1": {"in": [0]}}).apply(model)
    assert [p.requires_grad for p in model.parameters()] == [True, True, False, False]


def tied() -> Any:
    model = nn.ModuleDict({"words": nn.Embedding(5, 4), "head": nn.Linear(4, 5, bias=False)})
    model["head"].weight = model["words"].weight  # type: ignore[assignment]
    return model


def test_tied_parameters_stay_tied() -> None:
    model = SelectChannels({"words": {"out": [0, 3]}, "head": {"in": [0, 3]}}).apply(tied())
    assert model["head"].weight is model["words"].weight
    assert model["head"].weight.shape == (5, 2)


@pytest.mark.parametrize("kept", [{}, {"head": {"in": [0, 2]}}, {"head": {"out": [0, 3]}}])
def test_tied_parameters_that_are_cut_otherwise_are_refused(kept: dict[str, Any]) -> None:
    model = tied()
    with pytest.raises(ConfigError, match=r"'head\.weight' is tied .* cut both alike"):
        SelectChannels({"words": {"out": [0, 3]}, **kept}).apply(model)
    assert model["words"].embedding_dim == 4


REFUSED = [
    ({"modules": {"convv": {"out": [0]}}}, "no module 'convv'; the nearest are 'conv'"),
    ({"modules": {"conv": {"out": [4]}}}, "'conv', a Conv2d: it has 4 channels on its side 'out'"),
    ({"modules": {"norm": {"in": [0]}}}, "'norm', a BatchNorm2d: it has no side 'in'"),
    ({"modules": {"act": {"out": [0]}}}, "channels of a ReLU cannot be selected"),
    ({"modules": {"image": {"out": [0]}}}, "normalises over (3, 4)"),
    ({"parameters": {"conv.wieght": {0: [0]}}}, "the nearest are 'conv.weight'"),
    ({"parameters": {"conv.weight": {4: [0]}}}, "no index 0 in dimension 4"),
    ({"parameters": {"conv.weight": {0: [9]}}}, "no index 9 in dimension 0"),
    ({"attributes": {"conv": {"group": 1}}}, "no integer 'group'; the nearest are 'groups'"),
    ({"attributes": {"conv": {"training": 1}}}, "no integer 'training'"),
    (
        {"modules": {"conv": {"out": [0]}}, "parameters": {"conv.weight": {0: [1]}}},
        "two selections of dimension 0 of weight differ",
    ),
    (
        {"modules": {"conv": {"out": [0]}}, "attributes": {"conv": {"out_channels": 2}}},
        "'conv': out_channels is to be 2, but 1 by the channels that are kept",
    ),
    ({"modules": {"lazy": {"out": [0]}}}, "'lazy': weight has no values yet"),
]


@pytest.mark.parametrize(("fields", "said"), REFUSED)
def test_what_does_not_fit_is_named_and_changes_nothing(fields: dict[str, Any], said: str) -> None:
    model = nn.ModuleDict(
        {
            "conv": nn.Conv2d(3, 4, 1),
            "norm": nn.BatchNorm2d(4),
            "act": nn.ReLU(),
            "image": nn.LayerNorm((3, 4)),
            "lazy": nn.LazyConv2d(4, 1),
        }
    )
    before = repr(model), list(model.parameters())
    # Something that fits comes first.
    fields = {**fields, "modules": {"norm": {"out": [0]}, **fields.get("modules", {})}}
    with pytest.raises(ConfigError) as caught:
        SelectChannels(**fields).apply(model)
    assert said in str(caught.value)
    after = repr(model), list(model.parameters())
    assert before[0] == after[0]
    assert all(a is b for a, b in zip(before[1], after[1], strict=True))


def test_a_parametrised_weight_is_refused() -> None:
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(2, 3))
    with pytest.raises(ConfigError, match="its weight is parametrised"):
        SelectChannels({"": {"out": [0]}}).apply(layer)


# --- JSON

ODD = [
    [],
    {},
    {"kind": "select_channels"},
    {"kind": "select_channels", "modules": {"conv": {}}},
    {"kind": "select_channels", "modules": {"conv": {"out": []}}},
    {"kind": "select_channels", "modules": {"conv": {"out": [1, 0]}}},
    {"kind": "select_channels", "modules": {"conv": {"out": [0, 0]}}},
    {"kind": "select_channels", "modules": {"conv": {"out": [-1]}}},
    {"kind": "select_channels", "modules": {"conv": {"out": [True]}}},
    {"kind": "select_channels", "modules": {"conv": {"out": [1.0]}}},
    {"kind": "select_channels", "modules": {"conv": {"out": [1 << 31]}}},
    {"kind": "select_channels", "modules": {"conv": {"out": "01"}}},
    {"kind": "select_channels", "modules": {"conv": {"up": [0]}}},
    {"kind": "select_channels", "modules": {"conv": [0]}},
    {"kind": "select_channels", "modules": {"x" * 1001: {"out": [0]}}},
    {"kind": "select_channels", "modules": [["conv", {"out": [0]}]]},
    {"kind": "select_channels", "parameters": {"conv.weight": {"-1": [0]}}},
    {"kind": "select_channels", "parameters": {"conv.weight": {"01": [0]}}},
    {"kind": "select_channels", "parameters": {"conv.weight": {"²": [0]}}},
    {"kind": "select_channels", "parameters": {"conv.weight": {}}},
    {"kind": "select_channels", "parameters": {"conv.weight": 3}},
    {"kind": "select_channels", "attributes": {"conv": {"groups": "1"}}},
    {"kind": "select_channels", "attributes": {"conv": {"groups": -1}}},
    {"kind": "select_channels", "modules": {"conv": {"out": [0]}}, "more": 1},
    {"kind": "fold_batchnorm"},
    {"kind": "fold_batchnorm", "pairs": []},
    {"kind": "fold_batchnorm", "pairs": "ab"},
    {"kind": "fold_batchnorm", "pairs": ["ab"]},
    {"kind": "fold_batchnorm", "pairs": [["conv"]]},
    {"kind": "fold_batchnorm", "pairs": [["conv", 1]]},
    {"kind": "fold_batchnorm", "pairs": [["conv", "norm"], ["other", "norm"]]},
    {"kind": "fold_batchnorm", "pairs": [["conv", "norm"]], "eps": 1},
    {"kind": ["select_channels"], "modules": {}},
]


@pytest.mark.parametrize("wire", ODD, ids=repr)
def test_json_that_is_no_edit_is_refused(wire: Any) -> None:
    with pytest.raises(ConfigError):
        registry.read(wire)


@pytest.mark.parametrize(
    "edit",
    [
        SelectChannels(
            {"conv": {"out": [0, 2], "in": [1]}, "": {"out": [0]}},
            {"conv.weight": {0: [1], 3: [0, 1]}},
            {"block": {"heads": 0}},
        ),
        FoldBatchNorm([("conv", "norm"), ("head", "last")]),
    ],
)
def test_an_edit_comes_back_from_json(edit: Edit) -> None:
    assert registry.read(json.loads(json.dumps(registry.write(edit)))) == edit


def test_an_unknown_kind_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="'select_chanels'; the nearest are 'select_channels'"):
        registry.read({"kind": "select_chanels"})


def test_a_kind_has_one_class() -> None:
    with pytest.raises(ConfigError, match="SelectChannels already"):

        @register("select_channels")
        class Other(SelectChannels):
            pass


def test_an_edit_that_would_be_read_back_as_another_is_not_written() -> None:
    @register("test.forgets")
    @dataclass(frozen=True)
    class Forgets(Edit):
        bits: int

        def apply(self, model: nn.Module) -> nn.Module:
            return model

        def to_json(self) -> dict[str, Any]:
            return {}

        @classmethod
        def from_json(cls, fields: Mapping[str, Any]) -> Self:
            return cls(8)

    assert registry.write(Forgets(8)) == {"kind": "test.forgets"}
    with pytest.raises(ConfigError, match="reads back as another"):
        registry.write(Forgets(4))


# --- fold_batchnorm

LAYERS = [
    (nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6), (4, 5)),
    (nn.Conv2d(4, 6, 3, bias=False, groups=2), nn.BatchNorm2d(6), (4, 5, 5)),
    (nn.Conv3d(4, 6, 2), nn.BatchNorm3d(6), (4, 3, 3, 3)),
    (nn.ConvTranspose1d(4, 6, 3), nn.BatchNorm1d(6), (4, 5)),
    (nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False), nn.BatchNorm2d(6), (4, 5, 5)),
    (nn.Linear(4, 6), nn.BatchNorm1d(6, affine=False), (4,)),
]


def with_statistics(norm: Any) -> Any:
    count = norm.num_features
    norm.running_mean = torch.linspace(-1, 1, count)
    norm.running_var = torch.linspace(0.5, 2, count)
    if norm.affine:
        norm.weight = nn.Parameter(torch.linspace(-2, 3, count))
        norm.bias = nn.Parameter(torch.linspace(1, -1, count))
    return norm


@pytest.mark.parametrize(("layer", "norm", "shape"), LAYERS, ids=repr)
def test_a_folded_norm_leaves_the_answers(
    layer: nn.Module, norm: nn.Module, shape: tuple[int, ...]
) -> None:
    model = nn.Sequential(deepcopy(layer), with_statistics(deepcopy(norm))).eval()
    torch.manual_seed(0)
    inputs = torch.randn(3, *shape)
    before = model(inputs)
    assert FoldBatchNorm([("0", "1")]).apply(model) is model
    assert type(model[1]) is nn.Identity
    torch.testing.assert_close(model(inputs), before, rtol=1e-5, atol=1e-5)


def test_folding_rounds_once() -> None:
    # In float32 41 times 1 / 41 is below 1.
    layer, norm = nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1, eps=0.0)
    layer.weight = nn.Parameter(torch.tensor([[41.0]]))
    norm.running_mean, norm.running_var = torch.tensor([-41.0]), torch.tensor([41.0**2])
    model: Any = FoldBatchNorm([("0", "1")]).apply(nn.Sequential(layer, norm))
    assert model[0].weight.dtype == model[0].bias.dtype == torch.float32
    assert (model[0].weight.item(), model[0].bias.item()) == (1, 1)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4)
        self.same = self.conv
        self.other, self.free = nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)
        self.last = nn.BatchNorm2d(3)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 4, 1))

    def forward(self, images: Tensor) -> Tensor:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        (("conv", "norm"), "used under several paths (conv, same)"),
        (("other", "free"), "'free' keeps no running statistics"),
        (("other", "last"), "'last' norms 3 channels and 'other' answers 4"),
        (("norm", "last"), "'norm' is a BatchNorm2d; expected a convolution"),
        (("other", "conv"), "'conv' is a Conv2d; expected a batch norm"),
        (("othr", "norm"), "no module 'othr'; the nearest are 'other'"),
        (("normed", "norm"), "the weight of 'normed' is parametrised"),
    ],
)
def test_what_cannot_be_folded_is_named(pair: tuple[str, str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        FoldBatchNorm([pair]).apply(Twice())
    assert said in str(caught.value)


def test_pairs_without_number_are_read_in_little_time() -> None:
    many = [[f"conv{i}", f"norm{i}"] for i in range(20_000)]
    start = time.process_time()
    edit = FoldBatchNorm.from_json({"pairs": many})
    assert time.process_time() - start < 5  # every path against every other takes minutes
    assert len(edit.pairs) == 20_000
    with pytest.raises(ConfigError, match="'conv7' is in pairs 2 times"):
        FoldBatchNorm.from_json({"pairs": [*many, ["conv7", "norm"]]})


# --- undoing


def failing(model: nn.Sequential) -> None:
    with undone(model):
        SelectChannels({"0": {"out": [0]}, "1": {"out": [0]}}).apply(model)
        nn.utils.parametrizations.weight_norm(model[0])
        del model[1]
        raise ZeroDivisionError


def test_a_change_that_fails_is_undone() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    before, weight = repr(model), model[0].weight
    with pytest.raises(ZeroDivisionError):
        failing(model)
    assert repr(model) == before
    assert model[0].weight is weight
    assert model[1].running_mean.shape == (4,)


def test_a_hook_can_be_removed_after_a_change_was_undone() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    calls = []
    handle = model[0].register_forward_hook(lambda *given: calls.append(given))
    with pytest.raises(ZeroDivisionError):
        failing(model)
    model(torch.ones(2, 3, 1, 1))
    handle.remove()
    model(torch.ones(2, 3, 1, 1))
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("write", "complete"),
    [
        (lambda weight: weight.clone().zero_(), True),
        (lambda weight: weight.detach().zero_(), False),
        (lambda weight: setattr(weight, "data", torch.zeros(4, 3, 1, 1)), False),
    ],
)
def test_weights_that_were_written_into_are_told(write: Any, complete: bool) -> None:
    def change(model: nn.Module) -> Undoing:
        with suppress(ZeroDivisionError), undone(model) as undoing:
            write(model.weight)
            raise ZeroDivisionError
        return undoing

    assert change(nn.Conv2d(3, 4, 1)).complete is complete
