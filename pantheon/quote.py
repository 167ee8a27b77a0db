"""Untrusted values in messages: short, however long or deep, and on one line."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable
from typing import Any

_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict = 3, 8, 4
_SHORT.maxstring, _SHORT.maxlong, _SHORT.maxother = 100, 40, 60


def quoted(value: Any) -> str:
    """A value of JSON or msgpack as a message shows it, at most 200 characters.

    Example:
        >>> quoted([1] * 1000), quoted([[[["deep"]]]])
        ('[1, 1, 1, 1, 1, 1, 1, 1, ...]', '[[[...]]]')
    """
    return _SHORT.repr(value)[:200]


def printable(text: str) -> str:
    """A text in which every character that does not simply print is written as its escape.

    So text from a peer can neither begin a line of its own, nor move a terminal's cursor, nor turn
    the direction of what follows.

    Example:
        >>> printable("caf\u00e9"), printable("a\\nb\\x1b[2J")
        ('caf\u00e9', 'a\\\\nb\\\\x1b[2J')
    """
    if text.isprintable():
        return text
    return "".join([c if c.isprintable() else ascii(c)[1:-1] for c in text])


def shortened(text: str, limit: int) -> str:
    """A text of at most `limit` characters, and how many there were more.

    Example:
        >>> shortened("abcdef", 3)
        'abc ... (3 characters more)'
    """
    return (
        text if len(text) <= limit else f"{text[:limit]} ... ({len(text) - limit} characters more)"
    )


def near(name: str, names: Iterable[str]) -> str:
    """What to add to a message about a name that is not there: the nearest ones that are.

    Example:
        >>> near("conv", ["conv1", "conv2", "head"])
        "; the nearest are 'conv2', 'conv1'"
        >>> near("conv", ["head"])
        ''
    """
    found = difflib.get_close_matches(name[:200], names, n=3, cutoff=0.5)
    return f"; the nearest are {', '.join(map(repr, found))}" if found else ""
