"""Thresholds that follow or learn, by hand; and models that are trained through the rounding."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from pantheon.compress.artifact import Artifact
from pantheon.compress.quantize.calibrating import calibrate
from pantheon.compress.quantize.edit import RoundTensors, Weight
from pantheon.compress.quantize.grid import Grid
from pantheon.compress.quantize.observers import FRACTIONS, AbsMax, MovingAverage, RangeAbsMax
from pantheon.compress.quantize.rounding import (
    ROUNDERS,
    ClippingRounder,
    DynamicRounder,
    MovingRounder,
    RangeRounder,
    Rounder,
    StepRounder,
)
from pantheon.compress.quantize.scales import activation_scales, weight_scales
from pantheon.compress.quantize.simulated import frozen
from pantheon.compress.quantize.spots import Site, spots_of
from pantheon.compress.quantize.taps import Taps
from pantheon.compress.quantize.weights import (
    WEIGHT_ROUNDERS,
    LeastErrorWeightRounder,
    StepWeightRounder,
    original_weight,
    weight_rounders,
)
from tests.unit.test_quantize_model import IMAGES, Net, Stream

BATCHES = [torch.tensor(values) for values in ([1.0, -8.0], [2.0, 0.0], [-3.0, 1.0])]


def started(rounder: Rounder, threshold: float) -> Rounder:
    rounder.start(threshold)
    return rounder


# ---- following


def test_a_moving_average_goes_on_from_calibration() -> None:
    rounder = started(MovingRounder(Grid(8), rate=0.9), 5.0)
    observer = MovingAverage(0.9)
    observer.see(torch.tensor([5.0]))
    for batch in BATCHES:
        rounder(batch)
        observer.see(batch)
        assert float(rounder.threshold) == pytest.approx(observer.threshold(Grid(8)))
    by_hand = (0.9**3 * 5 + 0.9**2 * 8 + 0.9 * 2 + 3) / (0.9**3 + 0.9**2 + 0.9 + 1)
    assert float(rounder.threshold) == pytest.approx(by_hand)


def test_a_range_forgets_what_left_the_window() -> None:
    rounder, observer = started(RangeRounder(Grid(8), window=3), 9.0), RangeAbsMax(window=3)
    observer.see(torch.tensor([9.0]))
    found = []
    for batch in (*BATCHES, torch.tensor([1.0])):
        rounder(batch)
        observer.see(batch)
        assert float(rounder.threshold) == observer.threshold(Grid(8))
        found.append(float(rounder.threshold))
    assert found == [9.0, 9.0, 8.0, 3.0]


@pytest.mark.parametrize("name", ROUNDERS)
def test_evaluation_changes_nothing(name: str) -> None:
    rounder = started(ROUNDERS[name](Grid(8)), 2.0).eval()
    before = copy.deepcopy(rounder.state_dict())
    rounder(torch.tensor([50.0]))
    assert all(torch.equal(value, before[key]) for key, value in rounder.state_dict().items())


@pytest.mark.parametrize("name", [name for name in ROUNDERS if name != "dynamic"])
@pytest.mark.parametrize("grid", [Grid(8), Grid(3), Grid(4, signed=False)])
@torch.no_grad()
def test_all_round_alike_by_one_threshold(name: str, grid: Grid) -> None:
    values = torch.linspace(-3, 3, 101)
    rounder = started(ROUNDERS[name](grid), 2.0).eval()
    expected = grid.rounded(values, grid.scale(torch.tensor(2.0)))
    assert torch.allclose(rounder(values), expected, atol=1e-6)


# ---- extremes at run time


VALUES = {
    "both": [[-1.0, 0.3, 2.5, 0.07]],
    "positive": [[0.5, 3.0, 0.6, 0.0]],
    "negative": [[-0.5, -3.0, -0.6]],
    "alike": [[2.0, 2.0]],
    "zeros": [[0.0, 0.0]],
}


@pytest.mark.parametrize("name", VALUES)
def test_extremes_at_run_time_are_those_of_onnx(name: str) -> None:
    from onnx import TensorProto, helper
    from onnxruntime import InferenceSession

    values = torch.tensor(VALUES[name])
    integers = ["integers", "step", "zero"]
    graph = helper.make_graph(
        [
            helper.make_node("DynamicQuantizeLinear", ["x"], integers),
            helper.make_node("DequantizeLinear", integers, ["y"]),
        ],
        "rounding",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, values.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, values.shape)],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    session = InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = torch.from_numpy(session.run(None, {"x": values.numpy()})[0])
    for signed in (True, False):
        assert torch.allclose(DynamicRounder(Grid(8, signed))(values), expected, atol=1e-6)


def test_extremes_at_run_time_are_of_each_tensor_and_any_bits() -> None:
    rounder = started(DynamicRounder(Grid(2)), 1.0)
    values = torch.tensor([-1.0, 0.9, 2.0], requires_grad=True)
    rounded = rounder(values)  # Four integers, one of which is 0, from -1 to 2.
    assert rounded.tolist() == [-1.0, 1.0, 2.0]
    rounded.sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [1.0, 1.0, 1.0]
    assert rounder(torch.tensor([30.0, 11.0])).tolist() == [30.0, 10.0]
    assert rounder(torch.zeros(0)).shape == (0,)
    # What was followed, for a model that is frozen: 1, then 2, then 30.
    by_hand = (0.9**2 * 1 + 0.9 * 2 + 30) / (0.9**2 + 0.9 + 1)
    assert float(rounder.threshold) == pytest.approx(by_hand)


# ---- weights


WEIGHT = torch.tensor([[1.0, 0.45, 0.45, -0.45], [-2.0, 2.0, 0.0, 2.0]])


def test_a_weight_is_clipped_where_rounding_errs_least() -> None:
    rounder = LeastErrorWeightRounder(Grid(2), 0, WEIGHT.shape)
    rounder.start(WEIGHT)
    # Of three values of 0.45 and one of 1, all as one step t: the sum of squares is least at the
    # mean, 0.5875, and 0.58 is the nearest of the fractions. The others fit exactly.
    assert rounder.threshold.tolist() == pytest.approx([0.58, 2.0])
    assert torch.allclose(rounder(WEIGHT)[0], 0.58 * torch.tensor([1.0, 1.0, 1.0, -1.0]))
    rounder(7 * WEIGHT)
    assert rounder.threshold.tolist() == pytest.approx([0.58, 2.0]), "it stays in training"
    shared = LeastErrorWeightRounder(Grid(2), None, WEIGHT.shape)
    shared.start(WEIGHT)
    errors = [
        float((WEIGHT - Grid(2).rounded(WEIGHT, torch.tensor(2 * fraction))).square().sum())
        for fraction in FRACTIONS
    ]
    assert float(shared.threshold) == pytest.approx(2 * FRACTIONS[errors.index(min(errors))])


@pytest.mark.parametrize("dim", [0, 1, None])
def test_a_weights_step_learns_as_an_activations_does(dim: int | None) -> None:
    torch.manual_seed(0)
    weight = torch.randn(4, 6)
    rounder = StepWeightRounder(Grid(3), dim, weight.shape)
    rounder.start(weight)
    factors = torch.randn(4, 6)
    (rounder(weight) * factors).sum().backward()
    assert rounder.threshold.grad is not None
    rows = weight[None] if dim is None else weight.movedim(dim, 0)
    parts = factors[None] if dim is None else factors.movedim(dim, 0)
    for place, (row, part) in enumerate(zip(rows, parts, strict=True)):
        threshold = float(rounder.threshold.detach().reshape(-1)[place])
        alone = started(StepRounder(Grid(3)), threshold)
        (alone(row.flatten()[None]) * part.flatten()).sum().backward()
        assert alone.threshold.grad is not None
        found = float(rounder.threshold.grad.reshape(-1)[place])
        assert found == pytest.approx(float(alone.threshold.grad), rel=1e-4)


@pytest.mark.parametrize("by", WEIGHT_ROUNDERS)
def test_rounded_weights_are_kept_and_exported(by: str, tmp_path: Path) -> None:
    artifact = Artifact.make("tests.unit.test_quantize_model:Net")
    paths = spots_of(artifact.model, IMAGES).weights
    artifact.edit(RoundTensors((), {path: Weight(by=by) for path in paths}))
    for path in paths:
        layer = artifact.model.get_submodule(path)
        for each in weight_rounders(layer):
            each.start(original_weight(layer))
    with torch.no_grad():
        artifact.save(tmp_path)
        again = Artifact.load(tmp_path).model.eval()
        assert torch.equal(again(IMAGES), artifact.model.eval()(IMAGES))
    for path, scale in weight_scales(again).items():
        weight = again.get_submodule(path).weight
        assert isinstance(weight, Tensor)
        shape = [1] * weight.ndim
        shape[scale.axis or 0] = -1
        places = weight.detach().numpy() / scale.step.reshape(shape)
        assert np.abs(places).max() <= 127.001
        assert np.abs(places - places.round()).max() < 1e-3


# ---- learning


@pytest.mark.parametrize("signed", [True, False])
def test_pact_learns_from_what_it_clips(signed: bool) -> None:
    rounder = started(ClippingRounder(Grid(8, signed)), 1.0)
    values = torch.tensor([0.2, 1.5, -1.5, -0.3], requires_grad=True)
    weights = torch.tensor([1.0, 10.0, 100.0, 1000.0])
    (rounder(values) * weights).sum().backward()
    # The clipped values' gradients by their sign; below 0, unsigned integers clip at 0 itself.
    assert rounder.threshold.grad == (10.0 - 100.0 if signed else 10.0)
    assert values.grad is not None
    assert values.grad.tolist() == [1.0, 0.0, 0.0, 1000.0 if signed else 0.0]


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_lsq_has_the_papers_gradient(bits: int) -> None:
    grid = Grid(bits)
    step, values = 0.5, torch.tensor([[0.3, -0.7, 400.0, -400.0, 0.1]], requires_grad=True)
    rounder = started(StepRounder(grid), step * grid.highest)
    (rounder(values)).sum().backward()
    places = [v / step for v in values.detach()[0].tolist()]
    inside = [grid.lowest <= v <= grid.highest for v in places]
    own = [
        round(v) - v if here else math.copysign(grid.highest, v)
        for v, here in zip(places, inside, strict=True)
    ]
    factor = 1 / math.sqrt(5 * grid.highest)
    # A step is the threshold divided by the highest integer.
    assert rounder.threshold.grad is not None
    assert float(rounder.threshold.grad) == pytest.approx(
        sum(own) * factor / grid.highest, abs=1e-6
    )
    assert values.grad is not None
    assert values.grad[0].tolist() == pytest.approx([float(here) for here in inside], abs=1e-5)


def test_a_step_that_learns_finds_where_to_clip() -> None:
    torch.manual_seed(0)
    values = torch.randn(4, 2000)
    rounder = started(StepRounder(Grid(2)), 4.0)
    optimizer = torch.optim.Adam(rounder.parameters(), lr=0.05)
    errors = []
    for _ in range(100):
        error = F.mse_loss(rounder(values), values)
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < 0.5 * errors[0]
    assert 0.5 < rounder.threshold.item() < 2.5


# ---- models


def made(
    bits: int, by: str = "fixed", images: Tensor = IMAGES, net: nn.Module | None = None
) -> Artifact:
    """A copy of a net that rounds to ``bits``, calibrated with ``images``."""
    net = net or Net()
    artifact = Artifact.make(f"{type(net).__module__}:{type(net).__qualname__}")
    artifact.model.load_state_dict(net.state_dict())
    spots = spots_of(artifact.model, images[:4])
    found = calibrate(artifact.model, spots, Stream(images), AbsMax, bits=bits, by=by)
    artifact.edit(RoundTensors(found.activations, dict.fromkeys(spots.weights, Weight(bits))))
    for rounder, threshold in zip(rounders(artifact.model), found.thresholds, strict=True):
        rounder.start(threshold)
    return artifact


def rounders(model: nn.Module) -> list[Rounder]:
    return [m for m in model.modules() if isinstance(m, Rounder)]


class Digits(nn.Module):
    """Two convolutions and a head, for images [rows, 1, 8, 8]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.conv = nn.Conv2d(8, 8, 3, padding=1, stride=2)
        self.head = nn.Linear(128, 10)

    def forward(self, images: Tensor) -> Tensor:
        made: Tensor = self.head(F.relu(self.conv(F.relu(self.stem(images)))).flatten(1))
        return made


