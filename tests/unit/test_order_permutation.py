"""The keyed permutation: golden vectors, bijection, mixing, cost."""

import itertools
import tracemalloc
from collections import Counter
from math import factorial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pantheon.errors import ConfigError, DatasetError
from pantheon.sampling.order import MAX_SEED, MAX_SIZE, permute

GOLDEN = [
    (1, 0, 0, [0]),
    (2, 0, 0, [1, 0]),
    (3, 0, 0, [2, 0, 1]),
    (10, 0, 0, [7, 5, 4, 9, 3, 6, 0, 2, 8, 1]),
    (10, 1, 0, [0, 2, 8, 5, 3, 9, 4, 6, 1, 7]),
    (10, 0, 1, [5, 8, 2, 4, 3, 0, 9, 1, 6, 7]),
    (10, 2**63, 2**63, [7, 6, 3, 8, 4, 0, 9, 5, 1, 2]),
]
GOLDEN_FEW = [
    (257, 7, 3, [48, 30, 6, 133, 113]),
    (1797, 0, 0, [1599, 706, 1355, 183, 1255]),
    (10**8, 42, 1, [4482952, 63618841, 72947720, 32487866, 20348320]),
    (2**40 + 1, 1, 2, [795552716700, 399402283700, 870902341434, 695852378350, 685811047648]),
    (
        2**62,
        2**63,
        5,
        [
            2090977923192044246,
            3223132749119190675,
            4061809009629636998,
            4002779602370012803,
            4441802083699345888,
        ],
    ),
]
SIZES = [*range(1, 200), 255, 256, 257, 997, 1000, 1024, 1797, 4095, 4096, 4097, 65536, 65537]


@pytest.mark.parametrize(("n", "seed", "epoch", "expected"), GOLDEN)
def test_the_order_never_changes_between_releases(n, seed, epoch, expected):
    assert permute(np.arange(n), n, seed, epoch).tolist() == expected


@pytest.mark.parametrize(("n", "seed", "epoch", "expected"), GOLDEN_FEW)
def test_the_order_of_large_sets_never_changes_between_releases(n, seed, epoch, expected):
    positions = np.array([0, 1, 2, n // 2, n - 1])
    assert permute(positions, n, seed, epoch).tolist() == expected


@pytest.mark.parametrize("n", SIZES)
def test_every_position_goes_to_a_place_of_its_own(n):
    assert np.array_equal(np.sort(permute(np.arange(n), n, seed=3, epoch=1)), np.arange(n))


@given(st.integers(1, 5000), st.integers(0, MAX_SEED), st.integers(0, MAX_SEED))
@settings(max_examples=60, derandomize=True, deadline=None)
def test_any_seed_and_epoch_is_a_bijection(n, seed, epoch):
    assert len(np.unique(permute(np.arange(n), n, seed, epoch))) == n


@given(st.integers(1, MAX_SIZE), st.data())
@settings(max_examples=100, derandomize=True, deadline=None)
def test_a_position_goes_to_the_same_place_whatever_it_is_asked_with(n, data):
    few = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=9))
    together = permute(np.array(few), n, 5, 2)
    alone = [int(permute(np.array([p]), n, 5, 2)[0]) for p in few]
    assert together.tolist() == alone
    assert all(0 <= p < n for p in alone)
    assert len(set(alone)) == len(set(few))


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6])
def test_small_sets_take_every_permutation_about_equally_often(n):
    total = 60 * factorial(n) if n < 6 else 20 * factorial(n)
    found = Counter(tuple(permute(np.arange(n), n, seed, 0).tolist()) for seed in range(total))
    expected = total / factorial(n)
    orders = itertools.permutations(range(n))
    chi2 = sum((found[order] - expected) ** 2 / expected for order in orders)
    freedom = factorial(n) - 1
    assert chi2 < freedom + 4 * (2 * freedom) ** 0.5 + 4


@pytest.mark.parametrize("n", [256, 257, 1000, 1797, 10**8, MAX_SIZE])
def test_positions_and_neighbours_spread_evenly(n):
    seeds, parts = 2000, 16
    places = np.array([permute(np.array([0, 1, n - 1]), n, seed, 0) for seed in range(seeds)])
    apart = (places[:, 0] - places[:, 1]) % n
    for column in (*places.T, apart):
        counts = np.bincount(column // (n // parts + 1), minlength=parts)
        edges = np.minimum(np.arange(parts + 1) * (n // parts + 1), n)
        share = np.diff(edges) / n * seeds
        assert ((counts - share) ** 2 / share).sum() < 45


def test_seeds_and_epochs_that_differ_by_one_give_unrelated_orders():
    n = 10_000
    orders = [permute(np.arange(n), n, seed, epoch) for seed in (0, 1, 2) for epoch in (0, 1, 2)]
    for one, other in itertools.combinations(orders, 2):
        assert np.count_nonzero(one == other) < 12
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.05


def test_memory_depends_on_the_slice_only():
    tracemalloc.start()
    try:
        permute(np.arange(1024) + 50_000_000, 10**8, 1, 0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


def test_the_shape_is_kept_and_nothing_is_a_slice_too():
    positions = np.arange(6).reshape(2, 3)
    assert permute(positions, 6, 0, 0).shape == (2, 3)
    assert permute(np.array([], dtype=np.int64), 6, 0, 0).shape == (0,)
    assert positions.tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    ("n", "seed", "epoch", "named"),
    [
        (0, 0, 0, "number of positions is 0"),
        (MAX_SIZE + 1, 0, 0, "number of positions"),
        (5, -1, 0, "seed is -1"),
        (5, MAX_SEED + 1, 0, "seed is"),
        (5, 0, -1, "epoch is -1"),
    ],
)
def test_what_cannot_be_permuted_is_named(n, seed, epoch, named):
    with pytest.raises(ConfigError, match=named):
        permute(np.arange(min(n, 5)), n, seed, epoch)


@pytest.mark.parametrize("position", [-1, 5])
def test_a_position_out_of_range_is_named(position):
    with pytest.raises(DatasetError, match=f"{position}.*expected 0 to 4"):
        permute(np.array([2, position]), 5, 0, 0)
