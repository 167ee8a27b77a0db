"""Counts the fields and numbers of a protobuf message before it is parsed.

An empty tensor is two bytes on the wire and ninety once parsed, and a number of one byte takes up
to thirty-two in a list that grows, so a message of the largest size could take forty times its
bytes before any of our checks sees it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from google.protobuf.descriptor import FieldDescriptor

from pantheon.errors import ProtocolError

MAX_FIELDS = 1 << 14
"""Fields of the largest message, those of its tensors and parameters included."""

MAX_VARINTS = 1 << 20
"""Numbers of any length in the lists of a message; floats take no more once parsed."""

_VARINT_BYTES = 10
_NOT_VARINT = frozenset(
    (
        FieldDescriptor.TYPE_DOUBLE,
        FieldDescriptor.TYPE_FLOAT,
        FieldDescriptor.TYPE_STRING,
        FieldDescriptor.TYPE_BYTES,
    )
)


def bounded(message: Any) -> Callable[[bytes], Any]:
    """A parser of a message class that refuses more than `MAX_FIELDS` fields or `MAX_VARINTS`.

    Args:
        message: a protobuf message class.

    Returns:
        What parses bytes; it raises `ProtocolError` for too many fields or numbers, groups or a
        field that is cut short, and protobuf's ``DecodeError`` for what else is wrong.

    Example:
        >>> from pantheon.transport import oip
        >>> bounded(oip.ModelReadyRequest)(oip.ModelReadyRequest(name="m").SerializeToString()).name
        'm'
    """

    def parse(data: bytes) -> Any:
        _Count().take(memoryview(data), message.DESCRIPTOR)
        return message.FromString(data)

    return parse


class _Count:
    """What a message has so far."""

    def __init__(self) -> None:
        self._fields = self._varints = 0

    def take(self, data: memoryview, descriptor: Any) -> None:
        """Count the fields of a message, and of the messages in it."""
        at, end = 0, len(data)
        while at < end:
            self._fields += 1
            if self._fields > MAX_FIELDS:
                raise ProtocolError(f"a message has more than {MAX_FIELDS} fields")
            key, at = _varint(data, at)
            start, at = _value(data, at, key & 7)
            if at > end:
                raise ProtocolError("a message ends inside a field")
            field = descriptor.fields_by_number.get(key >> 3)
            if key & 7 != 2 or field is None:
                continue
            if field.message_type is not None:
                self.take(data[start:at], field.message_type)
            elif field.is_repeated and field.type not in _NOT_VARINT:
                self._list(data[start:at])

    def _list(self, packed: memoryview) -> None:
        """Count numbers; only their last bytes have no high bit."""
        # What is too long by its bytes alone is not looked through.
        if len(packed) <= MAX_VARINTS * _VARINT_BYTES:
            ends = np.frombuffer(packed, np.int8) >= 0
            self._varints += int(np.count_nonzero(ends))
            if self._varints <= MAX_VARINTS:
                return
        raise ProtocolError(
            f"a message has lists of more than {MAX_VARINTS} integers or booleans; send tensors as "
            "raw contents"
        )


def _value(data: memoryview, at: int, kind: int) -> tuple[int, int]:
    """Where a value of a wire type starts and ends."""
    match kind:
        case 0:
            return at, _varint(data, at)[1]
        case 1:
            return at, at + 8
        case 2:
            size, start = _varint(data, at)
            return start, start + size
        case 5:
            return at, at + 4
    raise ProtocolError(f"a message has a field of wire type {kind}, which the protocol never has")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """A number, and the place after it."""
    value = 0
    for i, byte in enumerate(data[at : at + 10]):
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return value, at + i + 1
    raise ProtocolError("a message has a number that does not end")
