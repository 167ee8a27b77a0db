"""What a view of a region looks like: drawn from a counter, rendered exactly.

A view is a function of (seed, part, index, view) and of nothing else. They are the key and counter
of a Philox generator (Salmon et al., 2011), whose bits numpy promises to keep. Coordinates are
whole 256ths of a pixel, and every other step is one rounded operation on each number, so a view has
the same bytes alone, in a batch and on another machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from examples.vision.photographs import Pixels
from examples.vision.regions import CONTEXT

Part = Literal["train", "validation", "test"]
PARTS: Final[tuple[Part, ...]] = get_args(Part)

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Words = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Ranges:
    """What views are drawn from, evenly.

    Args:
        window: the side of a view of scale 1, in pixels of the photograph.
        shift: how far its middle is from its region's, at most, in both directions.
        scale: of the window's side.
        turn: the tangent of half the rotation, at most; 0.27 is 30 degrees.
        flip: the share of mirrored views.
        brightness: what is added to values of 0 to 255, at most, up or down.
        contrast: the factor of their distance from grey.
        gain: the factor of each channel.
        noise: the standard deviation of what is added to each value.
    """

    window: int = 64
    shift: int = 16
    scale: tuple[float, float] = (0.55, 1.05)
    turn: float = 0.27
    flip: float = 0.5
    brightness: float = 30.0
    contrast: tuple[float, float] = (0.5, 1.2)
    gain: tuple[float, float] = (0.85, 1.15)
    noise: tuple[float, float] = (2.0, 20.0)


RANGES = Ranges()

GRID = 8
"""The square of possible shifts has 8 by 8 cells."""


@cache
def cells(part: Part) -> NDArray[np.int64]:
    """The cells of the square of shifts that a part's views lie in, as row times 8 plus column.

    Of every row and every column five cells are for training, one for validation, two for testing.

    Example:
        >>> cells("validation").tolist(), len(cells("train")), len(cells("test"))
        ([5, 10, 23, 28, 33, 46, 51, 56], 40, 16)
    """
    row, column = np.divmod(np.arange(GRID * GRID), GRID)
    place = (column + 3 * row) % GRID
    of = np.where(place < 5, 0, np.where(place < 6, 1, 2))
    made = np.flatnonzero(of == PARTS.index(part))
    made.flags.writeable = False
    return made


DRAWS = 12
"""Numbers that decide a view; the random words that follow theirs are its noise."""


def words(seed: int, part: Part, index: int, view: int, size: int) -> Words:
    """The random words of one view: its draws, then one for every two values of its noise."""
    key = np.array([seed % 2**64, view % 2**64], np.uint64)
    # The generator counts up in the first place; a sample's counter never reaches the next one's.
    counter = np.array([0, index, PARTS.index(part), 0], np.uint64)
    made = np.random.Philox(key=key, counter=counter).random_raw(DRAWS + 3 * size * size // 2)
    return np.asarray(made, np.uint64)


def unit(words: Words) -> Doubles:
    """Words as numbers from 0 to below 1.

    Example:
        >>> unit(np.array([0, 2**63], np.uint64)).tolist()
        [0.0, 0.5]
    """
    return np.asarray((words >> np.uint64(11)) * 2.0**-53)


def between(draw: Doubles, ends: tuple[float, float]) -> Doubles:
    """Numbers from 0 to 1 as numbers from one end to the other."""
    low, high = ends
    return low + (high - low) * draw


def places(draws: Doubles, part: Part, size: int, ranges: Ranges = RANGES) -> Doubles:
    """Where in the context the pixels of some views lie, in pixels from its upper left corner.

    Args:
        draws: float64 ``[12, n]``, from 0 to below 1.

    Returns:
        float64 ``[n, size, size, 2]``, x and y.
    """
    shift_x, shift_y = shifts(draws[:3], part, ranges)
    side = ranges.window * between(draws[3], ranges.scale)
    turn = between(draws[4], (-ranges.turn, ranges.turn))
    mirror = np.where(draws[5] < ranges.flip, -1.0, 1.0)
    # A turn by twice the arc tangent needs no sine, in whose last bit two machines may differ.
    cosine, sine = (1 - turn * turn) / (1 + turn * turn), 2 * turn / (1 + turn * turn)
    along = (np.arange(size) + 0.5) / size - 0.5
    u, v = (mirror * side)[:, None, None] * along, side[:, None, None] * along[:, None]
    cosine, sine, shift_x, shift_y = (
        value[:, None, None] for value in (cosine, sine, shift_x, shift_y)
    )
    middle = CONTEXT / 2
    x = middle + shift_x + (cosine * u - sine * v)
    y = middle + shift_y + (sine * u + cosine * v)
    return np.stack([x, y], axis=-1)


def shifts(draws: Doubles, part: Part, ranges: Ranges = RANGES) -> tuple[Doubles, Doubles]:
    """How far right and down of its region's middle each view is; float64 ``[3, n]`` to ``[n]``."""
    own = cells(part)
    row, column = np.divmod(own[(draws[0] * len(own)).astype(np.int64)], GRID)
    cell = 2 * ranges.shift / GRID
    return (column + draws[1]) * cell - ranges.shift, (row + draws[2]) * cell - ranges.shift


