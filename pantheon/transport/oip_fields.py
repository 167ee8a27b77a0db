"""Counts the fields of a protobuf message before it is parsed.

An empty tensor is two bytes on the wire and ninety once parsed, so a message of the largest size
could take forty times its bytes before any of our checks sees it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pantheon.errors import ProtocolError

MAX_FIELDS = 1 << 14
"""Fields of the largest message, those of its tensors and parameters included."""


def bounded(message: Any) -> Callable[[bytes], Any]:
    """A parser of a message class that refuses more than `MAX_FIELDS` fields.

    Args:
        message: a protobuf message class.

    Returns:
        What parses bytes; it raises `ProtocolError` for too many fields, groups or a field that is
        cut short, and protobuf's ``DecodeError`` for what else is wrong.

    Example:
        >>> from pantheon.transport import oip
        >>> bounded(oip.ModelReadyRequest)(oip.ModelReadyRequest(name="m").SerializeToString()).name
        'm'
    """

    def parse(data: bytes) -> Any:
        _left(memoryview(data), message.DESCRIPTOR, MAX_FIELDS)
        return message.FromString(data)

    return parse


def _left(data: memoryview, descriptor: Any, left: int) -> int:
    """How many fields may still come after those in `data`."""
    at, end = 0, len(data)
    while at < end:
        left -= 1
        if left < 0:
            raise ProtocolError(f"a message has more than {MAX_FIELDS} fields")
        key, at = _varint(data, at)
        start, at = _value(data, at, key & 7)
        if at > end:
            raise ProtocolError("a message ends inside a field")
        field = descriptor.fields_by_number.get(key >> 3)
        if key & 7 == 2 and field is not None and field.message_type is not None:
            left = _left(data[start:at], field.message_type, left)
    return left


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
