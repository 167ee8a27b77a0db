"""Models that compute as if with integers, and what they are without."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pantheon.compress.quantize.rounding import DynamicRounder, Rounder, WeightRounder
from pantheon.compress.quantize.taps import HOLDER, Taps, untap


def is_quantized(model: nn.Module) -> bool:
    """Whether a model computes as if with integers.

    Example:
        >>> is_quantized(nn.Linear(2, 2))
        False
    """
    rounders = any(isinstance(m, WeightRounder) for m in model.modules())
    return rounders or isinstance(getattr(model, HOLDER, None), Taps)


def plain(model: nn.Module) -> nn.Module:
    """A copy of a quantized model that computes with real numbers; its weights are not rounded.

    Example:
        >>> from pantheon.compress.quantize.edit import RoundTensors, Weight
        >>> net = nn.Sequential(nn.Linear(2, 2))
        >>> rounded = RoundTensors((), {"0": Weight()}).apply(copy.deepcopy(net))
        >>> sorted(plain(rounded).state_dict())
        ['0.bias', '0.weight']
    """
    model = copy.deepcopy(model)
    for layer in list(model.modules()):
        if weight_rounders(layer):
            _settle(layer)
    return untap(model)


def frozen(model: nn.Module) -> nn.Module:
    """A copy with fixed thresholds, those that were followed, in place of extremes at run time.

    Example:
        >>> from pantheon.compress.quantize.grid import Grid
        >>> from pantheon.compress.quantize.spots import Site
        >>> from pantheon.compress.quantize.taps import tap
        >>> net = tap(nn.Sequential(nn.ReLU()), [[Site("0")]], [DynamicRounder(Grid(2, False))])
        >>> frozen(net)(torch.tensor([3.0])), net(torch.tensor([3.0]))
        (tensor([1.]), tensor([3.]))
    """
    model = copy.deepcopy(model)
    taps = getattr(model, HOLDER, None)
    if isinstance(taps, Taps):
        for place, each in enumerate(taps.each):
            if isinstance(each, DynamicRounder):
                taps.each[place] = made = Rounder(each.grid).to(each.threshold.device)
                made.start(float(each.threshold))
    return model


def weight_rounders(layer: nn.Module) -> list[WeightRounder]:
    """What rounds the weight of a layer: one, or nothing."""
    if not parametrize.is_parametrized(layer, "weight"):
        return []
    every = cast(Any, layer.parametrizations)["weight"]
    return [each for each in every if isinstance(each, WeightRounder)]


def original_weight(layer: nn.Module) -> Tensor:
    """The weight of a layer as it is before it is rounded.

    Example:
        >>> from pantheon.compress.quantize.edit import RoundTensors, Weight
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> _ = RoundTensors((), {"0": Weight()}).apply(nn.Sequential(layer))
        >>> original_weight(layer) is layer.parametrizations.weight.original
        True
    """
    every = cast(Any, layer.parametrizations)["weight"]
    weight = every.original
    for each in every:
        weight = weight if isinstance(each, WeightRounder) else each(weight)
    return cast(Tensor, weight)


@torch.no_grad()
def _settle(layer: nn.Module) -> None:
    """Give a layer its class and its weight back, without the rounding.

    PyTorch's own way takes the weight from the class, which copies of the layer share.
    """
    weight = original_weight(layer)
    layer.__class__ = parametrize.type_before_parametrizations(layer)
    del layer.parametrizations
    layer.register_parameter("weight", nn.Parameter(weight.detach()))
