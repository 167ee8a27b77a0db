"""What is packed comes back; what is not ours raises ProtocolError and nothing else."""

from __future__ import annotations

import tracemalloc
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pantheon.errors import ProtocolError, VersionMismatch
from pantheon.schema import DTYPES, FieldSpec, KnowledgeSchema
from pantheon.wire.fields import INT64
from pantheon.wire.framing import MAGIC, MAX_HEADER, SEALED, Damaged, pack, unpack
from pantheon.wire.messages import (
    Cancel,
    Goodbye,
    Heartbeat,
    Hello,
    Inquiry,
    Limits,
    Message,
    RawTensor,
    Refused,
    Score,
    Scored,
    Status,
    Welcome,
)
from pantheon.wire.plain import COUNTS, describe, restore

numbers = st.integers(0, (1 << 63) - 1)
names = st.text(max_size=40)
requests = st.lists(numbers, max_size=20).map(tuple)


@st.composite
def tensors(draw: st.DrawFn) -> RawTensor:
    dtype = draw(st.sampled_from(sorted(DTYPES)))
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=4)))
    size = int(np.prod(shape)) * DTYPES[dtype]
    return RawTensor(dtype, shape, draw(st.binary(min_size=size, max_size=size)))


@st.composite
def scores(draw: st.DrawFn) -> Score:
    if draw(st.booleans()):
        inputs = draw(st.dictionaries(names, tensors(), min_size=1, max_size=4))
        return Score(draw(numbers), inputs=inputs)
    ids = np.array(draw(st.lists(st.integers(-(1 << 63), (1 << 63) - 1))), np.int64)
    return Score(draw(numbers), ids, ids[::-1] if draw(st.booleans()) else None)


fields = st.builds(
    FieldSpec,
    st.text(min_size=1, max_size=40),
    st.sampled_from(sorted(DTYPES)),
    st.lists(st.integers(0, 1 << 11), max_size=4).map(tuple),
    st.sampled_from(["float32", "topk:64@1,2"]),
    st.none() | names,
    st.none() | names,
)
schemas = st.lists(fields, min_size=1, max_size=4, unique_by=lambda f: f.name).map(
    lambda found: KnowledgeSchema(tuple(found))
)
messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(
        Hello,
        names,
        names,
        numbers,
        st.just((1, 3)),
        st.none() | names,
        st.none() | st.lists(names, max_size=5).map(tuple),
        st.booleans(),
    ),
    st.builds(
        Welcome,
        names,
        names,
        schemas,
        st.none() | names,
        st.none() | numbers,
        numbers,
        st.booleans(),
        st.booleans(),
        numbers,
        st.floats(0.001, 86400),
        st.builds(Limits, st.integers(1, 1 << 40), st.integers(1, 1 << 40)),
        names.map(lambda name: name[:64]),
    ),
    scores(),
    st.builds(
        Scored,
        numbers,
        names,
        numbers,
        st.lists(tensors(), max_size=5).map(tuple),
        st.none() | st.integers(0, (1 << 64) - 1),
    ),
    st.builds(Refused, st.none() | numbers, names, names),
    st.builds(Heartbeat, requests),
    st.builds(Cancel, requests),
    st.builds(Goodbye, names),
    st.just(Inquiry()),
    st.builds(
        Status,
        names.map(lambda name: name[:64]),
        st.floats(0, 1e12),
        st.booleans(),
        st.lists(st.tuples(names, names), max_size=4).map(tuple),
        **dict.fromkeys(COUNTS, st.integers(0, INT64)),
    ),
)


def comparable(message: Message) -> Any:
    if isinstance(message, Score):
        ids = [None if a is None else a.tolist() for a in (message.ids, message.views)]
        return message.request, ids, message.inputs
    return message


@given(messages)
def test_every_message_comes_back_as_it_was(message: Message) -> None:
    assert comparable(unpack(pack(message))) == comparable(message)


@given(messages)
def test_every_message_survives_being_plain_values(message: Message) -> None:
    body, payloads = describe(message)
    assert comparable(restore(body, payloads)) == comparable(message)


@given(st.lists(st.binary(max_size=200), max_size=5))
def test_random_frames_raise_nothing_but_a_protocol_error(frames: list[bytes]) -> None:
    with pytest.raises((ProtocolError, VersionMismatch)):
        unpack(frames)


