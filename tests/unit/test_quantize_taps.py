"""Tensors are rounded where odd models make them, once, by the quantizer that is theirs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from pantheon.compress.quantize.calibrating import calibrate, met_spots
from pantheon.compress.quantize.edit import RoundTensors, Weight
from pantheon.compress.quantize.observers import Percentile
from pantheon.compress.quantize.rounding import Rounder
from pantheon.compress.quantize.spots import Site, Spots
from pantheon.compress.quantize.taps import tap, unreached
from pantheon.errors import CompressionError
from tests.unit.test_quantize_model import Stream
from tests.unit.test_quantize_spots import Net

IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def quantized(model: nn.Module, inputs: Any = IMAGES) -> tuple[nn.Module, Spots]:
    spots = met_spots(model, inputs)
    stream = Stream(inputs)
    found = calibrate(model, spots, stream, Percentile)
    made = RoundTensors(found.activations, dict.fromkeys(spots.weights, Weight()))
    rounded = made.apply(copy.deepcopy(model)).eval()
    rounders = [m for m in rounded.modules() if isinstance(m, Rounder)]
    for rounder, threshold in zip(rounders, found.thresholds, strict=True):
        rounder.start(threshold)
    return rounded, spots


def seen(model: nn.Module, spots: Spots, inputs: Any = IMAGES) -> dict[str, list[Tensor]]:
    """What passes each quantizer in one run."""
    found: dict[str, list[Tensor]] = {spot.name: [] for spot in spots.activations}
    rounders = [m for m in model.modules() if isinstance(m, Rounder)]
    handles = [
        rounder.register_forward_pre_hook(
            lambda m, args, name=spot.name: found[name].append(args[0].detach())
        )
        for spot, rounder in zip(spots.activations, rounders, strict=True)
    ]
    with torch.no_grad():
        model(inputs)
    for handle in handles:
        handle.remove()
    return found


def twice(x: Tensor) -> Tensor:
    return torch.clamp(x, -0.3, 0.3) / 2


@pytest.mark.parametrize(
    "way",
    [
        lambda net, x: net.second(twice(net.first(x))),
        lambda net, x: net.third(net.first(x).abs() / 2 - net.second(x).clamp(-0.3, 0.3)),
        lambda net, x: net.second(net.first(x).div(3) * net.third(x).abs()),
    ],
)
@torch.no_grad()
def test_what_quantizers_compute_is_not_taken_for_the_models(way: Any) -> None:
    net = Net(way).eval()
    model, spots = quantized(net)
    for name, tensors in seen(model, spots).items():
        assert [x.shape for x in tensors] == [IMAGES.shape], name
    error = float((model(IMAGES) - net(IMAGES)).abs().max())
    assert error < 0.06 * float(net(IMAGES).abs().max())


class Twice(nn.Module):
    """A module without parts whose code has several calls of one name."""

    def forward(self, x: Tensor) -> Tensor:
        return (x + x.sigmoid()) + x.tanh()


@torch.no_grad()
def test_a_module_without_parts_that_is_called_twice_is_numbered_alike() -> None:
    net = Net(lambda net, x: net.third(net.act(net.second(net.act(net.first(x))))))
    net.act = Twice()  # type: ignore[assignment]
    model, spots = quantized(net.eval())
    assert all(len(tensors) == 1 for tensors in seen(model, spots).values())
    names = [spot.name for spot in spots.activations]
    assert {"act", "act@1", "act:add", "act:add@2"} <= set(names)


def dropped(net: Net, x: Tensor) -> Tensor:
    one, two = net.first(x), net.second(x)
    two.add_(one)
    F.relu_(two)
    answer: Tensor = net.third(two)
    return answer


@torch.no_grad()
def test_what_is_changed_in_place_is_rounded_for_those_who_have_it() -> None:
    model, spots = quantized(Net(dropped).eval())
    assert ":relu" in [spot.name for spot in spots.activations]
    read: list[Tensor] = []
    place = [spot.name for spot in spots.activations].index(":relu")
    scale = [m for m in model.modules() if isinstance(m, Rounder)][place].scale

    class Reading(TorchFunctionMode):
        """Below the taps' own: sees what functions are given in the end."""

        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func is torch.conv2d:
                read.append(args[0])
            return func(*args, **(kwargs or {}))

    with Reading():
        model(IMAGES)
    steps = read[-1] / scale
    assert torch.allclose(steps, steps.round(), atol=1e-3)


