"""What goes with removed channels: what torch-pruning itself removes, as an edit."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import pytest
import torch
import torch_pruning
from torch import Tensor, nn

from examples.vision import nets
from pantheon.compress.prune.dependency import prune_edit
from pantheon.errors import CompressionError, ConfigError


class Residual(nn.Module):
    """Two convolutions whose outputs are added."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.act, self.head = nn.PReLU(), nn.Conv2d(8, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        first = self.act(self.norm1(self.conv1(images)))
        made: Tensor = self.head(first + self.norm2(self.conv2(first)))
        return made


class Depthwise(nn.Module):
    """A depthwise convolution between two of 1 by 1, and a prelu with a slope a channel."""

    def __init__(self) -> None:
        super().__init__()
        self.expand, self.act = nn.Conv2d(3, 8, 1), nn.PReLU(8)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.project = nn.Conv2d(8, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        made: Tensor = self.project(self.depthwise(self.act(self.expand(images))))
        return made


class Grouped(nn.Module):
    """A convolution in two groups between two of one."""

    def __init__(self) -> None:
        super().__init__()
        self.expand, self.grouped = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=2)
        self.project = nn.Conv2d(8, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        made: Tensor = self.project(self.grouped(self.expand(images)))
        return made


class Squeezed(nn.Module):
    """Channels weighted by a squeeze and excitation, then flattened before a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)
        self.reduce, self.expand = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.head = nn.Linear(8 * 16, 2)

    def forward(self, images: Tensor) -> Tensor:
        made = self.conv(images)
        squeezed = made.mean((2, 3), keepdim=True)
        made = made * torch.sigmoid(self.expand(torch.relu(self.reduce(squeezed))))
        logits: Tensor = self.head(torch.flatten(made, 1))
        return logits


class Concatenated(nn.Module):
    """Two branches side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
        self.norm, self.head = nn.GroupNorm(1, 8), nn.ConvTranspose2d(8, 2, 2)

    def forward(self, images: Tensor) -> Tensor:
        made = torch.cat([self.left(images), self.right(images)], 1)
        answered: Tensor = self.head(self.norm(made))
        return answered


class Tokens(nn.Module):
    """Patches with positions, a layer norm and a block of two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 2, stride=2)
        self.places = nn.Parameter(torch.randn(1, 4, 8))
        self.norm = nn.LayerNorm(8)
        self.up, self.down, self.head = nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 2)

    def forward(self, images: Tensor) -> Tensor:
        made = self.patches(images).flatten(2).transpose(1, 2) + self.places
        made = made + self.down(torch.nn.functional.gelu(self.up(self.norm(made))))
        logits: Tensor = self.head(made.mean(1))
        return logits


IMAGES = torch.linspace(-1, 1, 2 * 3 * 4 * 4).reshape(2, 3, 4, 4)

CASES = [
    (Residual, {"conv1": [1, 5]}),
    (Residual, {"norm2": [0]}),
    (Depthwise, {"expand": [0, 7]}),
    (Depthwise, {"depthwise": [3]}),
    (Grouped, {"expand": [1, 5], "grouped": [0, 6]}),
    (Squeezed, {"conv": [2, 3], "reduce": [0]}),
    (Concatenated, {"left": [0], "right": [3]}),
    (Tokens, {"patches": [0, 1], "up": [4, 5, 15]}),
]


def theirs(model: nn.Module, images: Tensor, remove: Mapping[str, list[int]]) -> nn.Module:
    """The model as torch-pruning prunes it."""
    model = deepcopy(model).eval()
    graph = torch_pruning.DependencyGraph().build_dependency(model, images, verbose=False)
    for path, indices in remove.items():
        layer = model.get_submodule(path)
        prune = graph.get_pruner_of_module(layer).prune_out_channels
        graph.get_pruning_group(layer, prune, indices).prune()
    return model


def require_the_same(model: nn.Module, images: Tensor, remove: Mapping[str, list[int]]) -> None:
    expected = theirs(model, images[:1], remove)
    found = prune_edit(model, images[:1], remove).apply(deepcopy(model)).eval()
    assert {n: t.shape for n, t in found.state_dict().items()} == {
        n: t.shape for n, t in expected.state_dict().items()
    }
    assert sum(p.numel() for p in found.parameters()) < sum(p.numel() for p in model.parameters())
    with torch.no_grad():
        assert torch.equal(found(images), expected(images))


@pytest.mark.parametrize(("build", "remove"), CASES)
def test_the_edit_does_what_torch_pruning_does(build: Any, remove: dict[str, list[int]]) -> None:
    torch.manual_seed(0)
    require_the_same(build(), IMAGES, remove)


def removable(net: nn.Module) -> dict[str, list[int]]:
    """Channels of convolutions that do not depend on each other: the stem, and inner ones."""
    convs = {n: m for n, m in net.named_modules() if isinstance(m, nn.Conv2d) and m.groups == 1}
    first = next(iter(convs))
    inner = [n for n in convs if n.endswith(("expand.conv", "conv1", "reduce"))]
    names = dict.fromkeys([first, *inner[-3:]]) if inner else list(convs)[:4]
    return {name: [0, convs[name].out_channels - 1] for name in names}


@pytest.mark.parametrize("name", nets.__all__)
def test_the_nets_of_the_papers_are_pruned_as_torch_pruning_does(name: str) -> None:
    torch.manual_seed(0)
    net = getattr(nets, name)(classes=3, width=0.25)
    require_the_same(net, torch.randn(2, 3, 32, 32), removable(net))


def test_layers_that_are_added_lose_what_any_of_them_is_to_lose() -> None:
    edit = prune_edit(Residual(), IMAGES, {"conv1": [1], "conv2": [1, 6]})
    assert edit.modules["conv1"] == {"out": (0, 2, 3, 4, 5, 7)}
    assert edit.modules["conv2"] == {"out": (0, 2, 3, 4, 5, 7), "in": (0, 2, 3, 4, 5, 7)}
    assert edit.modules["head"] == {"in": (0, 2, 3, 4, 5, 7)}
    assert "act" not in edit.modules  # one slope for all channels


def test_the_model_is_not_changed() -> None:
    model = Residual().train()
    model.conv1.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        prune_edit(model, IMAGES, {"conv1": [1]})
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    assert model.training
    assert not model.conv1.weight.requires_grad
    assert all(m.training and not m._forward_hooks for m in model.modules())


def test_groups_that_would_lose_other_inputs_are_refused() -> None:
    with pytest.raises(ConfigError, match="'grouped', a Conv2d: on its side 'in' group 0 keeps 3"):
        prune_edit(Grouped(), IMAGES, {"expand": [1]})


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(2, 4), nn.Linear(3, 4)
        self.head, self.unused = nn.Linear(4, 1), nn.Linear(2, 2)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        made: Tensor = self.head(self.left(left) + self.right(right))
        return made


@pytest.mark.parametrize("kind", [tuple, list, dict])
def test_a_model_may_have_several_inputs(kind: Any) -> None:
    inputs = {"left": torch.ones(2, 2), "right": torch.ones(2, 3)}
    edit = prune_edit(Two(), inputs if kind is dict else kind(inputs.values()), {"left": [0]})
    assert edit.modules["right"] == {"out": (1, 2, 3)}


class Mixed(nn.Module):
    """Returns more than tensors, and holds more than trained numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(2, 4), nn.Linear(4, 1)
        self.table = nn.Parameter(torch.zeros(3, dtype=torch.int8), requires_grad=False)

    def forward(self, rows: Tensor) -> dict[str, Any]:
        made = self.down(self.up(rows))
        return {"loss": None, "rows": 3, "mask": rows > 0, "parts": [made]}


def test_a_model_may_return_and_hold_more_than_tensors_with_gradients() -> None:
    edit = prune_edit(Mixed(), torch.ones(1, 2), {"up": [1]})
    assert edit.modules == {"up": {"out": (0, 2, 3)}, "down": {"in": (0, 2, 3)}}


def test_dependencies_are_read_in_inference_mode_too() -> None:
    rows = torch.ones(1, 2)
    with torch.inference_mode():
        edit = prune_edit(Mixed(), rows, {"up": [1]})
    assert edit.modules["down"] == {"in": (0, 2, 3)}


def test_a_model_that_cannot_be_copied_is_named() -> None:
    model = Mixed()
    model.lock = threading.Lock()
    with pytest.raises(ConfigError, match="the Mixed cannot be copied: TypeError"):
        prune_edit(model, torch.ones(1, 2), {"up": [1]})


def test_what_torch_pruning_fails_on_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(torch_pruning.DependencyGraph, "_build_dependency", fail)
    with pytest.raises(CompressionError, match="of the Mixed: ZeroDivisionError"):
        prune_edit(Mixed(), torch.ones(1, 2), {"up": [1]})


@pytest.mark.parametrize(
    ("remove", "said"),
    [
        ({"lift": [0]}, "no module 'lift'; the nearest are 'left'"),
        ({"left": [4]}, "'left' has the output channels 0 to 3; found 4"),
        ({"left": [-1]}, "'left' has the output channels 0 to 3; found -1"),
        ({"left": [1, "x"]}, "the output channels 0 to 3; found 'x'"),
        ({"left": [0, 1, 2, 3]}, "'left' would lose all its 4 channels"),
        ({"left": [0, 1], "right": [2, 3]}, "would lose all its 4 channels"),
        ({"unused": [0]}, "'unused' has no part in what the model answers"),
        ({"": [0]}, "channels of a Two cannot be selected"),
        ({"left": []}, "nothing to select"),
        ({}, "nothing to select"),
    ],
)
def test_what_cannot_be_removed_is_named(remove: dict[str, list[Any]], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        prune_edit(Two(), (torch.ones(2, 2), torch.ones(2, 3)), remove)
    assert said in str(caught.value)


def test_a_dependent_layer_that_cannot_be_cut_is_named() -> None:
    class Attended(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.attention = nn.Linear(2, 4), nn.MultiheadAttention(4, 1)

        def forward(self, tokens: Tensor) -> Tensor:
            made = self.up(tokens)
            answered: Tensor = self.attention(made, made, made)[0]
            return answered

    with pytest.raises(ConfigError, match="'attention': channels of a MultiheadAttention cannot"):
        prune_edit(Attended(), torch.ones(3, 2, 2), {"up": [0]})


def test_a_model_that_would_not_run_is_refused() -> None:
    class Stubborn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 1), nn.Linear(64, 2)

        def forward(self, images: Tensor) -> Tensor:
            made: Tensor = self.head(self.conv(images).reshape(-1, 4 * 4 * 4))
            return made

    with pytest.raises(CompressionError, match="have it read them from its layers"):
        prune_edit(Stubborn(), IMAGES, {"conv": [0]})


def test_a_search_that_takes_too_long_is_given_up() -> None:
    with pytest.raises(CompressionError, match="or allow more seconds"):
        prune_edit(Residual(), IMAGES, {"conv1": [0]}, seconds=-1)


def test_inputs_that_the_model_does_not_take_are_named() -> None:
    with pytest.raises(ConfigError, match="cannot be called with the example inputs"):
        prune_edit(Residual(), torch.ones(1, 4, 4, 4), {"conv1": [0]})


def test_without_torch_pruning_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(ConfigError, match=r"pip install 'pantheon-kd\[compress\]'"):
        prune_edit(Residual(), IMAGES, {"conv1": [0]})
