"""A student's requests in frames of a bounded size, and whole again where they arrive.

libzmq's bound on a frame holds before it is known who sends it, so it has to be small; inputs may
be large. A payload travels as pieces of `PIECE` bytes and a last one that is shorter, empty where
need be: where a payload ends is seen from the pieces, and no size is claimed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pantheon.errors import ProtocolError
from pantheon.wire.fields import INT64
from pantheon.wire.messages import Buffer
from pantheon.wire.plain import MAX_FRAMES

PIECE = 1 << 18
"""Bytes of every piece of a payload but its last."""


def to_pieces(frames: Sequence[Buffer], piece: int = PIECE) -> list[Buffer]:
    """The frames of a message with payloads in pieces, which share their memory.

    Args:
        frames: a header, which is left as it is, and its payloads.
        piece: bytes of a piece.

    Example:
        >>> [bytes(f) for f in to_pieces([b"header", b"abcde", b"", b"fg"], 2)]
        [b'header', b'ab', b'cd', b'e', b'', b'fg', b'']
    """
    found: list[Buffer] = [*frames[:1]]
    for payload in frames[1:]:
        size = memoryview(payload).nbytes
        if size < piece:
            found.append(payload)
            continue
        view = memoryview(payload).cast("B")
        found += [view[at : at + piece] for at in range(0, size + 1, piece)]
    return found


def from_pieces(
    frames: Iterable[Buffer], max_bytes: int = INT64, piece: int = PIECE
) -> list[Buffer]:
    """What `to_pieces` was given. A payload in one piece is not copied, the others are.

    Args:
        frames: from an untrusted side; taken one by one, and no more of them after an error.
        max_bytes: refuse more payload than this.
        piece: bytes of a piece.

    Raises:
        ProtocolError: too many payloads or bytes, or a payload that does not end.

    Example:
        >>> [bytes(f) for f in from_pieces([b"header", b"ab", b"cd", b"e", b""], piece=2)]
        [b'header', b'abcde', b'']
    """
    whole: list[Buffer] = []
    begun, goes_on, total = bytearray(), False, 0
    for frame in frames:
        if not goes_on and len(whole) == MAX_FRAMES:
            raise ProtocolError(f"a message must have 1 to {MAX_FRAMES} frames, found more")
        size = memoryview(frame).nbytes if whole else 0
        total += size
        if total > max_bytes:
            raise ProtocolError(
                f"a message carries {total} bytes or more; at most {max_bytes} are accepted"
            )
        if goes_on:
            begun += frame
        elif size == piece:
            begun = bytearray(frame)
            whole.append(begun)
        else:
            whole.append(frame)
        goes_on = size == piece
    if goes_on:
        raise ProtocolError(f"a payload that begins with {len(begun)} bytes does not end")
    return whole
