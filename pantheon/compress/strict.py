"""JSON of an edit, checked: what is not exactly as it should be raises `ConfigError`.

An artifact may come from anywhere, so nothing in it is taken for what it should be.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import pairwise
from typing import Any

from pantheon.errors import ConfigError
from pantheon.quote import quoted

LIMIT = 1 << 31
"""Indices and sizes are below this, as those of PyTorch's layers are."""

LONGEST = 1000
"""Characters of a path or a name at most."""


def mapping(value: Any, where: str) -> Mapping[str, Any]:
    """A mapping from names; none is longer than `LONGEST` characters.

    Example:
        >>> mapping({"conv1": 3}, "modules")
        {'conv1': 3}
    """
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where} is {quoted(value)}; expected a mapping")
    for key in value:
        text(key, f"a key of {where}")
    return value


def keys(
    value: Any, where: str, required: Collection[str], optional: Collection[str] = ()
) -> Mapping[str, Any]:
    """A mapping with exactly these keys, but for optional ones."""
    found = mapping(value, where)
    wrong = (set(found) - {*required, *optional}) or (set(required) - set(found))
    if wrong:
        known = ", ".join([*required, *(f"{name} (optional)" for name in optional)])
        word = "an unknown" if wrong & set(found) else "no"
        raise ConfigError(f"{where} has {word} key {quoted(min(wrong))}; expected {known}")
    return found


def text(value: Any, where: str) -> str:
    """A text of at most `LONGEST` characters."""
    if not isinstance(value, str) or len(value) > LONGEST:
        raise ConfigError(
            f"{where} is {quoted(value)}; expected a text of at most {LONGEST} characters"
        )
    return value


def whole(value: Any, where: str) -> int:
    """An integer from 0, below `LIMIT`; True and 1.0 are none.

    Example:
        >>> whole(8, "num_heads")
        8
    """
    if type(value) is not int or not 0 <= value < LIMIT:
        raise ConfigError(f"{where} is {quoted(value)}; expected an integer from 0 to {LIMIT - 1}")
    return value


def kept(value: Any, where: str) -> tuple[int, ...]:
    """Indices to keep: at least one, rising.

    Example:
        >>> kept([0, 2, 3], "conv1.out")
        (0, 2, 3)
    """
    if not isinstance(value, list | tuple) or not value:
        raise ConfigError(
            f"{where} is {quoted(value)}; expected a list of the indices to keep, at least one"
        )
    found = tuple(whole(index, f"an index of {where}") for index in value)
    for before, after in pairwise(found):
        if after <= before:
            raise ConfigError(f"{where} has {after} after {before}; expected rising indices")
    return found
