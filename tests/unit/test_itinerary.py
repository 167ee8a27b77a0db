"""The ids of every row, whatever blocks they are computed in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pantheon.errors import DatasetError, IdOutOfRange
from pantheon.sampling import itinerary as module
from pantheon.sampling.itinerary import Itinerary, chosen_ids, joined
from pantheon.sampling.order import Order


@given(
    size=st.integers(1, 60),
    batch=st.integers(1, 9),
    world=st.integers(1, 3),
    block=st.integers(1, 20),
)
@settings(deadline=None)
def test_batches_have_the_ids_of_their_rows_in_whatever_blocks(
    size: int, batch: int, world: int, block: int
) -> None:
    order = Order(size, batch, seed=3, shuffle=True, rank=world - 1, world=world)
    way = Itinerary(order, np.arange(size) * 10 + 5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", block)
        steps = [way.batch_ids(2, step) for step in range(order.steps)]
    assert [i for ids in steps for i in ids] == way.stretch(2, 0, order.rows).ids.tolist()


@given(cut=st.integers(1, 12), start=st.integers(0, 29), length=st.integers(1, 30))
def test_stretches_are_joined_to_any_rows(cut: int, start: int, length: int) -> None:
    order = Order(50, 10, shuffle=True, rank=1, world=2)
    way = Itinerary(order)
    stop = min(start + length, order.rows)
    numbers = range(start // cut, (stop - 1) // cut + 1)
    parts = [way.stretch(0, n * cut, min((n + 1) * cut, order.rows)) for n in numbers]
    found, whole = joined(parts, start, stop), way.stretch(0, start, stop)
    assert found.ids.tolist() == whole.ids.tolist()
    real = [np.ones(stop - start, bool) if s.real is None else s.real for s in (found, whole)]
    assert real[0].tolist() == real[1].tolist()


def test_views_come_round_with_the_epochs() -> None:
    order = Order(4, 2)
    assert [Itinerary(order, views=3).view(e) for e in range(5)] == [1, 2, 3, 1, 2]
    assert Itinerary(order).view(7) == 0


@pytest.mark.parametrize(
    ("ids", "error", "words"),
    [
        ([0, 10], IdOutOfRange, "10"),
        ([-1], IdOutOfRange, "-1"),
        ([2, 2], DatasetError, "more than once"),
        ([], DatasetError, "at least one"),
        ([0.5], DatasetError, "float64"),
        ([[1]], DatasetError, r"\(1, 1\)"),
        (["a"], DatasetError, "whole number"),
    ],
)
def test_ids_that_cannot_be_are_named(ids: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        chosen_ids(ids, size=10)
    assert chosen_ids(None, size=10) is None


def test_ids_may_be_a_range_or_an_array() -> None:
    for ids in (range(3), np.array([0, 1, 2], np.int32), (0, 1, 2)):
        found = chosen_ids(ids, None)
        assert found is not None
        assert found.dtype == np.int64
        assert found.tolist() == [0, 1, 2]
