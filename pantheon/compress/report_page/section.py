"""What a panel puts on the page: headings, tiles, tables and pictures, as values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class Cell:
    """One value of a table.

    Args:
        text: what is read first.
        note: said below it in small letters, such as the ratio to the original.
        exact: shown when it is pointed at, such as all digits.
        muted: whether it only says that there is nothing.
    """

    text: str
    note: str = ""
    exact: str = ""
    muted: bool = False


UNMEASURED = Cell("not measured", muted=True)
"""In place of a figure that nobody found."""


@dataclass(frozen=True, slots=True)
class Heading:
    """The title of what follows, within a section.

    Args:
        text: the title.
        badge: a word or two beside it, such as ``"unfinished"``.
        alarm: whether the badge says that something is not as it should be.
    """

    kind: ClassVar[str] = "heading"
    text: str
    badge: str = ""
    alarm: bool = False


@dataclass(frozen=True, slots=True)
class Tiles:
    """A few figures that are seen first: of each its name, and its value as a cell."""

    kind: ClassVar[str] = "tiles"
    values: Sequence[tuple[str, Cell]]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under a head; the first cell of a row is its name.

    Args:
        head: of the columns, with their units.
        rows: as many cells each as `head` has.
        title: said above it.
        folded: whether it is opened by a click, as what few people read.
    """

    kind: ClassVar[str] = "table"
    head: Sequence[Cell]
    rows: Sequence[Sequence[Cell]]
    title: str = ""
    folded: bool = False


@dataclass(frozen=True, slots=True)
class Picture:
    """A drawing: in the page, and as a PNG file beside it.

    Args:
        name: of the file; other signs than letters and digits become hyphens.
        alt: what it shows, for those who do not see it.
        figure: of matplotlib.
    """

    kind: ClassVar[str] = "picture"
    name: str
    alt: str
    figure: Figure


Part = str | Heading | Tiles | Table | Picture
"""A part of a section; a text is a paragraph."""


@dataclass(frozen=True, slots=True)
class Section:
    """A titled section of the page.

    All texts are plain: the page escapes them.

    Example:
        >>> Section("Pruning", ["Every layer lost half of its channels."]).title
        'Pruning'
    """

    title: str
    parts: Sequence[Part] = field(default_factory=tuple)


def texts(*values: str) -> list[Cell]:
    """Cells that only have a text.

    >>> texts("a", "b")[1].text
    'b'
    """
    return [Cell(value) for value in values]
