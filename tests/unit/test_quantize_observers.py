"""Observers beside values computed by hand, and what their predecessors got wrong."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from pantheon.compress.quantize.grid import Grid
from pantheon.compress.quantize.histogram import Histogram
from pantheon.compress.quantize.observers import (
    FRACTIONS,
    OBSERVERS,
    AbsMax,
    Average,
    Divergence,
    LeastError,
    MovingAverage,
    Percentile,
    RangeAbsMax,
    moved,
    observer,
    require_values,
    squared,
)
from pantheon.errors import CompressionError, ConfigError

EIGHT = Grid(8)


def seen(which, *batches):
    for batch in batches:
        which.see(torch.as_tensor(batch, dtype=torch.float32))
    return which


# ---- the grid


@pytest.mark.parametrize(
    ("bits", "signed", "lowest", "highest"),
    [
        (8, True, -127, 127),
        (8, False, 0, 255),
        (4, True, -7, 7),
        (2, True, -1, 1),
        (2, False, 0, 3),
    ],
)
def test_integers_of_some_bits(bits, signed, lowest, highest):
    grid = Grid(bits, signed)
    assert (grid.lowest, grid.highest) == (lowest, highest)
    assert len({int(q) for q in range(grid.lowest, grid.highest + 1)}) <= 2**bits


@pytest.mark.parametrize("bits", [1, 9, 8.0, "8", True])
def test_other_bits_are_refused(bits):
    with pytest.raises(ConfigError, match=r"bits is .*; expected 2 to 8"):
        Grid(bits)


def test_the_threshold_itself_is_not_clipped_and_more_is():
    for grid in (Grid(8), Grid(8, signed=False), Grid(3), Grid(3, signed=False)):
        scale = grid.scale(torch.tensor(6.0))
        rounded = grid.rounded(torch.tensor([6.0, 7.0, -7.0, 0.0]), scale)
        lowest = -6.0 if grid.signed else 0.0
        assert rounded.tolist() == pytest.approx([6.0, 6.0, lowest, 0.0])


def test_fewer_bits_are_coarser():
    values = torch.linspace(-1, 1, 1001)
    errors = [
        float(
            (Grid(bits).rounded(values, Grid(bits).scale(torch.tensor(1.0))) - values).abs().max()
        )
        for bits in range(2, 9)
    ]
    assert errors == pytest.approx([0.5 / Grid(bits).highest for bits in range(2, 9)], rel=0.02)


def test_channels_have_scales_of_their_own_and_gradients_pass_what_is_not_clipped():
    values = torch.tensor([[1.0, 4.0], [1.0, 4.0]], requires_grad=True)
    rounded = Grid(2).rounded(values, torch.tensor([1.0, 4.0]), channel_dim=0)
    assert rounded.tolist() == [[1.0, 1.0], [0.0, 4.0]]
    rounded.sum().backward()
    assert values.grad.tolist() == [[1.0, 0.0], [1.0, 1.0]]


# ---- the histogram


def test_a_histogram_forgets_nothing_when_it_grows():
    torch.manual_seed(0)
    batches = [torch.randn(1000) * 3**i for i in range(4)]
    grown = Histogram(64)
    for batch in batches:
        grown.add(batch)
    every = torch.cat(batches)
    assert int(grown.counts.sum()) == 4000
    assert grown.largest == float(every.abs().max())
    assert grown.largest <= grown.width * grown.bins < 2 * grown.largest * (1 + 1e-9)
    places = (every.double().abs() / grown.width).ceil().long().sub(1)
    for side, chosen in enumerate((every < 0, every >= 0)):
        assert grown.counts[side].tolist() == torch.bincount(places[chosen], minlength=64).tolist()


def test_zeros_before_anything_else_are_counted():
    histogram = Histogram(4)
    histogram.add(torch.zeros(3))
    assert (histogram.width, histogram.counts.tolist()) == (0.0, [[0] * 4, [3, 0, 0, 0]])
    histogram.add(torch.tensor([2.0]))
    assert histogram.counts.tolist() == [[0] * 4, [3, 0, 0, 1]]
    histogram.add(torch.zeros(0))
    assert int(histogram.counts.sum()) == 4


def test_a_histogram_has_an_even_number_of_bins():
    with pytest.raises(ConfigError, match="bins is 7; expected an even number"):
        Histogram(7)


# ---- thresholds


def test_abs_max():
    assert seen(AbsMax(), [1.0, -5.0], [3.0]).threshold(EIGHT) == 5.0


def test_average_is_over_samples_not_batches():
    # Largest of each sample: 2, 4, 9.
    found = seen(Average(), [[1.0, -2.0], [4.0, 0.0]], [[-9.0, 3.0]])
    assert found.threshold(EIGHT) == 5.0


def test_moving_average_fades_and_the_first_batch_is_its_own_average():
    found = seen(MovingAverage(0.9), [8.0])
    assert found.threshold(EIGHT) == pytest.approx(8.0)
    seen(found, [-2.0], [1.0])
    assert found.threshold(EIGHT) == pytest.approx((0.81 * 8 + 0.9 * 2 + 1) / (0.81 + 0.9 + 1))


def test_range_abs_max_forgets_what_left_the_window():
    found = seen(RangeAbsMax(window=3), [9.0], [1.0], [-4.0])
    assert found.threshold(EIGHT) == 9.0
    assert seen(found, [2.0]).threshold(EIGHT) == 4.0


def test_percentile_is_the_middle_of_the_bin_that_reaches_the_fraction():
    # Bins of width 1; 6 of 10 are below 2, 9 of 10 below 3.
    values = [0.5, 0.5, 0.5, -1.5, 1.5, -1.5, 2.5, -2.5, 2.5, 8.0]
    assert seen(Percentile(0.6, bins=8), values).threshold(EIGHT) == 1.5
    assert seen(Percentile(0.61, bins=8), values).threshold(EIGHT) == 2.5
    assert seen(Percentile(1.0, bins=8), values).threshold(EIGHT) == 7.5


def test_divergence_by_hand():
    # Sizes [4, 0, 2, 2 | 0, 0, 0, 1], width 1, one level above zero (2 bits). Of the first 4 bins:
    # P = [4, 0, 2, 3] / 9, Q = 8 shared by 3 bins = [1, 0, 1, 1] / 3. Of all 8: P = [4, 0, 2, 2, 0,
    # 0, 0, 1] / 9, Q = 1/4 where there is something. The first is the lesser.
    values = [0.5] * 4 + [2.5] * 2 + [-3.5] * 2 + [8.0]
    first = sum(p * math.log(p * 3) for p in (4 / 9, 2 / 9, 3 / 9))
    whole = sum(p * math.log(p * 4) for p in (4 / 9, 2 / 9, 2 / 9, 1 / 9))
    assert first < whole
    assert seen(Divergence(bins=8), values).threshold(Grid(2)) == 4.5


def test_divergence_keeps_all_where_all_is_alike():
    values = torch.linspace(-1, 1, 10_001)
    assert seen(Divergence(bins=256), values).threshold(EIGHT) > 0.95


@pytest.mark.parametrize("error", [squared, moved])
@pytest.mark.parametrize("grid", [Grid(8), Grid(4), Grid(4, signed=False)])
def test_the_least_error_is_that_of_the_values_themselves(error, grid):
    torch.manual_seed(3)
    values = torch.randn(20_000).double()
    if not grid.signed:
        values = values.relu()
    largest = float(values.abs().max())
    errors = {}
    for fraction in FRACTIONS:
        scale = fraction * largest / grid.highest
        rounded = (values / scale).round().clamp(grid.lowest, grid.highest) * scale
        errors[fraction] = float(error(values, rounded, torch.ones_like(values)))
    found = seen(LeastError(error, bins=8192), values[:7000], values[7000:]).threshold(grid)
    best, worst = min(errors.values()), max(errors.values())
    assert errors[round(found / largest, 2)] <= best + 0.01 * (worst - best)


def test_the_fractions_are_paddleslims():
    assert (FRACTIONS[0], FRACTIONS[1], FRACTIONS[-1]) == (0.3, 0.32, 1.0)


# ---- what predecessors got wrong


def test_a_later_batch_does_not_reset_the_best_threshold():
    # The predecessor kept the least error of all batches but the last batch's scale.
    torch.manual_seed(0)
    first, second = torch.randn(5000), torch.randn(10) * 0.01
    alone = seen(LeastError(squared), first).threshold(Grid(4))
    assert alone < float(first.abs().max())
    assert seen(LeastError(squared), first, second).threshold(Grid(4)) == alone


@pytest.mark.parametrize("name", OBSERVERS)
def test_thresholds_are_of_absolute_values(name):
    # The predecessor's EMD took max(x) for max|x|.
    torch.manual_seed(0)
    values = torch.randn(4, 500) - 2
    found = [seen(observer(name), sign * values).threshold(EIGHT) for sign in (1, -1)]
    assert found[0] == pytest.approx(found[1], rel=0.03)
    assert found[0] > float(values.max())


@pytest.mark.parametrize("name", OBSERVERS)
def test_a_threshold_lies_between_nothing_and_the_largest_value(name):
    torch.manual_seed(1)
    batches = [torch.randn(8, 100) * s for s in (1, 3, 2)]
    largest = max(float(batch.abs().max()) for batch in batches)
    for bits in (2, 4, 8):
        assert 0 < seen(observer(name), *batches).threshold(Grid(bits)) <= largest


@pytest.mark.parametrize("name", OBSERVERS)
def test_constants_have_themselves_and_zeros_nothing(name):
    assert seen(observer(name), torch.full((4, 5), -3.0)).threshold(EIGHT) == pytest.approx(
        3.0, rel=0.01
    )
    assert seen(observer(name), torch.zeros(4, 5)).threshold(EIGHT) == 0.0


@pytest.mark.parametrize("name", ["mse", "emd", "kl"])
def test_bits_are_heard_of(name):
    torch.manual_seed(0)
    values = torch.randn(20_000)
    by_bits = [seen(observer(name), values).threshold(Grid(bits)) for bits in (2, 4, 8)]
    assert len(set(by_bits)) == 3
    if name == "mse":
        assert all(a < b for a, b in itertools.pairwise(by_bits))


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_named(wrong):
    values = torch.tensor([1.0, wrong])
    with pytest.raises(CompressionError, match=r"layer1.relu has values that are not finite"):
        require_values(values, "layer1.relu")
    require_values(values[:1], "layer1.relu")


def test_an_unknown_observer_is_named():
    with pytest.raises(ConfigError, match="no observer 'max'; there are abs_max, average"):
        observer("max")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: MovingAverage(1.0), "rate is 1.0; expected from 0 to below 1"),
        (lambda: RangeAbsMax(0), "window is 0; expected at least 1"),
        (lambda: Percentile(0.0), "fraction is 0.0; expected above 0 and at most 1"),
    ],
)
def test_settings_that_cannot_be_are_named(make, said):
    with pytest.raises(ConfigError, match=said):
        make()
