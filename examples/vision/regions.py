"""Which region of which photograph a class is.

The rule: every photograph is cut into square tiles of 96 pixels, on a grid in its middle, and flat
tiles are left out. The classes go round the photographs, in their order. A photograph gives its
most detailed tile first, and from then on the tile that is farthest from all that it has given; the
more detailed one where two are equally far. So regions never overlap, and few of them touch. A view
of scale 1 that is not turned stays inside its region, wherever it is shifted to; one that is larger
or turned may look up to 14 pixels over the edge.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

from examples.vision.photographs import PHOTOGRAPHS, Pixels, load, shrunk
from pantheon.errors import ConfigError

TILE = 96
"""The side of a region, in pixels of its photograph."""

CONTEXT = 128
"""The side of what is kept of a region and around it: a turned view looks over the edge."""

FLAT = 10
"""Tiles whose grey values have a smaller standard deviation are sky, shadow or wall."""


class Region(NamedTuple):
    """A tile of a photograph.

    Args:
        photograph: its index in `PHOTOGRAPHS`.
        top, left: where it begins, in pixels.
        detail: the variance of its grey values, times a constant; an integer, so that no rounding
            decides which of two comes first.
    """

    photograph: int
    top: int
    left: int
    detail: int


def regions(classes: int) -> list[Region]:
    """The regions of that many classes; those of fewer classes are the first of them.

    Raises:
        ConfigError: none, or more than there are.

    Example:
        >>> [(region.photograph, region.top, region.left) for region in regions(2)]
        [(0, 304, 400), (1, 102, 129)]
    """
    found = _in_turn()
    if not 1 <= classes <= len(found):
        raise ConfigError(
            f"the {len(PHOTOGRAPHS)} photographs have {len(found)} regions that are not flat; "
            f"found classes={classes}, expected 1 to {len(found)}"
        )
    return found[:classes]


@cache
def _in_turn() -> list[Region]:
    """Every region, one of each photograph at a time."""
    given = [spread(tiles(photograph)) for photograph in range(len(PHOTOGRAPHS))]
    most = max(map(len, given))
    return [some[turn] for turn in range(most) for some in given if turn < len(some)]


def tiles(photograph: int) -> list[Region]:
    """A photograph's tiles that are not flat, in reading order."""
    grey = load(PHOTOGRAPHS[photograph]).sum(axis=0, dtype=np.int64)
    top, left = (side % TILE // 2 for side in grey.shape)
    area, found = TILE * TILE, []
    for y in range(top, grey.shape[0] - TILE + 1, TILE):
        for x in range(left, grey.shape[1] - TILE + 1, TILE):
            tile = grey[y : y + TILE, x : x + TILE]
            detail = int(area * (tile * tile).sum() - tile.sum() ** 2)
            if detail >= (3 * FLAT * area) ** 2:
                found.append(Region(photograph, y, x, detail))
    return found


def spread(found: list[Region]) -> list[Region]:
    """Tiles in the order in which a photograph gives them.

    Example:
        >>> a, b, c = Region(0, 0, 0, 5), Region(0, 0, 96, 9), Region(0, 0, 288, 1)
        >>> spread([a, b, c]) == [b, c, a]
        True
    """
    left = list(found)
    given: list[Region] = []
    while left:
        best = max(left, key=lambda tile: (min((_far(tile, g) for g in given), default=0), tile[3]))
        left.remove(best)
        given.append(best)
    return given


def _far(a: Region, b: Region) -> int:
    return (a.top - b.top) ** 2 + (a.left - b.left) ** 2


def contexts(classes: int, shrink: int) -> Pixels:
    """Each class's region and what lies around it, mirrored beyond the photograph's edge.

    Args:
        shrink: how many pixels of a side become one.

    Returns:
        uint8 ``[classes, 3, 128 / shrink, 128 / shrink]``.

    Example:
        >>> contexts(2, shrink=4).shape
        (2, 3, 32, 32)
    """
    around = (CONTEXT - TILE) // 2
    margin = ((0, 0), (around, around), (around, around))
    made = np.empty((classes, 3, CONTEXT, CONTEXT), np.uint8)
    for context, region in zip(made, regions(classes), strict=True):
        wide = np.pad(load(PHOTOGRAPHS[region.photograph]), margin, mode="reflect")
        context[:] = wide[:, region.top :, region.left :][:, :CONTEXT, :CONTEXT]
    return shrunk(made, shrink)
