"""Requests cover every row once, begin small where asked, and are found by row."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pantheon.delivery.cuts import Cuts

SIZES = st.integers(1, 60)


@given(st.integers(1, 500), SIZES, st.integers(0, 500), st.none() | SIZES)
def test_requests_cover_every_row_after_the_head_once(
    rows: int, request: int, head: int, first: int | None
) -> None:
    head = min(head, rows)
    cuts = Cuts(rows, request, head, first)
    spans = [cuts.span(k) for k in range(cuts.first, cuts.end)]
    covered = [row for start, stop in spans for row in range(start, stop)]
    assert covered == list(range(head, rows))
    assert all(0 < stop - start <= request for start, stop in spans)
    assert [cuts.holding(row) for row in covered] == [
        k for k in range(cuts.first, cuts.end) for _ in range(*cuts.span(k))
    ]


@given(st.integers(1, 8), st.integers(0, 6))
def test_the_first_requests_double_up_to_the_full_size(first: int, doublings: int) -> None:
    request = first << doublings
    cuts = Cuts(10_000, request, head=3, first=first)
    sizes = [stop - start for start, stop in map(cuts.span, range(doublings + 3))]
    assert sizes == [min(first << k, request) for k in range(doublings + 3)]


def test_a_hundred_million_rows_take_no_more_memory_than_ten() -> None:
    cuts = Cuts(10**8, 1 << 20, first=1)
    assert cuts.span(cuts.end - 1)[1] == 10**8
    assert len(cuts._starts) == 21
