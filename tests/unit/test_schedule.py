"""Turns: every session is served, whatever the others ask."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pantheon.wire.messages import Score
from teacher_server.jobs import Job, Session
from teacher_server.schedule import Schedule


def session(number: int, fields: tuple[str, ...] | None = None) -> Session:
    """A student."""
    return Session((0, number), "m", fields)


def job(owner: Session, request: int, rows: int = 4) -> Job:
    """A request that its session waits for."""
    made = Job(owner, Score(request, np.arange(rows)), rows)
    owner.jobs[request] = made
    return made


def test_a_greedy_session_cannot_keep_others_waiting() -> None:
    schedule, greedy, modest = Schedule(), session(1), session(2)
    for request in range(50):
        schedule.add(job(greedy, request))
    schedule.add(job(modest, 99))
    taken = [schedule.take(4)[0] for _ in range(3)]
    assert modest in [t.session for t in taken]


def test_small_requests_of_several_sessions_share_a_batch() -> None:
    schedule = Schedule()
    for number in range(3):
        for request in range(2):
            schedule.add(job(session(number), request, rows=3))
    batch = schedule.take(10)
    assert sum(j.rows for j in batch) == 9
    assert {j.session.key[1] for j in batch} == {0, 1, 2}


def test_a_request_as_large_as_a_batch_goes_alone() -> None:
    schedule = Schedule()
    schedule.add(job(session(1), 1, rows=16))
    schedule.add(job(session(2), 1, rows=1))
    assert len(schedule.take(16)) == 1


def test_a_small_request_does_not_wait_for_larger_ones_of_its_session() -> None:
    schedule, starting, other = Schedule(), session(1), session(2)
    for request, rows in enumerate((1, 2, 4, 4)):
        schedule.add(job(starting, request, rows))
    schedule.add(job(other, 9, rows=5))
    taken = [[j.score.request for j in schedule.take(8)] for _ in range(3)]
    assert taken == [[0, 9], [1], [2, 3]]


def test_requests_for_other_fields_are_not_joined() -> None:
    schedule = Schedule()
    schedule.add(job(session(1, ("a",)), 1))
    schedule.add(job(session(2, ("b",)), 1))
    assert len(schedule.take(100)) == 1


def test_a_session_that_may_not_be_answered_stops_no_other() -> None:
    schedule = Schedule()
    schedule.add(job(session(1), 1))
    schedule.add(job(session(2), 1))
    taken = schedule.take(100, lambda key: key != (0, 1))
    assert [t.session.key for t in taken] == [(0, 2)]
    assert schedule.take(100, lambda key: key != (0, 1)) == []
    assert len(schedule) == 1


def test_what_a_dead_worker_had_comes_first_and_alone() -> None:
    schedule = Schedule()
    schedule.add(job(session(1), 1))
    lost = [job(session(2), r) for r in (7, 8)]
    schedule.put_back(lost)
    assert [schedule.take(100)[0].score.request for _ in range(3)] == [7, 8, 1]


def test_cancelled_and_dropped_requests_are_never_taken() -> None:
    schedule, owner = Schedule(), session(1)
    jobs = [job(owner, r) for r in range(4)]
    for one in jobs[:3]:
        schedule.add(one)
    schedule.put_back(jobs[3:])
    schedule.remove(jobs[1])
    schedule.remove(jobs[3])
    assert [j.score.request for j in schedule.take(100)] == [0, 2]
    schedule.add(jobs[0])
    schedule.drop(owner)
    assert not schedule
    assert len(schedule) == 0


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(1, 9)), max_size=60),
    st.integers(1, 20),
)
def test_every_request_is_taken_once_in_its_sessions_order(
    asked: list[tuple[int, int]], rows: int
) -> None:
    schedule, owners = Schedule(), [session(n) for n in range(5)]
    for request, (owner, size) in enumerate(asked):
        schedule.add(job(owners[owner], request, size))
    taken: list[Job] = []
    waits: Counter[object] = Counter()
    while schedule:
        batch = schedule.take(rows)
        assert sum(j.rows for j in batch) <= rows or len(batch) == 1
        taken += batch
        waits.update(j.session.key for j in batch)
    assert len(taken) == len(asked)
    for owner in owners:
        own = [j.score.request for j in taken if j.session is owner]
        assert own == sorted(own)
