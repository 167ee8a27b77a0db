"""Untrusted values in messages: short, however long or deep they are."""

from __future__ import annotations

import reprlib
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