@given(st.binary(max_size=300), st.lists(st.binary(max_size=64), max_size=3))
def test_random_headers_under_our_magic_raise_nothing_but_a_protocol_error(
    header: bytes, payloads: list[bytes]
) -> None:
    with pytest.raises(ProtocolError):
        unpack([MAGIC + b"\x01" + header, *payloads])


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 1 << 63) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@given(messages, st.data())
def test_a_message_with_one_field_replaced_is_read_or_is_a_protocol_error(
    message: Message, data: st.DataObject
) -> None:
    body, payloads = describe(message)
    body[data.draw(st.sampled_from(sorted(body)))] = data.draw(plain)
    try:
        restored = restore(body, payloads)
    except ProtocolError:
        return
    assert isinstance(restored, Message)


@given(messages, st.data())
def test_a_cut_or_flipped_message_is_read_or_is_a_protocol_error(
    message: Message, data: st.DataObject
) -> None:
    frames = [bytearray(frame) for frame in pack(message)]
    frame = data.draw(st.sampled_from(frames))
    if frame and data.draw(st.booleans()):
        frame[data.draw(st.integers(0, len(frame) - 1))] ^= data.draw(st.integers(1, 255))
    else:
        del frame[data.draw(st.integers(0, len(frame))) :]
    try:
        restored = unpack(frames)
    except (ProtocolError, VersionMismatch):
        return
    assert isinstance(restored, Message)


def frame(**body: Any) -> bytes:
    return MAGIC + b"\x01" + bytes(msgpack.packb(body))


TENSOR = ["x", "float32", [2]]


@pytest.mark.parametrize(
    ("frames", "says"),
    [
        ([], "1 to 1024 frames"),
        ([b""] * 2000, "1 to 1024 frames"),
        ([b"HTTP/1.1 400 Bad Request"], "not a Pantheon message"),
        ([MAGIC + b"\x01" + bytes(MAX_HEADER)], "at most 262144"),
        ([MAGIC + b"\x01\xc1"], "not valid msgpack"),
        ([MAGIC + b"\x01\x93\x01\x02\x03"], "must be a map"),
        ([frame(kind="exec", code="1")], "unknown message 'exec'"),
        ([frame(kind=["score"])], "unknown message"),
        ([frame(kind="heartbeat", requests=[1, -1])], "'requests' must be a list of integers"),
        ([frame(kind="heartbeat", requests=list(range(5000)))], "not valid msgpack"),
        ([frame(kind="goodbye", reason="")] * 2, "1 payload frames, the header says 0"),
        (
            [frame(kind="score", request=1, ids=True, views=False, inputs=[]), b"1234"],
            "multiple of 8",
        ),
        ([frame(kind="score", request=1, ids=True, views=False, inputs=[])], "the header says 1"),
        (
            [frame(kind="score", request=1, ids=False, views=False, inputs=[])],
            "either ids or inputs",
        ),
        (
            [frame(kind="score", request=1, ids=True, views=True, inputs=[]), bytes(16), bytes(8)],
            "1 views for 2 ids",
        ),
        (
            [frame(kind="score", request=1, ids=False, views=False, inputs=[TENSOR]), bytes(4)],
            r"shape \(2,\) needs 8 bytes, found 4",
        ),
        (
            [
                frame(kind="score", request=1, ids=False, views=False, inputs=[TENSOR] * 2),
                *[b""] * 2,
            ],
            "needs 8 bytes|twice",
        ),
        (
            [frame(kind="scored", request=1, revision="", rows=1, parts=[["object", [1]]]), b""],
            "unknown dtype 'object'",
        ),
        (
            [
                frame(kind="scored", request=1, revision="", rows=1, parts=[["int8", [1 << 50]]]),
                b"",
            ],
            "dimension beyond",
        ),
        (
            [frame(kind="scored", request=1, revision="", rows=1, parts=[["int8", [-1]]]), b""],
            "dimension beyond",
        ),
    ],
)
def test_what_is_off_is_named(frames: list[bytes], says: str) -> None:
    with pytest.raises(ProtocolError, match=says):
        unpack(frames)


def test_another_version_of_the_framing_is_told_from_another_protocol() -> None:
    with pytest.raises(VersionMismatch, match="version 9, this one in 1"):
        unpack([MAGIC + b"\x09rest"])


