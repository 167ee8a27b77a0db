"""Biases as kernels add them: whole numbers of steps, those of what a layer is given and weighs."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from pantheon.compress.export import Export
from pantheon.compress.quantize.calibrating import calibrate
from pantheon.compress.quantize.correcting import correct_biases
from pantheon.compress.quantize.edit import Activation, RoundTensors, Weight
from pantheon.compress.quantize.grid import Grid
from pantheon.compress.quantize.integers import write_integers
from pantheon.compress.quantize.observers import AbsMax
from pantheon.compress.quantize.rounding import Rounder
from pantheon.compress.quantize.simulated import frozen, plain
from pantheon.compress.quantize.spots import INPUT, Site, spots_of
from pantheon.compress.quantize.weights import original_bias
from pantheon.errors import ConfigError
from tests.unit.test_quantize_model import Stream

INPUTS = torch.tensor([[100.0, -3.0, 50.0], [8.0, 90.0, -1.0]])


def coarse(by: str = "fixed", weights_by: str = "abs_max", zeros: bool = False) -> nn.Module:
    """A linear layer whose biases are a few steps: inputs are large, and weights not small."""
    net = nn.Sequential(nn.Linear(3, 2))
    weight = torch.tensor([[2.0, -1.0, 0.5], [0.25, 0.75, -1.0]])
    if zeros:
        weight[1] = 0
    net[0].weight.data.copy_(weight)
    net[0].bias.data.copy_(torch.tensor([0.02, -0.0123]))
    found = calibrate(net, spots_of(net, INPUTS), Stream(INPUTS), AbsMax, by=by)
    # Of 7 bits, so that no processor cuts off sums of two products.
    made = RoundTensors(found.activations, {"0": Weight(7, by=weights_by, given=0)}).apply(net)
    made.quantizers.each[0].start(found.thresholds[0])
    return made.eval()


def exported(model: nn.Module, folder: Path) -> Tensor:
    """What the file of integers answers."""
    from onnxruntime import InferenceSession

    Export().write(plain(model), INPUTS, folder / "model.onnx")
    write_integers(model, INPUTS, folder / "model.onnx", folder / "model.int8.onnx")
    made = InferenceSession(folder / "model.int8.onnx", providers=["CPUExecutionProvider"])
    return torch.from_numpy(made.run(None, {made.get_inputs()[0].name: INPUTS.numpy()})[0])


def bias(model: nn.Module) -> Tensor:
    found: Tensor = model.get_submodule("0").bias.detach()
    return found


def test_a_bias_is_a_whole_number_of_steps() -> None:
    # 100 / 127 of the inputs; 2 / 63 and 1 / 63 of the weights.
    steps = torch.tensor([2.0, 1.0], dtype=torch.float64) / 63 * 100 / 127
    expected = torch.tensor([1, -1]) * steps  # of 0.80 and -0.98 steps
    assert torch.allclose(bias(coarse()).double(), expected, rtol=1e-6)


@torch.no_grad()
def test_kernels_add_the_bias_that_the_model_has(tmp_path: Path) -> None:
    model = coarse()
    answer = exported(model, tmp_path)
    assert torch.allclose(answer, model(INPUTS), atol=1e-4)
    graph = onnx.load(tmp_path / "model.int8.onnx").graph
    kept = {tensor.name: len(tensor.dims) for tensor in graph.initializer if tensor.data_type == 6}
    assert list(kept.values()) == [1], "no zeros are kept beside the bias"
    model.get_submodule("0").parametrizations.bias[0] = nn.Identity()
    assert not torch.allclose(answer, model(INPUTS), atol=1e-3)


@torch.no_grad()
def test_a_bias_without_weights_is_not_lost(tmp_path: Path) -> None:
    model = coarse(zeros=True)
    assert bias(model)[1] == pytest.approx(-0.0123, rel=1e-6)
    original_bias(model.get_submodule("0"))[1] = 0  # type: ignore[index]
    model.quantizers.each[0].start(1e-30)
    assert bias(model)[1] == 0
    model = coarse(zeros=True)
    assert torch.allclose(exported(model, tmp_path), model(INPUTS), atol=1e-4)


@torch.no_grad()
def test_biases_of_what_is_rounded_at_run_time_stay_real_until_it_is_frozen(tmp_path: Path) -> None:
    model = coarse("dynamic")
    assert torch.equal(bias(model), torch.tensor([0.02, -0.0123]))
    assert torch.allclose(exported(model, tmp_path), model(INPUTS), atol=1e-4)
    assert torch.equal(bias(frozen(model)), bias(coarse()))


@pytest.mark.parametrize("weights_by", ["abs_max", "mse", "lsq"])
def test_a_bias_learns_as_if_it_were_not_rounded(weights_by: str) -> None:
    model = coarse("lsq", weights_by)
    model(INPUTS).sum().backward()
    own = original_bias(model.get_submodule("0"))
    assert own is not None
    assert torch.equal(own.grad, torch.tensor([2.0, 2.0]))


def test_a_copy_has_its_own_scales() -> None:
    model = coarse()
    before, other = bias(model), copy.deepcopy(model)
    other.quantizers.each[0].start(1000.0)
    assert torch.equal(bias(model), before)
    assert not torch.equal(bias(other), before)


def test_without_the_rounding_it_is_as_it_was() -> None:
    state = plain(coarse()).state_dict()
    assert list(state) == ["0.weight", "0.bias"]
    assert torch.equal(state["0.bias"], torch.tensor([0.02, -0.0123]))


def test_corrections_shift_what_is_rounded() -> None:
    model = coarse()
    real, own = plain(model), original_bias(model.get_submodule("0"))
    assert own is not None
    before = own.detach().clone()
    found = correct_biases(model, ["0"], Stream(INPUTS))
    assert float((own.detach() - before).abs().mean()) == pytest.approx(found["0"], rel=1e-5)
    # What is not rounded has the mean of the real model; what is, is half a step away at most.
    with torch.no_grad():
        apart = (model(INPUTS) - real(INPUTS)).mean(0) - (bias(model) - own)
        step = model.get_submodule("0").parametrizations.bias[0].step()
    assert torch.allclose(apart, torch.zeros(2), atol=1e-4)
    assert ((bias(model) - own).abs() < 0.51 * step).all()
    assert list(dict(model.named_parameters())) == [
        "0.parametrizations.weight.original",
        "0.parametrizations.bias.original",
    ]


class Twice(nn.Module):
    """Calls a layer with two tensors that are rounded by themselves."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.last = layer, nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.last(self.layer(self.layer(x).relu()).relu())
        return made


