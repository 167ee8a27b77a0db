"""Payloads in pieces: as they were, not copied where they need not be, bounded by what came."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pantheon.errors import ProtocolError
from pantheon.wire.framing import Damaged, pack, unpack
from pantheon.wire.messages import RawTensor, Score
from pantheon.wire.pieces import PIECE, from_pieces, to_pieces
from pantheon.wire.plain import MAX_FRAMES

payloads = st.lists(st.binary(max_size=40), max_size=6)


@given(st.binary(max_size=40), payloads, st.integers(1, 17))
def test_payloads_come_back_as_they_were(header: bytes, sent: list[bytes], piece: int) -> None:
    frames = to_pieces([header, *sent], piece)
    assert frames[0] == header
    assert all(len(f) <= piece for f in frames[1:])
    assert [bytes(f) for f in from_pieces(frames, piece=piece)] == [header, *sent]


@given(st.lists(st.binary(max_size=8), max_size=12))
def test_any_frames_are_read_or_refused(frames: list[bytes]) -> None:
    try:
        found = from_pieces(frames, 30, 4)
    except ProtocolError:
        return
    assert b"".join(found) == b"".join(frames)


def test_only_what_is_long_is_copied() -> None:
    short, long = np.zeros(PIECE - 1, np.uint8), np.zeros(PIECE, np.uint8)
    header, *pieces = to_pieces([b"header", short.data, long.data])
    assert [len(p) for p in pieces] == [PIECE - 1, PIECE, 0]
    short[3] = long[3] = 7
    found = from_pieces([header, *pieces])
    assert np.shares_memory(np.frombuffer(found[1], np.uint8), short)
    assert found[2] == long.tobytes()


@pytest.mark.parametrize(
    ("endless", "most"), [(b"", MAX_FRAMES), (b"a", MAX_FRAMES), (b"abcd", 2048)]
)
def test_a_message_that_never_ends_is_taken_up_to_the_bounds(endless: bytes, most: int) -> None:
    taken = itertools.count()
    frames = (endless if next(taken) else b"header" for _ in itertools.repeat(None))
    with pytest.raises(ProtocolError, match=f"to {MAX_FRAMES} frames|at most 8188 are accepted"):
        from_pieces(frames, 8188, 4)
    assert next(taken) == most + 1


def test_a_payload_without_its_end_is_refused() -> None:
    with pytest.raises(ProtocolError, match="does not end"):
        from_pieces([b"header", b"abcd", b"efgh"], piece=4)


def test_a_seal_covers_the_pieces() -> None:
    score = Score(1, inputs={"x": RawTensor("uint8", (10,), b"0123456789")})
    frames = to_pieces(pack(score, sealed=True), 4)
    assert unpack(from_pieces(frames, piece=4)) == score
    frames[1], frames[2] = frames[2], frames[1]
    with pytest.raises(Damaged):
        unpack(from_pieces(frames, piece=4))