def sampled(contexts: Tensor, where: Doubles) -> Floats:
    """Contexts read between their pixels, bilinearly and without any rounding.

    Args:
        contexts: float32 ``[n, 3, side, side]`` of whole numbers from 0 to 255; the side is a power
            of two.
        where: as `places` answers.

    Returns:
        float32 ``[n, 3, size, size]``.
    """
    side = contexts.shape[-1]
    # Weights of 1/256 steps make products of 8 + 8 + 8 bits, which float32 holds: nothing that
    # grid_sample computes is rounded, in whichever order it does.
    pixel = np.rint((where * (side / CONTEXT) - 0.5) * 256) / 256
    grid = torch.from_numpy(((2 * pixel + 1) / side - 1).astype(np.float32))
    made = functional.grid_sample(contexts, grid, "bilinear", "border", align_corners=False)
    return np.asarray(made.numpy(), np.float32)


def coloured(values: Floats, draws: Doubles, noise: Words, ranges: Ranges = RANGES) -> Pixels:
    """The colours of some views: contrast, brightness, gain of each channel, then noise.

    Args:
        values: float32 ``[n, 3, size, size]``, from 0 to 255; changed in place.
        draws: float64 ``[12, n]``, from 0 to below 1.
        noise: uint64 ``[n, 3 * size * size / 2]``.

    Returns:
        uint8 of the same shape.
    """
    values -= 128
    values *= _each(between(draws[7], ranges.contrast))
    values += _each(128 + between(draws[6], (-ranges.brightness, ranges.brightness)))
    values *= between(draws[8:11], ranges.gain).T.astype(np.float32)[:, :, None, None]
    values += bell(noise).reshape(values.shape) * _each(between(draws[11], ranges.noise))
    np.rint(values, out=values)
    return np.clip(values, 0, 255, out=values).astype(np.uint8)


def _each(value: Doubles) -> Floats:
    """One number for each view, to go with ``[n, 3, size, size]``."""
    return value.astype(np.float32)[:, None, None, None]


def bell(noise: Words) -> Floats:
    """Numbers of mean 0 and standard deviation 1, nearly normal: sums of four bytes.

    Args:
        noise: uint64 ``[n, words]``.

    Returns:
        float32 ``[n, 2 * words]``.

    Example:
        >>> made = bell(np.array([[0x00FF00FF00FF00FF]], np.uint64))
        >>> [round(value, 3) for value in made[0].tolist()]
        [3.451, -3.451]
    """
    quarters = noise.astype("<u8", copy=False).view(np.uint8).reshape(len(noise), 4, -1)
    total = quarters[:, 0].astype(np.int16)
    for quarter in range(1, 4):
        total += quarters[:, quarter]
    return (total.astype(np.float32) - 510) / np.float32(np.sqrt((256**2 - 1) / 3))


def render(
    contexts: Tensor, seed: int, part: Part, indices: list[int], views: list[int], size: int
) -> Pixels:
    """Some views of a part.

    Args:
        contexts: each view's, float32 ``[n, 3, side, side]``.
        indices: of the samples in their part.

    Returns:
        uint8 ``[n, 3, size, size]``.
    """
    drawn = np.stack([words(seed, part, *pair, size) for pair in zip(indices, views, strict=True)])
    draws = unit(np.ascontiguousarray(drawn[:, :DRAWS].T))
    values = sampled(contexts, places(draws, part, size))
    return coloured(values, draws, np.ascontiguousarray(drawn[:, DRAWS:]))
