"""Changes of plain values: what msgpack and JSON carry."""

from __future__ import annotations

import copy
from collections.abc import Callable
from random import Random
from typing import Any

TEXTS = ("", "x", "int8", "float32", "raw", "topk:2@1", "topk:99999999", "ids", "blocks", "\x00é")
_ODD: tuple[Callable[[Random], Any], ...] = (
    lambda _: None,
    lambda r: r.random() < 0.5,
    lambda r: r.choice((-1, 0, 1, 2, 7, 255, 1 << 16, 1 << 31, 1 << 40)),
    lambda r: r.choice(((1 << 40) + 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, -(1 << 63))),
    lambda _: 10**4299,
    lambda r: r.choice((0.5, -0.0, 1e300, float("inf"), float("nan"))),
    lambda r: r.choice(TEXTS),
    lambda r: "n" * r.choice((64, 256, 257, 1025)),
    lambda _: "\ud800",
    lambda r: [0] * r.choice((0, 1, 9, 300, 4097)),
    lambda _: {},
    lambda r: _nested(r.choice((10, 200, 900))),
)


def change(value: Any, rng: Random) -> Any:
    """The value with something in it replaced, removed, repeated or moved; changed in place."""
    if not isinstance(value, dict | list) or not value:
        return odd(value, rng)
    holder, key = _place(value, rng)
    match rng.randrange(5):
        case 0:
            del holder[key]
        case 1:
            other, at = _place(value, rng)
            holder[key] = copy.deepcopy(other[at])
        case 2 if isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
        case _:
            holder[key] = odd(holder[key], rng)
    return value


def odd(value: Any, rng: Random) -> Any:
    """A value that nobody expects there, or one close to what was."""
    if type(value) is int and rng.random() < 0.5:
        return value + rng.choice((-1, 1, 16, -value, value, 1 << 32))
    if isinstance(value, str) and value and rng.random() < 0.3:
        at = rng.randrange(len(value))
        return value[:at] + rng.choice(TEXTS) + value[at + 1 :]
    return rng.choice(_ODD)(rng)


def _nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def _place(value: Any, rng: Random) -> tuple[Any, Any]:
    """A mapping or list in the value, and one of its keys."""
    while True:
        key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
        inner = value[key]
        if not isinstance(inner, dict | list) or not inner or rng.random() < 0.3:
            return value, key
        value = inner
