"""Messages as frames: every kind, its header and its payloads."""

from __future__ import annotations

from random import Random
from typing import Any

import msgpack
import numpy as np
import xxhash

from pantheon.errors import ProtocolError, VersionMismatch
from pantheon.schema import FieldSpec, KnowledgeSchema
from pantheon.wire.fields import tensor_bytes
from pantheon.wire.framing import is_sealed, pack, unpack
from pantheon.wire.messages import (
    Cancel,
    Goodbye,
    Heartbeat,
    Hello,
    Inquiry,
    Message,
    RawTensor,
    Refused,
    Score,
    Scored,
    Status,
    Welcome,
)
from pantheon.wire.pieces import from_pieces, to_pieces
from pantheon.wire.plain import describe
from tests.fuzz import tree
from tests.fuzz.octets import join, scramble, split
from tests.fuzz.target import Target

PREFIX, SEAL = 5, 8
PIECE = 16
"""Bytes of a piece: so few that payloads of short inputs have several."""
IDS = np.arange(3)
SCHEMA = KnowledgeSchema(
    (
        FieldSpec("a", "float32", (2,), "float16"),
        FieldSpec("b", "float32", (5,), "topk:2@1,2"),
        FieldSpec("c", "int64", (), "raw", ragged="tokens"),
        FieldSpec("d", "float32", (2,), "int8"),
        FieldSpec("e", "bool", (0,), "raw", labels="letters"),
    )
)
MESSAGES: tuple[Message, ...] = (
    Hello("s", "m", 1, (1, 3), "d", ("a", "b"), True),
    Hello("s"),
    Welcome("m", "r1", SCHEMA, "d", 100, 2),
    Score(1, IDS, IDS),
    Score(2, IDS),
    Score(
        3, inputs={"": RawTensor("float32", (2, 1), bytes(8)), "x": RawTensor("bool", (2,), b"12")}
    ),
    Scored(4, "r1", 2, (RawTensor("float16", (2, 2), bytes(8)), RawTensor("int8", (0,), b"")), 7),
    Refused(5, "limits", "too much"),
    Refused(None, "version", ""),
    Heartbeat((1, 2, 3)),
    Cancel((1,)),
    Goodbye("going"),
    Inquiry(),
    Status("0.1.0", 9.5, False, (("m", "r"),), requests=1, rows=2, bytes=3),
)


def read(data: bytes) -> None:
    """Unpack a message from pieces; what was unpacked packs and unpacks to the same."""
    message = unpack(from_pieces(split(data), 1 << 20, PIECE), 1 << 20)
    body, payloads = describe(message)
    again, same = describe(unpack(from_pieces(to_pieces(pack(message), PIECE), piece=PIECE)))
    assert again == body
    assert [bytes(p) for p in same] == [bytes(p) for p in payloads]


def mutate(data: bytes, rng: Random) -> bytes:
    """Change the header as a tree or as bytes, or the frames, or fit the frames to the header."""
    frames = split(data) or [b""]
    at = rng.randrange(len(frames))
    match rng.randrange(9):
        case 0:
            frames[at] = scramble(frames[at], rng)
        case 1:
            del frames[at]
        case 2:
            frames.insert(at, frames[rng.randrange(len(frames))])
        case 3:
            frames = fit(frames)
        case 4:
            frames = in_pieces(frames)
        case _:
            frames[0] = change_header(frames[0], rng)
            frames = in_pieces(fit(frames)) if rng.random() < 0.5 else frames
    return join(frames)


def change_header(header: bytes, rng: Random) -> bytes:
    """A header with one of its values changed; as bytes where it is no msgpack."""
    try:
        body = msgpack.unpackb(header[_begin(header) :], strict_map_key=False)
        return _reseal(header, bytes(msgpack.packb(tree.change(body, rng))))
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException):
        return scramble(header, rng)


def _begin(header: bytes) -> int:
    return PREFIX + SEAL * is_sealed(header)


def _reseal(header: bytes, packed: bytes) -> bytes:
    """The header with another map, under the right seal where it is sealed."""
    prefix = header[:PREFIX]
    if not is_sealed(header):
        return prefix + packed
    return prefix + xxhash.xxh3_64_intdigest(prefix + packed).to_bytes(SEAL, "little") + packed


def fit(frames: list[bytes]) -> list[bytes]:
    """The frames, as many and as long as the header says, where that is short."""
    try:
        body = msgpack.unpackb(frames[0][_begin(frames[0]) :])
        sizes = [len(f) for f in frames[1:]][: bool(body.get("ids")) + bool(body.get("views"))]
        described = body.get("parts") or body.get("inputs") or []
        sizes += [tensor_bytes("", *item[-2:]) for item in described]
    except (ValueError, TypeError, AttributeError, ProtocolError, msgpack.UnpackException):
        return frames
    old: list[Any] = [*frames[1:], *[b""] * len(sizes)]
    return frames[:1] + [
        old[i][:size].ljust(min(size, 4096), b"\1") for i, size in enumerate(sizes)
    ]


def in_pieces(frames: list[bytes]) -> list[bytes]:
    """The frames, long payloads in pieces."""
    return [bytes(f) for f in to_pieces(frames, PIECE)]


def seeds() -> list[bytes]:
    """Every message, as it is and sealed."""
    packed = [pack(m, sealed=sealed) for m in MESSAGES for sealed in (False, True)]
    return [join(in_pieces([bytes(f) for f in frames])) for frames in packed]


TARGET = Target(
    seeds,
    mutate,
    read,
    (ProtocolError, VersionMismatch),
)
