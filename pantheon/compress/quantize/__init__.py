"""Quantization: which tensors of a model are rounded to integers, by what scales, and real int8.

Names are imported when they are first used, so that a configuration is read without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pantheon.exports import lazily

if TYPE_CHECKING:
    from pantheon.compress.quantize.calibrating import calibrate as calibrate
    from pantheon.compress.quantize.edit import RoundTensors as RoundTensors
    from pantheon.compress.quantize.exported import float_operators as float_operators
    from pantheon.compress.quantize.grid import Grid as Grid
    from pantheon.compress.quantize.integers import write_integers as write_integers
    from pantheon.compress.quantize.observers import OBSERVERS as OBSERVERS
    from pantheon.compress.quantize.simulated import is_quantized as is_quantized
    from pantheon.compress.quantize.simulated import plain as plain
    from pantheon.compress.quantize.spots import spots_of as spots_of
    from pantheon.compress.quantize.stage import Quantize as Quantize

__all__ = [
    "OBSERVERS",
    "Grid",
    "Quantize",
    "RoundTensors",
    "calibrate",
    "float_operators",
    "is_quantized",
    "plain",
    "spots_of",
    "write_integers",
]

_HOMES = {
    "calibrating": ("calibrate",),
    "edit": ("RoundTensors",),
    "grid": ("Grid",),
    "exported": ("float_operators",),
    "integers": ("write_integers",),
    "simulated": ("is_quantized", "plain"),
    "observers": ("OBSERVERS",),
    "spots": ("spots_of",),
    "stage": ("Quantize",),
}

__getattr__, __dir__ = lazily(__name__, _HOMES)
