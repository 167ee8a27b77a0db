"""However answers are cut, batches have the same bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pantheon.codec.api import compiled
from pantheon.codec.base import SchemaCodec
from pantheon.knowledge import Ragged, TopKLogits, Value
from pantheon.schema import FieldSpec, KnowledgeSchema
from pantheon.wire.buffers import to_raw
from student_client.assemble import Piece, collect, masks

ROWS = 23
DENSE = torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(0))
LENGTHS = torch.tensor([i * 7 % 4 for i in range(ROWS)])
TOKENS = int(LENGTHS.sum())
SCHEMA = KnowledgeSchema(
    (
        FieldSpec("dense", "float32", (3,)),
        FieldSpec("whole", "int64", (), "raw"),
        FieldSpec("ragged", "float32", (9,), "topk:2", ragged="tokens"),
    )
)
VALUES: dict[str, Value] = {
    "dense": DENSE,
    "whole": torch.arange(ROWS),
    "ragged": Ragged(
        TopKLogits(
            torch.arange(2.0 * TOKENS).reshape(TOKENS, 2),
            torch.arange(2 * TOKENS, dtype=torch.int32).reshape(TOKENS, 2) % 9,
            torch.ones(TOKENS, 1),
            (1.0,),
            9,
        ),
        LENGTHS,
    ),
}


def codec() -> SchemaCodec:
    return compiled(SCHEMA)


def piece(start: int, stop: int, rows: list[int] | None = None) -> Piece:
    """An answer for local rows of the whole, all of them or those at some positions."""
    at = torch.arange(start, stop)
    if rows is not None:
        at = at[torch.tensor(rows, dtype=torch.int64)]
    if len(at) == 0:
        return Piece(start, stop, np.zeros(0, np.int64), codec(), ())
    taken = {f: taken_rows(v, at) for f, v in VALUES.items()}
    parts = tuple(to_raw(t) for t in codec().encode(taken))
    return Piece(start, stop, None if rows is None else np.array(rows, np.int64), codec(), parts)


def taken_rows(value: Value, at: torch.Tensor) -> Value:
    from pantheon.knowledge import take_value

    return take_value(value, at)


def tensors(value: Value) -> list[torch.Tensor]:
    if isinstance(value, Ragged):
        return [value.lengths, *tensors(value.values)]
    if isinstance(value, TopKLogits):
        return [value.values, value.indices, value.tail]
    assert isinstance(value, torch.Tensor)
    return [value]


def same(a: Value, b: Value) -> bool:
    return all(torch.equal(x, y) for x, y in zip(tensors(a), tensors(b), strict=True))


@settings(deadline=None, max_examples=50)
@given(request=st.integers(1, ROWS), start=st.integers(0, ROWS - 1), length=st.integers(1, ROWS))
def test_any_cut_gives_the_same_bits(request: int, start: int, length: int) -> None:
    stop = min(start + length, ROWS)
    numbers = range(start // request, (stop - 1) // request + 1)
    pieces = [piece(n * request, min((n + 1) * request, ROWS)) for n in numbers]
    values, rows = collect(pieces, start, stop)
    assert rows is None
    for name, value in VALUES.items():
        assert same(values[name], value[start:stop])


@settings(deadline=None, max_examples=50)
@given(
    request=st.integers(1, ROWS),
    start=st.integers(0, ROWS - 1),
    length=st.integers(1, ROWS),
    chosen=st.sets(st.integers(0, ROWS - 1)),
)
def test_any_cut_of_some_rows_gives_these_rows_and_their_positions(
    request: int, start: int, length: int, chosen: set[int]
) -> None:
    stop = min(start + length, ROWS)
    pieces = []
    for n in range(start // request, (stop - 1) // request + 1):
        a, b = n * request, min((n + 1) * request, ROWS)
        pieces.append(piece(a, b, sorted(i - a for i in chosen if a <= i < b)))
    values, rows = collect(pieces, start, stop)
    here = sorted(i for i in chosen if start <= i < stop)
    assert rows is not None
    assert (rows + start).tolist() == here
    if here:
        for name, value in VALUES.items():
            assert same(values[name], taken_rows(value, torch.tensor(here)))


def test_a_request_of_whole_batches_is_not_copied() -> None:
    whole = piece(0, 8)
    data = np.frombuffer(whole.parts[0].data, np.uint8).ctypes.data
    values, _ = collect([whole], 0, 8)
    dense = values["dense"]
    assert isinstance(dense, torch.Tensor)
    assert dense.data_ptr() == data
    assert collect([whole], 0, 8)[0] is values


def test_coded_parts_are_let_go_of_once_they_are_decoded() -> None:
    one = piece(0, 4)
    assert one.parts
    assert len(one.values) == len(SCHEMA)
    assert one.parts == ()


@pytest.mark.parametrize("rows", [1, 4, 6])
def test_batches_of_real_rows_have_no_mask(rows: int) -> None:
    assert masks(None, 4, rows) == [None] * -(-rows // 4)
    assert masks(np.ones(rows, bool), 4, rows) == [None] * -(-rows // 4)


def test_an_answer_whose_decoding_fails_once_is_not_taken_for_none() -> None:
    made = piece(0, ROWS)

    class Fails:
        def decode(self, parts: object) -> dict[str, Value]:
            raise MemoryError

    made.codec = Fails()  # type: ignore[assignment]
    with pytest.raises(MemoryError):
        _ = made.values
    made.codec = codec()
    assert set(made.values) == set(VALUES)
