"""Memory and time of a ledger depend on its window, never on the number of rows."""

import tracemalloc
from collections import deque

from pantheon.delivery.ledger import Ledger

HUGE = 10**8


def make(rows: int, window_requests: int = 64, head: int = 0) -> Ledger:
    made = Ledger(
        rows=rows,
        batch=32,
        request=32,
        row_bytes={"t": 40},
        window_bytes=window_requests * 32 * 40,
        head=head,
    )
    made.join("t", "a")
    return made


def cycle(made: Ledger, requests: int) -> None:
    """Dispatch, answer and yield so many requests, the oldest first."""
    wire: deque[int] = deque()
    for n in range(requests):
        wire += [a.lease for a in made.dispatch(float(n))]
        assert made.accept(wire.popleft(), 32 * 40)
        made.advance(made.ready())


def peak_bytes(rows: int, requests: int, head: int = 0) -> int:
    cycle(make(rows), 10)
    tracemalloc.start()
    try:
        cycle(make(rows, head=head), requests)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_hundred_million_rows_take_no_more_memory_than_a_few():
    assert peak_bytes(HUGE, 2000) < 2 * peak_bytes(32 * 400, 200) + 10_000


def test_a_resume_deep_in_an_epoch_costs_nothing():
    assert peak_bytes(HUGE, 50, head=HUGE // 2) < 100_000


def test_memory_is_flat_over_an_epoch_in_which_replies_get_lost():
    made = make(HUGE)
    sizes = []
    tracemalloc.start()
    try:
        for _ in range(4):
            for n in range(300):
                now = made.next_lease * 1.0
                given = made.dispatch(now)
                for a in given[n % 3 == 0 :]:
                    made.accept(a.lease, 32 * 40)
                made.expire(now + 1000.0)
                made.advance(made.ready())
            sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert made.counters.expired > 100
    assert sizes[-1] < sizes[0] + 20_000


def test_a_window_far_larger_than_the_epoch_holds_only_what_is_asked_for():
    made = make(HUGE, window_requests=1 << 40)
    assert len(made.dispatch(0.0)) == 8
    assert made.nbytes == 8 * 32 * 40
