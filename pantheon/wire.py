"""The wire format: a message as a msgpack header and raw payload frames, and back.

The first frame is ``b"PNTN"``, one byte with the version of this framing, and a msgpack map that
says what the message is and describes the frames that follow: int64 ids and views, then tensors,
each little-endian in C order. Nothing is copied either way, nothing is allocated from a claimed
size, and nothing but plain values is ever decoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgpack

from pantheon.errors import ProtocolError, VersionMismatch
from pantheon.messages import Buffer, Message
from pantheon.wire_fields import INT64, MAX_LIST, MAX_TEXT
from pantheon.wire_messages import MAX_FRAMES, describe, restore

MAGIC = b"PNTN"
FRAMING = 1
"""Version of the framing itself; what is said inside it is negotiated by `Hello.protocol`."""

MAX_HEADER = 1 << 20

_PREFIX = MAGIC + bytes([FRAMING])


def pack(message: Message) -> list[Buffer]:
    """The frames of a message: a header, then payloads that share the message's memory.

    Raises:
        ProtocolError: a message that no receiver would accept.

    Example:
        >>> from pantheon.messages import Cancel
        >>> unpack(pack(Cancel((1, 2))))
        Cancel(requests=(1, 2))
    """
    body, payloads = describe(message)
    header = _PREFIX + msgpack.packb(body)
    if len(header) > MAX_HEADER or len(payloads) >= MAX_FRAMES:
        raise ProtocolError(
            f"{body['kind']}: a header of {len(header)} bytes and {len(payloads)} payloads exceeds "
            f"{MAX_HEADER} bytes or {MAX_FRAMES - 1} payloads; send fewer tensors"
        )
    return [header, *payloads]


def unpack(frames: Sequence[Buffer], max_bytes: int = INT64) -> Message:
    """The message in `frames`, whose tensors share the frames' memory.

    Args:
        frames: a header and its payloads, from an untrusted side.
        max_bytes: refuse more payload than this.

    Raises:
        ProtocolError: bytes that are not this protocol, or break its bounds; names what is off.
        VersionMismatch: a framing of another version.
    """
    if not frames or len(frames) > MAX_FRAMES:
        raise ProtocolError(f"a message must have 1 to {MAX_FRAMES} frames, found {len(frames)}")
    size = sum(memoryview(f).nbytes for f in frames[1:])
    if size > max_bytes:
        raise ProtocolError(f"a message carries {size} bytes; at most {max_bytes} are accepted")
    return restore(_header(frames[0]), frames[1:])


def _header(frame: Buffer) -> dict[str, Any]:
    view = memoryview(frame)
    if view.nbytes > MAX_HEADER:
        raise ProtocolError(f"a header has {view.nbytes} bytes; at most {MAX_HEADER} are accepted")
    prefix = bytes(view[: len(_PREFIX)])
    if prefix[: len(MAGIC)] != MAGIC or len(prefix) < len(_PREFIX):
        raise ProtocolError(
            f"not a Pantheon message: it begins with {prefix!r}, expected {MAGIC!r}"
        )
    if prefix != _PREFIX:
        raise VersionMismatch(
            f"the other side frames its messages in version {prefix[-1]}, this one in {FRAMING}; "
            "install the same release of pantheon on both"
        )
    try:
        body = msgpack.unpackb(
            view[len(_PREFIX) :],
            strict_map_key=True,
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
