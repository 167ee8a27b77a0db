"""What a point's model costs, found without training it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import ceil
from typing import Any

from torch import nn

from pantheon.compress.macs import macs
from pantheon.compress.quantize.scales import REDUCED
from pantheon.compress.quantize.weights import original_weight, weight_rounders
from pantheon.compress.search.space import Point, Space
from pantheon.compress.size import parameters

LATENCY = "latency"
"""The cost that is told where there is a table of latencies."""

STATIC = ("macs", "parameters", "bytes", LATENCY)
"""Costs that every space has, the last one with a table."""


def static_costs(
    space: Space, inputs: Any, latency: Callable[[nn.Module], float] | None = None
) -> Callable[[Point], Mapping[str, float]]:
    """A function that tells what a point's model costs.

    Args:
        space: of the points.
        inputs: of one sample, on the CPU, where it is run once.
        latency: predicts a model's milliseconds.

    Returns:
        Of a point what `costs_of` tells of its model.

    Example:
        >>> import torch
        >>> from pantheon.compress.search.factory_space import FactorySpace
        >>> from pantheon.compress.search.space import Choice
        >>> space = FactorySpace("torch.nn:Linear", {"in_features": 4},
        ...                      (Choice("out_features", (2, 8)),))
        >>> static_costs(space, torch.zeros(1, 4))({"out_features": 0})
        {'macs': 8, 'parameters': 10, 'bytes': 40}
    """
    return lambda point: costs_of(space.artifact(point).model, inputs, latency)


def costs_of(
    model: nn.Module, inputs: Any, latency: Callable[[nn.Module], float] | None = None
) -> dict[str, float]:
    """What a model costs.

    Args:
        model: on the CPU.
        inputs: of one sample.
        latency: predicts a model's milliseconds.

    Returns:
        ``macs`` of one sample, ``parameters``, and ``bytes`` of parameters and buffers, of which
        weights that are rounded have the bits of their integers; and ``latency`` if there is a way
        to tell it.
    """
    told = {} if latency is None else {LATENCY: latency(model)}
    return told | {
        "macs": macs(model, inputs, largest=0).total,
        "parameters": parameters(model).total,
        "bytes": stored_bytes(model),
    }


def stored_bytes(model: nn.Module) -> int:
    """Bytes of parameters and buffers; of weights that are rounded, of their integers.

    Integers of fewer than 8 bits are counted as packed, which no runtime here does; those of 7,
    which leave room for sums of products, as bytes.

    Example:
        >>> from pantheon.compress.quantize.edit import RoundTensors, Weight
        >>> net = nn.Sequential(nn.Linear(4, 4, bias=False))
        >>> stored_bytes(net), stored_bytes(RoundTensors((), {"0": Weight(4)}).apply(net))
        (64, 8)
    """
    total: int = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    for layer in model.modules():
        for rounder in weight_rounders(layer):
            weight, bits = original_weight(layer), rounder.grid.bits
            packed = ceil(weight.numel() * (8 if bits == REDUCED else bits) / 8)
            total += packed - weight.numel() * weight.element_size()
    return total
