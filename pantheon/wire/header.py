"""The msgpack map of a message's header, bounded in what is built of it."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any, TypeVar

import msgpack

from pantheon.errors import ProtocolError
from pantheon.wire.fields import MAX_LIST, MAX_TEXT

MAX_VALUES = 1 << 14
"""Maps, lists and what is in them: 1,023 tensors of nine dimensions have 15,352."""

T = TypeVar("T", bound=Sized)


def read_header(packed: memoryview) -> dict[str, Any]:
    """The map in `packed`; `ProtocolError` for what is none, or is beyond the bounds above.

    >>> read_header(memoryview(msgpack.packb({"kind": "heartbeat", "requests": [1]})))
    {'kind': 'heartbeat', 'requests': [1]}
    """
    values = _Values()
    try:
        _require_whole(packed)
        body = msgpack.unpackb(
            packed,
            strict_map_key=True,
            object_hook=values.count,
            list_hook=values.count,
            max_str_len=MAX_TEXT * 4,
            max_bin_len=0,
            max_array_len=MAX_LIST,
            max_map_len=64,
            max_ext_len=0,
        )
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        raise ProtocolError(f"a header is not valid msgpack: {error!s:.200}") from None
    if type(body) is not dict or not all(type(key) is str for key in body):
        raise ProtocolError(f"a header must be a map with names, found {type(body).__name__}")
    return body


def _require_whole(packed: memoryview) -> None:
    """Have every list that is claimed be there, before any is built.

    Room is made for a list when its length was read: 3 KiB of claims within each other, of lists
    that never come, would take 31 MiB.
    """
    unpacker = msgpack.Unpacker(max_buffer_size=max(1, len(packed)))
    unpacker.feed(packed)
    unpacker.skip()


class _Values:
    """Counts what was built so far: a million empty lists, of one byte each, would take 65 MiB."""

    def __init__(self) -> None:
        self._left = MAX_VALUES

    def count(self, built: T) -> T:
        """Count a map or a list and what is in it; `ValueError` when there are too many."""
        self._left -= 1 + len(built)
        if self._left < 0:
            raise ValueError(f"it has more than {MAX_VALUES} values")
        return built
