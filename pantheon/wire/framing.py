"""The wire format: a message as a msgpack header and raw payload frames, and back.

The first frame is ``b"PNTN"``, one byte with the version of this framing, and a msgpack map that
says what the message is and describes the frames that follow: int64 ids and views, then tensors,
each little-endian in C order.

A message may be sealed. Its first frame then begins with ``b"PNTS"``, the version, and the xxh3_64
of these and of the map; the map has the xxh3_64 of the frames that follow, where the message has no
digest of its own. So a bit that turned over on the way is found wherever it is, and cannot make a
sealed message one that is not. A seal is no defence against people; keys are.

Nothing is copied either way, nothing is allocated from a claimed
size, and nothing but plain values is ever decoded.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgpack
import xxhash

from pantheon.errors import ProtocolError, VersionMismatch
from pantheon.wire.fields import INT64
from pantheon.wire.header import read_header
from pantheon.wire.messages import Buffer, Message
from pantheon.wire.plain import MAX_FRAMES, describe, restore

MAGIC = b"PNTN"
SEALED = b"PNTS"
FRAMING = 1
"""Version of the framing itself; what is said inside it is negotiated by `Hello.protocol`."""

MAX_HEADER = 1 << 18
"""Bytes of a header: 1,023 tensors may have names of 200 letters, or 256 fields ones of 800."""

_PREFIX = MAGIC + bytes([FRAMING])
_SEALED_PREFIX = SEALED + bytes([FRAMING])
_SEAL_BYTES = 8


def pack(message: Message, *, sealed: bool = False) -> list[Buffer]:
    """The frames of a message: a header, then payloads that share the message's memory.

    Args:
        sealed: have the receiver find out if a bit turned over on the way.

    Raises:
        ProtocolError: a message that no receiver would accept.

    Example:
        >>> from pantheon.wire.messages import Cancel
        >>> unpack(pack(Cancel((1, 2))))
        Cancel(requests=(1, 2))
    """
    body, payloads = describe(message)
    if sealed:
        if payloads and body.get("digest") is None:
            body["seal"] = _digest(payloads)
        packed = msgpack.packb(body)
        seal = _digest([_SEALED_PREFIX, packed]).to_bytes(_SEAL_BYTES, "little")
        header = _SEALED_PREFIX + seal + packed
    else:
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
    packed = _open(memoryview(frames[0]))
    body = read_header(packed)
    seal = body.get("seal")
    if seal is not None and seal != _digest(frames[1:]):
        raise Damaged("a sealed message's payload is not what was sent")
    return restore(body, frames[1:])


class Damaged(ProtocolError):
    """A sealed message is not what was sent."""


def is_sealed(frame: Buffer) -> bool:
    """Whether a first frame says that its message is sealed.

    >>> from pantheon.wire.messages import Goodbye
    >>> is_sealed(pack(Goodbye(""), sealed=True)[0]), is_sealed(pack(Goodbye(""))[0])
    (True, False)
    """
    return bytes(memoryview(frame)[: len(SEALED)]) == SEALED


def _digest(frames: Sequence[Buffer]) -> int:
    state = xxhash.xxh3_64()
    for frame in frames:
        state.update(frame)
    return int(state.intdigest())


def _open(view: memoryview) -> memoryview:
    """The msgpack map of a header, whose prefix, and seal if it has one, are right."""
    if view.nbytes > MAX_HEADER:
        raise ProtocolError(f"a header has {view.nbytes} bytes; at most {MAX_HEADER} are accepted")
    prefix = bytes(view[: len(_PREFIX)])
    if prefix[: len(MAGIC)] not in (MAGIC, SEALED) or len(prefix) < len(_PREFIX):
        raise ProtocolError(
            f"not a Pantheon message: it begins with {prefix!r}, expected {MAGIC!r}"
        )
    packed = view[len(_PREFIX) :]
    if is_sealed(prefix):
        seal, packed = packed[:_SEAL_BYTES], packed[_SEAL_BYTES:]
        if int.from_bytes(seal, "little") != _digest([prefix, packed]):
            raise Damaged("a sealed message's header is not what was sent")
    if prefix[-1] != FRAMING:
        raise VersionMismatch(
            f"the other side frames its messages in version {prefix[-1]}, this one in {FRAMING}; "
            "install the same release of pantheon on both"
        )
    return packed