@pytest.fixture(scope="module")
def digits() -> tuple[nn.Module, Tensor, Tensor]:
    """A net trained on written digits; the images it has seen, and others."""
    torch.manual_seed(0)
    found = load_digits()
    rows = torch.randperm(len(found.images))
    images = torch.tensor(found.images, dtype=torch.float32)[rows, None] / 16
    labels, seen = torch.tensor(found.target)[rows], 1200
    net = tuned(Digits(), images[:seen], labels[:seen], steps=200, rate=1e-2)
    assert float((net(images[seen:]).argmax(1) == labels[seen:]).float().mean()) > 0.9
    return net, images[:seen], images[seen:]


def divergence(model: nn.Module, teacher: Tensor, images: Tensor) -> Tensor:
    found = F.log_softmax(model(images), 1)
    return F.kl_div(found, F.log_softmax(teacher, 1), log_target=True, reduction="batchmean")


def tuned(
    model: nn.Module, images: Tensor, truth: Tensor, *, steps: int = 100, rate: float = 1e-3
) -> nn.Module:
    """Trained to answer what a teacher does, or with labels."""
    optimizer = torch.optim.Adam(model.train().parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        rows = torch.randperm(len(images), generator=generator)[:128]
        if truth.is_floating_point():
            loss = divergence(model, truth[rows], images[rows])
        else:
            loss = F.cross_entropy(model(images[rows]), truth[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize("by", ROUNDERS)
def test_training_through_the_rounding_agrees_with_the_teacher_more(
    digits: tuple[nn.Module, Tensor, Tensor], by: str
) -> None:
    net, images, held = digits
    with torch.no_grad():
        teacher, truth = net(images), net(held)
    found = {}
    for bits in (8, 4):
        artifact = made(bits, by, images[:64], net)
        before = copy.deepcopy(artifact.model).eval()
        after = tuned(artifact.model, images, teacher)
        with torch.no_grad():
            found[bits] = [float(divergence(m, truth, held)) for m in (before, after)]
    assert found[4][1] < 0.8 * found[4][0], "4 bits: better than without training"
    assert found[8][1] <= found[8][0] + 0.02 * found[4][0], "8 bits: at least as good"


def artifact_sites(model: nn.Module) -> set[Site]:
    taps = model.quantizers
    assert isinstance(taps, Taps)
    return taps.sites


@pytest.mark.parametrize("by", ROUNDERS)
@torch.no_grad()
def test_what_was_learned_is_kept_and_exported(by: str, tmp_path: Path) -> None:
    artifact = made(8, by)
    artifact.model.train()
    artifact.model(2 * IMAGES)
    artifact.save(tmp_path)
    again, model = Artifact.load(tmp_path).model.eval(), artifact.model.eval()
    assert torch.equal(again(IMAGES), model(IMAGES))
    assert activation_scales(model).keys() == (set() if by == "dynamic" else artifact_sites(model))
    steps = [float(scale.step) for scale in activation_scales(frozen(model)).values()]
    assert steps == pytest.approx(
        [float(each.threshold / 127) for each in rounders(model)[:2]]
        + [float(each.threshold / 255) for each in rounders(model)[2:]]
    )
