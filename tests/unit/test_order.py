"""What the ranks of an epoch see: partition, padding, the same sequence on any world size."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pantheon.errors import ConfigError, DatasetError
from pantheon.sampling.order import Order

WORLDS = [1, 2, 3, 4, 6, 12]


def step(order: Order, epoch: int, number: int) -> tuple[list[int], list[bool]]:
    """Positions of one rank in one step, and which are real."""
    start = number * order.batch_size
    positions, real = order.positions(epoch, start, min(start + order.batch_size, order.rows))
    return positions.tolist(), [True] * len(positions) if real is None else real.tolist()


def whole_step(orders: list[Order], epoch: int, number: int) -> tuple[list[int], list[bool]]:
    """Positions of all ranks in one step, rank after rank."""
    parts = [step(order, epoch, number) for order in orders]
    return [p for ids, _ in parts for p in ids], [r for _, real in parts for r in real]


def ranks(size: int, global_batch: int, world: int, **options: bool) -> list[Order]:
    batch = global_batch // world
    return [Order(size, batch, seed=9, rank=r, world=world, **options) for r in range(world)]


@given(
    size=st.integers(1, 150),
    world=st.sampled_from(WORLDS),
    shuffle=st.booleans(),
    drop_last=st.booleans(),
    epoch=st.integers(0, 3),
)
@settings(max_examples=150, derandomize=True, deadline=None)
def test_any_world_size_sees_the_same_samples_in_the_same_steps(
    size, world, shuffle, drop_last, epoch
):
    drop_last = drop_last and size >= 12
    orders = ranks(size, 12, world, shuffle=shuffle, drop_last=drop_last)
    single = Order(size, 12, seed=9, shuffle=shuffle, drop_last=drop_last)
    assert {o.steps for o in orders} == {single.steps}
    assert len({o.rows for o in orders}) == 1
    for number in range(single.steps):
        expected, _ = step(single, epoch, number)
        found, real = whole_step(orders, epoch, number)
        assert [p for p, r in zip(found, real, strict=True) if r] == expected


@given(size=st.integers(1, 150), world=st.sampled_from(WORLDS), drop_last=st.booleans())
@settings(max_examples=100, derandomize=True, deadline=None)
def test_an_epoch_sees_every_sample_once(size, world, drop_last):
    drop_last = drop_last and size >= 12
    orders = ranks(size, 12, world, shuffle=True, drop_last=drop_last)
    seen: list[int] = []
    for order in orders:
        positions, real = order.positions(4, 0, order.rows)
        seen += positions.tolist() if real is None else positions[real].tolist()
    assert len(seen) == len(set(seen)) == (size // 12 * 12 if drop_last else size)
    assert set(seen) <= set(range(size))


@pytest.mark.parametrize("shuffle", [False, True])
def test_padding_repeats_the_first_sample_of_its_global_batch(shuffle):
    orders = ranks(17, 12, 3, shuffle=shuffle)
    first, _ = whole_step(orders, 0, 1)
    found, real = whole_step(orders, 0, 1)
    assert real == [True] * 5 + [False] * 7
    assert found[5:] == [first[0]] * 7


def test_every_rank_has_whole_batches_and_as_many_rows_as_the_others():
    orders = ranks(13, 12, 4)
    assert [o.rows for o in orders] == [6] * 4
    positions, real = orders[3].positions(0, 0, 6)
    assert real is not None
    assert positions.tolist() == [9, 10, 11, 12, 12, 12]
    assert real.tolist() == [True] * 3 + [False] * 3


def test_a_single_rank_ends_with_a_short_batch():
    order = Order(10, 4)
    assert (order.steps, order.rows) == (3, 10)
    positions, real = order.positions(0, 8, 10)
    assert positions.tolist() == [8, 9]
    assert real is None


def test_full_steps_carry_no_mask():
    order = ranks(17, 12, 3)[2]
    assert order.positions(0, 0, 4)[1] is None
    assert order.positions(0, 4, 8)[1] is not None


def test_drop_last_leaves_out_what_fills_no_global_batch():
    assert Order(10, 4, drop_last=True).rows == 8
    assert [o.rows for o in ranks(23, 12, 3, drop_last=True)] == [4] * 3


@given(st.integers(0, 70), st.integers(0, 70))
@settings(max_examples=80, derandomize=True, deadline=None)
def test_any_cut_of_the_rows_is_the_same_rows(a, b):
    order = ranks(200, 12, 3, shuffle=True)[1]
    start, stop = sorted((min(a, order.rows), min(b, order.rows)))
    whole = order.positions(2, 0, order.rows)[0]
    assert np.array_equal(order.positions(2, start, stop)[0], whole[start:stop])


def test_without_shuffle_every_epoch_is_in_the_dataset_s_order():
    order = Order(6, 2)
    for epoch in (0, 1, 7):
        assert order.positions(epoch, 0, 6)[0].tolist() == list(range(6))


def test_with_shuffle_every_epoch_has_an_order_of_its_own():
    order = Order(1000, 10, seed=1, shuffle=True)
    one, other = order.positions(0, 0, 1000)[0], order.positions(1, 0, 1000)[0]
    assert not np.array_equal(one, other)
    assert np.array_equal(one, order.positions(0, 0, 1000)[0])


def test_a_slice_at_the_end_of_a_hundred_million_samples_is_within_reach():
    order = Order(10**8, 256, seed=3, shuffle=True, rank=5, world=8)
    positions, real = order.positions(11, order.rows - 256, order.rows)
    assert positions.dtype == np.int64
    assert len(positions) == 256
    assert real is not None


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"size": 0}, DatasetError, "0 samples"),
        ({"batch_size": 0}, ConfigError, "batch_size is 0"),
        ({"world": 0}, ConfigError, "number of ranks is 0"),
        ({"world": 2, "rank": 2}, ConfigError, "rank is 2; expected 0 to 1"),
        ({"seed": -3}, ConfigError, "seed is -3"),
        ({"size": 3, "drop_last": True}, DatasetError, "drop_last"),
    ],
)
def test_an_order_that_cannot_be_says_why(options, error, named):
    with pytest.raises(error, match=named):
        Order(**({"size": 10, "batch_size": 4} | options))


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (3, 2), (0, 11)])
def test_rows_outside_the_epoch_are_named(start, stop):
    with pytest.raises(ConfigError, match="rank 0 has 0 to 10"):
        Order(10, 4).positions(0, start, stop)


def test_an_epoch_below_zero_is_refused():
    with pytest.raises(ConfigError, match="epoch is -1"):
        Order(10, 4).positions(-1, 0, 4)
