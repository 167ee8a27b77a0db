"""What the integers of a quantized model stand for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from pantheon.compress.quantize.rounding import DynamicRounder, Rounder
from pantheon.compress.quantize.spots import Site
from pantheon.compress.quantize.taps import HOLDER, Taps
from pantheon.compress.quantize.weights import original_weight, weight_rounders
from pantheon.errors import ConfigError

ZERO_POINT = 128
"""The unsigned integer that stands for 0 where there are negative values."""


REDUCED = 7
"""Bits of weights that are stored with 8 and have half of their range."""


@dataclass(frozen=True, slots=True)
class Scale:
    """What an integer of a tensor stands for.

    Args:
        step: float32, one number or ``[channels]``.
        axis: the dimension of channels; None for one number.
        zero: the integer that stands for 0.
        unsigned: whether integers are from 0 to 255, and not from -127 to 127.
    """

    step: np.ndarray[Any, np.dtype[np.float32]]
    axis: int | None = None
    zero: int = 0
    unsigned: bool = False


def weight_scales(model: nn.Module) -> dict[str, Scale]:
    """Of each quantized layer's weight, by the layer's path.

    Raises:
        ConfigError: weights of fewer than 7 bits; they are simulated only.
    """
    found = {}
    for path, layer in model.named_modules():
        for rounder in weight_rounders(layer):
            if rounder.grid.bits != REDUCED:
                _require_bits(rounder.grid.bits, f"the weight of {path}")
            step = rounder.scale(original_weight(layer)).detach().float().numpy()
            found[path] = Scale(step, rounder.channel_dim)
    return found


def activation_scales(model: nn.Module) -> dict[Site, Scale]:
    """Of each tensor that is rounded by a scale of its own, by where it is made.

    Raises:
        ConfigError: activations of fewer than 8 bits; they are simulated only.
    """
    found = {}
    for site, rounder in _rounders(model):
        if isinstance(rounder, DynamicRounder):
            continue
        _require_bits(rounder.grid.bits, str(site))
        step = rounder.scale.detach().float().numpy()
        found[site] = Scale(step, zero=ZERO_POINT if rounder.grid.signed else 0, unsigned=True)
    return found


def dynamic_sites(model: nn.Module) -> dict[Site, None]:
    """Where a model rounds each tensor by its own extremes.

    Raises:
        ConfigError: to fewer than 8 bits; that is simulated only.
    """
    found: dict[Site, None] = {}
    for site, rounder in _rounders(model):
        if isinstance(rounder, DynamicRounder):
            _require_bits(rounder.grid.bits, str(site))
            found[site] = None
    return found


def _rounders(model: nn.Module) -> Iterator[tuple[Site, Rounder]]:
    taps = getattr(model, HOLDER, None)
    if isinstance(taps, Taps):
        for site, rounder in taps.by_site().items():
            assert isinstance(rounder, Rounder)
            yield site, rounder


def _require_bits(bits: int, what: str) -> None:
    if bits != 8:
        raise ConfigError(
            f"{what} is rounded to {bits} bits, which is simulated: ONNX Runtime computes with 8; "
            "quantize to 8 bits for a file of integers"
        )