@pytest.mark.parametrize(
    ("model", "inputs", "given"),
    [
        (nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)), INPUTS, {"0": 0, "2": 1}),
        (nn.Sequential(nn.Linear(3, 2)), INPUTS[None], {}),
        (nn.Sequential(nn.Conv1d(2, 4, 1)), INPUTS[None], {"0": 0}),
        (Twice(nn.Linear(3, 3)), INPUTS, {"last": 2}),
    ],
    ids=["each by its own", "a product and a sum", "of a convolution", "called with two"],
)
def test_what_a_bias_is_rounded_by(model: nn.Module, inputs: Any, given: dict[str, int]) -> None:
    assert spots_of(model, inputs).given == given


def test_what_cannot_be_is_named() -> None:
    activation = Activation((Site("", INPUT),), Grid())
    with pytest.raises(ConfigError, match="given of the weight of 0 is 1; there are 1 quantizers"):
        RoundTensors([activation], {"0": Weight(given=1)})
    net = nn.Sequential(nn.Linear(2, 2))
    nn.utils.parametrize.register_parametrization(net[0], "bias", nn.Identity())
    with pytest.raises(ConfigError, match="the bias of '0' is parametrized; remove that first"):
        RoundTensors([activation], {"0": Weight(given=0)}).apply(net)


def test_layers_without_a_bias_have_none() -> None:
    net = nn.Sequential(nn.Linear(3, 2, bias=False))
    edit = RoundTensors([Activation((Site("", INPUT),), Grid())], {"0": Weight(given=0)})
    assert edit.apply(net).get_submodule("0").bias is None
    assert isinstance(net.quantizers.each[0], Rounder)
    assert plain(net).get_submodule("0").bias is None
