"""Reading an untrusted header field by field, each with its type and its bound."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from pantheon.errors import ProtocolError
from pantheon.quote import quoted
from pantheon.schema import DTYPES, MAX_DIM, MAX_NAME, MAX_RANK

MAX_LIST = 4096
"""Elements of the longest list a header may hold."""

MAX_TEXT = 1 << 16
"""Characters of the longest text a header may hold."""

MAX_ELEMENTS = 1 << 56
"""Elements of the largest tensor a header may describe, a dimension of 0 taken as 1."""

INT64 = (1 << 63) - 1
UINT64 = (1 << 64) - 1

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Fields:
    """The body of one message, as it came off the wire.

    Args:
        kind: what the message says it is, for error messages.
        body: names to plain values.

    Example:
        >>> Fields("score", {"request": 7}).integer("request")
        7
    """

    kind: str
    body: dict[str, Any]

    def _bad(self, key: str, expected: str) -> ProtocolError:
        found = quoted(self.body.get(key))
        return ProtocolError(f"{self.kind}: {key!r} must be {expected}, found {found}")

    def integer(self, key: str, low: int = 0, high: int = INT64) -> int:
        """An integer from `low` to `high`."""
        value = self.body.get(key)
        if type(value) is not int or not low <= value <= high:
            raise self._bad(key, f"an integer from {low} to {high}")
        return value

    def text(self, key: str, limit: int = MAX_NAME) -> str:
        """A string of at most `limit` characters."""
        value = self.body.get(key)
        if type(value) is not str or len(value) > limit:
            raise self._bad(key, f"text of at most {limit} characters")
        return value

    def flag(self, key: str) -> bool:
        """True or False."""
        value = self.body.get(key)
        if type(value) is not bool:
            raise self._bad(key, "true or false")
        return value

    def seconds(self, key: str) -> float:
        """A positive, finite number of seconds, at most a day."""
        value = self.body.get(key)
        if not isinstance(value, int | float) or not 0 < value <= 86400:
            raise self._bad(key, "seconds, more than 0 and at most a day")
        return float(value)

    def age(self, key: str) -> float:
        """A finite number of seconds from 0."""
        value = self.body.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= INT64:
            raise self._bad(key, "seconds from 0")
        return float(value)

    def maybe(self, key: str, read: Callable[[str], T]) -> T | None:
        """What `read` gives for `key`, or None when it is absent or null."""
        return None if self.body.get(key) is None else read(key)

    def items(self, key: str, limit: int = MAX_LIST) -> list[Any]:
        """A list of at most `limit` elements of any kind."""
        value = self.body.get(key)
        if type(value) is not list or len(value) > limit:
            raise self._bad(key, f"a list of at most {limit} elements")
        return value

    def integers(self, key: str) -> tuple[int, ...]:
        """A list of int64 from 0."""
        value = self.items(key)
        if not all(type(v) is int and 0 <= v <= INT64 for v in value):
            raise self._bad(key, "a list of integers from 0")
        return tuple(value)

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of names."""
        value = self.items(key, 256)
        if not all(type(v) is str and len(v) <= MAX_NAME for v in value):
            raise self._bad(key, f"a list of names of at most {MAX_NAME} characters")
        return tuple(value)


def tensor_bytes(kind: str, dtype: Any, shape: Any) -> int:
    """Bytes of a tensor whose dtype and shape an untrusted side claims; `ProtocolError` if absurd.

    >>> tensor_bytes("scored", "float32", [2, 3])
    24
    """
    if type(dtype) is not str or dtype not in DTYPES:
        raise ProtocolError(
            f"{kind}: unknown dtype {quoted(dtype)}; expected one of {sorted(DTYPES)}"
        )
    if type(shape) is not list or len(shape) > MAX_RANK + 1:
        raise ProtocolError(f"{kind}: a shape must be a list of at most {MAX_RANK + 1} dimensions")
    if not all(type(d) is int and 0 <= d <= MAX_DIM for d in shape):
        raise ProtocolError(f"{kind}: shape {quoted(shape)} has a dimension beyond 0 to {MAX_DIM}")
    # Nothing of the other dimensions travels where one is 0, yet strides are made of them.
    if math.prod(d or 1 for d in shape) > MAX_ELEMENTS:
        raise ProtocolError(f"{kind}: shape {quoted(shape)} is beyond {MAX_ELEMENTS} elements")
    return math.prod(shape) * DTYPES[dtype]
