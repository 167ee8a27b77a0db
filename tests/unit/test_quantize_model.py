"""Models that compute as if with integers: calibrated, kept, copied, trained."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pantheon.compress.artifact import Artifact
from pantheon.compress.quantize.calibrating import Calibration, calibrate
from pantheon.compress.quantize.edit import Activation, RoundTensors, Weight
from pantheon.compress.quantize.grid import Grid
from pantheon.compress.quantize.observers import AbsMax
from pantheon.compress.quantize.rounding import Rounder
from pantheon.compress.quantize.spots import Site, spots_of
from pantheon.compress.quantize.taps import HOLDER, unreached
from pantheon.errors import CompressionError, ConfigError

IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    """A residual block with functions in its code."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.act(self.conv(x)))


class Net(nn.Module):
    """A stem, two blocks and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.stem, self.blocks = nn.Conv2d(3, 4, 1), nn.Sequential(Block(), Block())
        self.head = nn.Linear(4, 5)

    def forward(self, images: Tensor) -> Tensor:
        made: Tensor = self.head(self.blocks(self.stem(images)).mean((2, 3)))
        return made


class Stream(list[Any]):
    """Batches of images; the last rows of each may be padding."""

    def __init__(self, *images: Any, padding: int = 0) -> None:
        super().__init__(self._batch(each, padding) for each in images)

    @staticmethod
    def _batch(images: Any, padding: int) -> Any:
        rows = len(next(iter(images.values())) if isinstance(images, dict) else images)
        mask = torch.arange(rows) < rows - padding
        batch = SimpleNamespace(inputs=images, mask=mask)
        batch.to = lambda device: batch
        return batch


def calibrated(model: nn.Module, stream: Any = None, **options: Any) -> Calibration:
    stream = Stream(IMAGES) if stream is None else stream
    return calibrate(model, spots_of(model, IMAGES), stream, AbsMax, **options)


def quantized(bits: int = 8, per_channel: bool = True) -> Artifact:
    artifact = Artifact.make(f"{__name__}:Net")
    spots, found = spots_of(artifact.model, IMAGES), calibrated(artifact.model, bits=bits)
    weights = {p: Weight(bits, per_channel, given=spots.given[p]) for p in spots.weights}
    artifact.edit(RoundTensors(found.activations, weights))
    for rounder, threshold in zip(rounders(artifact.model), found.thresholds, strict=True):
        rounder.start(threshold)
    return artifact


def rounders(model: nn.Module) -> list[Rounder]:
    return [m for m in model.modules() if isinstance(m, Rounder)]


def by_hand(net: Net, thresholds: list[float], bits: int) -> Tensor:
    """What the net answers with rounded tensors, written down without any of our modules."""
    found, steps = iter(thresholds), dict[int, float]()

    def act(x: Tensor, signed: bool = False) -> Tensor:
        top = 2 ** (bits - signed) - 1
        scale = next(found) / top
        made = (x / scale).round().clamp(-top if signed else 0, top) * scale
        steps[id(made)] = scale
        return made

    def rounded(layer: nn.Module, given: Tensor) -> tuple[Tensor, Tensor]:
        top, sizes = 2 ** (bits - 1) - 1, layer.weight.detach().flatten(1).abs().amax(1)
        scale = (sizes / top).reshape(-1, *[1] * (layer.weight.ndim - 1))
        step = sizes / top * steps[id(given)]
        bias = (layer.bias.detach() / step).round() * step
        return (layer.weight.detach() / scale).round().clamp(-top, top) * scale, bias

    x = act(IMAGES, signed=True)
    x = act(F.conv2d(x, *rounded(net.stem, x)), signed=True)
    for block in net.blocks:
        inner = act(F.conv2d(x, *rounded(block.conv, x), padding=1).relu())
        x = act((x + inner).relu())
    x = act(x.mean((2, 3)))
    return F.linear(x, *rounded(net.head, x))


# ---- what it computes


@pytest.mark.parametrize("bits", [8, 4])
@torch.no_grad()
def test_it_computes_what_rounded_tensors_come_to(bits: int) -> None:
    artifact, plain = quantized(bits), Net()
    found = artifact.model(IMAGES)
    thresholds = [float(each.threshold) for each in rounders(artifact.model)]
    assert torch.allclose(found, by_hand(plain, thresholds, bits), atol=1e-5)
    error = float((found - plain(IMAGES)).abs().max())
    assert 0 < error < {8: 0.05, 4: 0.8}[bits] * float(plain(IMAGES).abs().max())
    assert not unreached(artifact.model)


@torch.no_grad()
def test_one_scale_for_a_layer_is_coarser_than_one_for_each_channel() -> None:
    whole = Net()(IMAGES)
    apart = [
        float((quantized(4, per).model(IMAGES) - whole).square().sum()) for per in (True, False)
    ]
    assert apart[0] < apart[1]


def test_paths_hooks_and_weights_stay() -> None:
    plain, model = Net(), quantized().model
    paths = [path for path, _ in plain.named_modules()]
    assert set(paths) < {path for path, _ in model.named_modules()}
    seen: list[Tensor] = []
    model.get_submodule("blocks.0").register_forward_hook(lambda m, i, o: seen.append(o))
    model(IMAGES)
    scale = rounders(model)[3].scale
    steps = seen[0] / scale
    assert torch.allclose(steps, steps.round(), atol=1e-3), "a feature is what the next layer reads"


# ---- kept and copied


@torch.no_grad()
def test_an_artifact_of_it_answers_the_same_bits(tmp_path: Path) -> None:
    artifact = quantized()
    artifact.save(tmp_path / "kept")
    again = Artifact.load(tmp_path / "kept")
    assert torch.equal(again.model(IMAGES), artifact.model(IMAGES))
    assert again.digest() == artifact.digest()


@torch.no_grad()
def test_a_copy_has_quantizers_of_its_own() -> None:
    model = quantized().model
    before, copied = model(IMAGES), copy.deepcopy(model)
    for rounder in rounders(copied):
        rounder.threshold.fill_(0.01)
    assert not torch.equal(copied(IMAGES), before)
    assert torch.equal(model(IMAGES), before)


@torch.no_grad()
def test_threads_do_not_disturb_each_other() -> None:
    model = quantized().model
    expected = [model(IMAGES[i : i + 1]) for i in range(4)]
    found: dict[tuple[int, int], Tensor] = {}

    def run(i: int) -> None:
        with torch.no_grad():
            for n in range(20):
                found[i, n] = model(IMAGES[i : i + 1])

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 80
    assert all(torch.equal(value, expected[i]) for (i, _), value in found.items())


@torch.no_grad()
def test_a_run_that_fails_leaves_nothing_behind() -> None:
    model = quantized().model
    before = model(IMAGES)
    with pytest.raises(RuntimeError):
        model(torch.ones(1, 7, 8, 8))
    assert torch.equal(model(IMAGES), before)
    assert model.get_submodule(HOLDER).run is None


@torch.no_grad()
def test_a_part_that_is_called_alone_is_not_rounded() -> None:
    model = quantized().model
    inputs = torch.randn(1, 4, 8, 8)
    block = copy.deepcopy(Net().blocks[0])
    for name in ("weight", "bias"):
        made = getattr(model.get_submodule("blocks.0.conv"), name)
        getattr(block.conv, name).data = made.detach()
    assert torch.equal(model.blocks[0](inputs), block(inputs))  # type: ignore[operator, index]


def test_it_learns_through_the_rounding() -> None:
    model = quantized(4).model
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    targets = torch.arange(4)
    losses = []
    for _ in range(100):
        loss = F.cross_entropy(model(IMAGES), targets)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


# ---- calibration


def test_thresholds_are_those_of_all_batches_without_padding() -> None:
    images = torch.cat([IMAGES, torch.full((1, 3, 8, 8), 99.0)])
    found = calibrated(Net(), Stream(images, 2 * images, padding=1))
    assert found.samples == 8
    assert found.thresholds[0] == pytest.approx(2 * float(IMAGES.abs().max()))
    assert [each.grid.signed for each in found.activations] == [True, True, *[False] * 5]


def test_calibration_leaves_the_model_alone() -> None:
    model = Net()
    state = copy.deepcopy(model.state_dict())
    calibrated(model)
    assert not hasattr(model, HOLDER)
    assert not model._forward_hooks
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("stream", [Stream(), Stream(IMAGES, padding=4)])
def test_no_samples_are_an_error(stream: Any) -> None:
    with pytest.raises(ConfigError, match="calibration was given no samples"):
        calibrated(Net(), stream)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_named(wrong: float) -> None:
    with pytest.raises(CompressionError, match=r"^:input has values that are not finite"):
        calibrated(Net(), Stream(torch.full((1, 3, 8, 8), wrong)))
    model = Net()
    nn.init.constant_(model.blocks[1].conv.bias, wrong)  # type: ignore[index, union-attr]
    with pytest.raises(CompressionError, match=r"^blocks.1.act has values that are not finite"):
        calibrated(model)


def test_a_tensor_of_zeros_is_named() -> None:
    model = Net()
    nn.init.constant_(model.blocks[1].conv.bias, -1e6)  # type: ignore[index, union-attr]
    with pytest.raises(CompressionError, match=r"^blocks.1.act is 0 for all 4 samples"):
        calibrated(model)


# ---- what cannot be


def test_a_quantized_model_is_not_quantized_again() -> None:
    artifact = quantized()
    with pytest.raises(ConfigError, match="the weight of 'stem' is parametrized"):
        artifact.edit(RoundTensors((), {"stem": Weight()}))
    with pytest.raises(ConfigError, match="it is quantized already"):
        artifact.edit(RoundTensors([Activation((Site("stem"),), Grid())], {}))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: RoundTensors((), {}), "nothing to quantize"),
        (lambda: RoundTensors([Activation((Site("a"),), Grid())] * 2, {}), "a is rounded by two"),
        (lambda: RoundTensors((), {"blocks": Weight()}).apply(Net()), "'blocks' is a Sequential"),
        (lambda: RoundTensors((), {"stam": Weight()}).apply(Net()), "no module 'stam'"),
        (
            lambda: RoundTensors([Activation((Site("stam"),), Grid())], {}).apply(Net()),
            "no module 'stam'",
        ),
    ],
)
def test_edits_that_do_not_fit_are_named(make: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make()


def wires() -> Iterator[tuple[Any, str]]:
    activation = {"sites": [["stem", "", 0]], "bits": 8, "signed": True, "by": "fixed"}
    weight = {"bits": 8, "per_channel": True, "by": "abs_max", "given": None}
    good = {"activations": [activation], "weights": {"stem": weight}}
    yield good | {"more": 1}, "unknown key 'more'"
    yield {"weights": {}}, "no key 'activations'"
    yield good | {"activations": {}}, "activations is {}; expected a list"
    yield good | {"activations": [activation | {"sites": []}]}, "sites is .*; expected a list, not"
    yield good | {"activations": [activation | {"sites": [["stem"]]}]}, r"expected \[path, call"
    yield good | {"activations": [activation | {"bits": 9}]}, "bits is 9; expected 2 to 8"
    yield good | {"activations": [activation | {"signed": 1}]}, "signed is 1; expected true or"
    yield good | {"activations": [activation | {"by": "max"}]}, "by is 'max'; expected one of fixed"
    yield good | {"weights": {"stem": weight | {"bits": 0}}}, "bits is 0; expected 2 to 8"
    yield good | {"weights": {"stem": {"bits": 8, "by": "lsq", "given": 0}}}, "no key 'per_channel'"
    yield good | {"weights": {"stem": weight | {"by": "max"}}}, "by is 'max'; expected one of abs_m"
    yield good | {"weights": {"stem": weight | {"given": 1.0}}}, "given is 1.0; expected an integer"
    yield good | {"weights": {"stem": weight | {"given": 1}}}, "given of the weight of stem is 1"


@pytest.mark.parametrize(("wire", "said"), list(wires()))
def test_json_that_is_no_edit_is_refused(wire: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        RoundTensors.from_json(wire)


def test_json_of_an_edit_is_read_back() -> None:
    edit = RoundTensors(
        [Activation((Site("a", "add", 1), Site("b")), Grid(4, signed=False), "lsq")],
        {"c": Weight(3, per_channel=False, by="lsq"), "d": Weight(given=0)},
    )
    assert RoundTensors.from_json(edit.to_json()) == edit


def test_a_site_that_is_never_met_is_named() -> None:
    model = Net()
    spots = spots_of(model, IMAGES)
    wrong = replace(spots.activations[1], sites=(Site("stem", "", 1),))
    with pytest.raises(CompressionError, match="the Net makes no tensor at stem@1"):
        calibrate(model, replace(spots, activations=(wrong,)), Stream(IMAGES), AbsMax)
