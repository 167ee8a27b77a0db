"""Models that compute as if with integers, and what they are without."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.utils import parametrize

from pantheon.compress.quantize.rounding import DynamicRounder, Rounder
from pantheon.compress.quantize.taps import HOLDER, Taps, untap
from pantheon.compress.quantize.weights import (
    WeightRounder,
    original_bias,
    original_weight,
    weight_rounders,
)


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


@torch.no_grad()
def _settle(layer: nn.Module) -> None:
    """Give a layer its class, weight and bias back, without the rounding.

    PyTorch's own way takes them from the class, which copies of the layer share.
    """
    weight, bias = original_weight(layer), original_bias(layer)
    layer.__class__ = parametrize.type_before_parametrizations(layer)
    del layer.parametrizations
    layer.register_parameter("weight", nn.Parameter(weight.detach()))
    layer.register_parameter("bias", None if bias is None else nn.Parameter(bias.detach()))