class Two(nn.Module):
    """Two inputs of very different sizes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        answer: Tensor = self.one(left) + self.two(right)
        return answer


@torch.no_grad()
def test_inputs_have_their_scales_however_they_are_given() -> None:
    left, right = IMAGES, 100 * IMAGES.abs()
    net = Two().eval()
    model, _ = quantized(net, {"right": right, "left": left})
    found = [
        model(left, right),
        model(left, right=right),
        model(right=right, left=left),
        model(left=left, right=right),
    ]
    assert all(torch.equal(each, found[0]) for each in found)
    error = float((found[0] - net(left, right)).abs().max())
    assert error < 0.05 * float(net(left, right).abs().max())


@pytest.mark.parametrize(
    ("way", "name"),
    [
        (lambda net, x: net.third(F.relu6(net.first(x) + net.second(x))), ":relu6"),
        (lambda net, x: net.third(torch.concat([net.first(x), net.second(x)], 2)), "first"),
        (lambda net, x: net.second(F.interpolate(net.first(x), scale_factor=2)), ":interpolate"),
        (lambda net, x: net.second(net.first(x) * F.relu6(net.third(x) + 3) / 6), ":div"),
    ],
)
def test_functions_are_known_by_the_names_that_they_have_in_code(way: Any, name: str) -> None:
    spots = met_spots(Net(way).eval(), IMAGES)
    assert name in [spot.name for spot in spots.activations]


def spatial(net: Net, x: Tensor) -> Tensor:
    both = [x.mean(1, keepdim=True), torch.max(x, 1, keepdim=True)[0], x[:, :1]]
    answer: Tensor = net.second(net.first(torch.cat(both, 1)))
    return answer


def test_tensors_that_the_code_never_has_alone_are_left_with_their_readers() -> None:
    spots = met_spots(Net(spatial).eval(), IMAGES)
    assert {":part", ":cat"} <= {str(site) for site in spots.float}
    assert spots.weights == ("first", "second")
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    spots = met_spots(encoder, torch.randn(2, 5, 8))
    assert {"linear1", "linear2"} <= set(spots.weights)


class Backwards(nn.Sequential):
    """Goes over its parts from the end."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self[:-1]:
            x = layer(x)
        answer: Tensor = self[-1](x.mean((2, 3)))
        return answer


def test_a_model_that_cannot_have_a_part_more_is_named() -> None:
    model = Backwards(nn.Conv2d(3, 5, 1), nn.Linear(5, 2)).eval()
    with pytest.raises(CompressionError, match="the Backwards does not run with a part more"):
        met_spots(model, IMAGES)
    wrapped = nn.Sequential(model)
    assert met_spots(wrapped, IMAGES).weights == ("0.0", "0.1")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@torch.no_grad()
def test_other_dtypes_stay_what_they_are(dtype: torch.dtype) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)).to(dtype).eval()
    model, _ = quantized(net, IMAGES.to(dtype))
    found, expected = model(IMAGES.to(dtype)), net(IMAGES.to(dtype))
    assert found.dtype == dtype
    assert float((found - expected).abs().max()) < 0.1 * float(expected.abs().max())


@pytest.mark.parametrize("root", [nn.Sequential, lambda *x: nn.Sequential(nn.Sequential(*x))])
@torch.no_grad()
def test_roots_that_call_their_parts_in_order(root: Callable[..., nn.Module]) -> None:
    model = root(nn.Linear(2, 2), nn.ReLU())
    expected = model(torch.ones(1, 2))
    path = next(p for p, m in model.named_modules() if isinstance(m, nn.ReLU))
    tapped = tap(model, [[Site(path)]], [nn.Identity()])
    assert torch.equal(tapped(torch.ones(1, 2)), expected)
    assert not unreached(tapped)
