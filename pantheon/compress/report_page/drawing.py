"""How all pictures look: colours that everyone can tell apart, few lines, plain texts."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING

from pantheon.quote import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
"""Of Okabe and Ito (Color Universal Design, 2008), the darker ones first."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":")
GRID = "#e6e6e6"
WIDTH, HEIGHT = 5.4, 3.9
"""Inches of the axes of a picture."""

SIZE = 8.5
"""Of names in a picture, in points."""

LONGEST = 28
"""Characters of a name in a picture."""


def style(index: int) -> tuple[str, str, str]:
    """Colour, marker and line of the curve or run with a number; neighbours differ in all three.

    >>> style(0), style(8)
    (('#0072b2', 'o', '-'), ('#d55e00', 's', '-'))
    """
    return (
        COLOURS[index % len(COLOURS)],
        MARKERS[index % len(MARKERS)],
        LINES[index % len(LINES)],
    )


def plain(text: str) -> str:
    """A text that matplotlib draws as it stands: no formulas, no hidden labels, not too long.

    Example:
        >>> plain("$x$"), plain("_hidden"), plain("n" * 40)
        ('\\\\$x\\\\$', ' _hidden', 'nnnnnnnnnnnnnnnnnnnnnnnnnnn…')
    """
    short = printable(text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…")
    return (" " if short.startswith("_") else "") + short.replace("$", r"\$")


def canvas(height: float = HEIGHT) -> tuple[Figure, Axes]:
    """An empty figure of one pair of axes: as wide as a telephone shows legibly."""
    # The object interface, so that no display is looked for and no global state is left.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), dpi=130, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=GRID)
    axes.set_axisbelow(True)
    return figure, axes


def png(figure: Figure) -> bytes:
    """A figure as a PNG file."""
    file = BytesIO()
    with warnings.catch_warnings():
        # A sign that the font lacks is drawn as a box; the page's tables have it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(file, format="png")
    return file.getvalue()


def label_points(axes: Axes, points: Sequence[tuple[float, float]], labels: Sequence[str]) -> None:
    """Write names beside points, where they cover neither each other nor another point.

    A name for which there is no free place is left out. To be called when all is drawn: it takes
    the limits of the axes as they are.
    """
    # Points of 1/72 inch; what the axes' own labels leave of the canvas.
    width, height = 72 * 0.82 * WIDTH, 72 * 0.82 * HEIGHT
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    spots = [
        ((x - left) / (right - left) * width, (y - low) / (high - low) * height) for x, y in points
    ]
    boxes = [(0.62 * SIZE * len(label), 1.2 * SIZE) for label in labels]
    places = free_places(spots, boxes, (width, height))
    for place, point, label in zip(places, points, labels, strict=True):
        if place is not None:
            axes.annotate(
                label, point, place, textcoords="offset points", fontsize=SIZE, va="bottom"
            )


def free_places(
    spots: Sequence[tuple[float, float]],
    boxes: Sequence[tuple[float, float]],
    room: tuple[float, float],
    gap: float = 6.0,
) -> list[tuple[float, float] | None]:
    """Where boxes beside spots go, so that they cover neither each other nor a spot.

    Args:
        spots, boxes, room: places, sizes, and the size of the whole, in one unit; from the lower
            left.
        gap: between a spot and its box.

    Returns:
        The lower left corner of each box, seen from its spot; None where there is no room.

    Example:
        >>> free_places([(50, 50), (53, 50)], [(20, 10), (20, 10)], (100, 100))
        [(-10.0, 6.0), (-10.0, -16.0)]
    """
    taken = [(x - gap / 2, y - gap / 2, x + gap / 2, y + gap / 2) for x, y in spots]
    found: list[tuple[float, float] | None] = []
    for number, ((x, y), (wide, high)) in enumerate(zip(spots, boxes, strict=True)):
        sides = [
            (-wide / 2, gap),
            (-wide / 2, -gap - high),
            (gap, -high / 2),
            (-gap - wide, -high / 2),
            (gap, gap / 2),
            (-gap - wide, gap / 2),
        ]
        others = taken[:number] + taken[number + 1 :]
        for dx, dy in sides:
            box = (x + dx, y + dy, x + dx + wide, y + dy + high)
            inside = box[0] >= 0 and box[1] >= 0 and box[2] <= room[0] and box[3] <= room[1]
            if inside and not any(_overlap(box, other) for other in others):
                taken.append(box)
                found.append((dx, dy))
                break
        else:
            found.append(None)
    return found


def _overlap(a: Sequence[float], b: Sequence[float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
