"""Which shard and row holds a pair, against a dictionary that knows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pantheon.errors import ConfigError, ShardError
from pantheon.store.pairs import PairIndex, from_runs, pair_arrays, require_sorted, runs

Pair = tuple[int, int]
PAIRS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3)), unique=True, max_size=40)


def arrays(pairs: list[Pair]) -> tuple[np.ndarray, np.ndarray]:
    """Sorted ids and views."""
    ordered = sorted(pairs)
    return pair_arrays([i for i, _ in ordered], [v for _, v in ordered])


@given(PAIRS)
def test_runs_describe_the_pairs(pairs: list[Pair]) -> None:
    ids, views = arrays(pairs)
    again = from_runs(runs(ids, views))
    assert np.array_equal(again[0], ids)
    assert np.array_equal(again[1], views)


@given(st.lists(PAIRS, max_size=5), PAIRS)
def test_a_pair_is_found_in_the_first_row_that_holds_it(
    shards: list[list[Pair]], asked: list[Pair]
) -> None:
    held = [list(zip(*arrays(s), strict=True)) for s in shards]
    index = PairIndex(runs(*arrays(s)) for s in shards)
    ids, views = pair_arrays([i for i, _ in asked], [v for _, v in asked])
    found_shard, found_row = index.find(ids, views)
    for pair, shard, row in zip(asked, found_shard, found_row, strict=True):
        if shard < 0:
            assert all(pair not in s for s in held)
        else:
            assert held[shard][row] == pair
    assert set(index.views) == {v for s in shards for _, v in s}
    assert index.ids().tolist() == sorted({i for s in shards for i, _ in s})


@pytest.mark.parametrize(
    ("ids", "views", "word"),
    [([1, 0], [0, 0], "sorted"), ([1, 1], [0, 0], "once"), ([-1], [0], "at least 0")],
)
def test_pairs_out_of_order_are_refused(ids: list[int], views: list[int], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        require_sorted(*pair_arrays(ids, views))


@pytest.mark.parametrize("bad", [([[1]], None), ([1.5], None), ([1, 2], [0])])
def test_ids_that_are_none_are_refused(bad: tuple[list[object], list[int] | None]) -> None:
    with pytest.raises(ConfigError, match="one-dimensional integers"):
        pair_arrays(*bad)


def test_runs_of_more_ids_than_memory_holds_are_refused() -> None:
    with pytest.raises(ShardError, match=f"state {1 << 46} rows"):
        from_runs([(0, 0, 1 << 46)])
    index = PairIndex([[(0, 0, 1 << 46)]])
    assert index.find(*pair_arrays([7]))[1].tolist() == [7]
    with pytest.raises(ShardError, match=f"state {1 << 46} rows"):
        index.ids()