def test_more_payload_than_accepted_is_refused_before_it_is_read() -> None:
    message = Scored(1, "r", 1, (RawTensor("int8", (100,), bytes(100)),))
    assert unpack(pack(message), 100) == message
    with pytest.raises(ProtocolError, match="carries 100 bytes; at most 99"):
        unpack(pack(message), 99)


def test_claimed_sizes_allocate_nothing() -> None:
    arrays = b"\xdc\x10\x00" * 100_000  # each begins an array of 4096 elements
    nested = MAGIC + b"\x01" + b"\xdd\x7f\xff\xff\xff" * 100
    parts = [["float64", [1 << 40] * 9]]
    huge = frame(kind="scored", request=1, revision="", rows=1, parts=parts)
    tracemalloc.start()
    try:
        for frames in ([MAGIC + b"\x01" + arrays], [nested], [huge, b""]):
            with pytest.raises(ProtocolError):
                unpack(frames)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def test_payloads_share_memory_both_ways() -> None:
    logits = np.zeros(1000, np.float32)
    ids = np.arange(10)
    frames = pack(Scored(1, "r", 1, (RawTensor("float32", (1000,), logits.data),)))
    logits[3] = 7
    found = unpack(frames)
    assert isinstance(found, Scored)
    assert np.shares_memory(np.frombuffer(found.parts[0].data, np.float32), logits)
    score = unpack(pack(Score(1, ids)))
    assert isinstance(score, Score)
    assert score.ids is not None
    assert np.shares_memory(score.ids, ids)


def test_a_tensor_that_does_not_fill_its_shape_is_not_sent() -> None:
    with pytest.raises(ProtocolError, match="needs 8 bytes, found 4"):
        pack(Scored(1, "r", 1, (RawTensor("float32", (2,), bytes(4)),)))


@pytest.mark.parametrize("letter", ["x", "\N{SNOWMAN}", "\N{GRINNING FACE}"])
def test_any_text_of_an_exception_can_be_sent(letter: str) -> None:
    message = unpack(pack(Refused(1, "error", "\udcff" + letter * 1_000_000)))
    assert isinstance(message, Refused)
    assert 10_000 < len(message.message) < 100_000


SHAPE = (1 << 30,) + (1,) * 8


@pytest.mark.parametrize(
    "message",
    [
        Score(
            1, inputs={f"{i:0200}": RawTensor("int8", (0, *SHAPE[1:]), b"") for i in range(1023)}
        ),
        Scored(1, "r" * 1024, 1, (RawTensor("bfloat16", (0, *SHAPE[:-1]), b""),) * 1023, 7),
        Welcome(
            "m" * 1024,
            "r" * 1024,
            KnowledgeSchema(
                tuple(
                    FieldSpec(f"{i:0256}", "float32", SHAPE[:-1], ragged="x" * 256, labels="y" * 16)
                    for i in range(256)
                )
            ),
        ),
        Hello("s", fields=tuple(f"{i:0256}" for i in range(256))),
        Heartbeat(tuple(range(1 << 62, (1 << 62) + 4096))),
        Status("1", 1.0, False, (("m" * 256, "r" * 256),) * 256),
    ],
    ids=lambda message: type(message).__name__,
)
def test_the_largest_messages_that_somebody_may_mean_are_read(message: Message) -> None:
    assert comparable(unpack(pack(message))) == comparable(message)


@given(messages)
def test_a_sealed_message_comes_back(message: Message) -> None:
    assert comparable(unpack(pack(message, sealed=True))) == comparable(message)


@given(messages.filter(lambda m: not isinstance(m, Scored)), st.data())
def test_a_bit_that_turns_over_in_a_sealed_message_is_found(
    message: Message, data: st.DataObject
) -> None:
    frames = [bytearray(f) for f in pack(message, sealed=True)]
    frame = data.draw(st.sampled_from([f for f in frames if f]))
    frame[data.draw(st.integers(0, len(frame) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(ProtocolError):
        unpack(frames)


def test_a_seal_covers_what_an_answers_digest_does_not() -> None:
    scored = Scored(7, "r", 1, (RawTensor("uint8", (3,), b"abc"),), digest=5)
    header, payload = (bytearray(f) for f in pack(scored, sealed=True))
    for at in range(len(SEALED), len(header)):
        wrong = bytearray(header)
        wrong[at] ^= 1
        with pytest.raises(Damaged):
            unpack([wrong, payload])
