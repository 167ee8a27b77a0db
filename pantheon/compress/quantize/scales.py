"""What the integers of a quantized model stand for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from torch import nn

from pantheon.compress.quantize.rounding import Rounder
from pantheon.compress.quantize.simulated import weight_rounders
from pantheon.compress.quantize.spots import Site
from pantheon.compress.quantize.taps import HOLDER, Taps
from pantheon.errors import ConfigError

ZERO_POINT = 128
"""The unsigned integer that stands for 0 where there are negative values."""


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
        ConfigError: weights of fewer than 8 bits; they are simulated only.
    """
    found = {}
    for path, layer in model.named_modules():
        for rounder in weight_rounders(layer):
            _require_bits(rounder.grid.bits, f"the weight of {path}")
            weight = cast(Any, layer.parametrizations)["weight"].original
            step = rounder.scale(weight).float().numpy()
            found[path] = Scale(step, rounder.channel_dim)
    return found


def activation_scales(model: nn.Module) -> dict[Site, Scale]:
    """Of each rounded tensor, by where it is made.

    Raises:
        ConfigError: activations of fewer than 8 bits; they are simulated only.
    """
    taps = getattr(model, HOLDER, None)
    if not isinstance(taps, Taps):
        return {}
    found = {}
    for site, rounder in taps.by_site().items():
        assert isinstance(rounder, Rounder)
        _require_bits(rounder.grid.bits, str(site))
        step = rounder.scale.detach().float().numpy()
        found[site] = Scale(step, zero=ZERO_POINT if rounder.grid.signed else 0, unsigned=True)
    return found


def _require_bits(bits: int, what: str) -> None:
    if bits != 8:
        raise ConfigError(
            f"{what} is rounded to {bits} bits, which is simulated: ONNX Runtime computes with 8; "
            "quantize to 8 bits for a file of integers"
        )
