"""The delivery protocol, promise by promise; `test_ledger_machine` mixes them all."""

import pytest

from pantheon.delivery.ledger import PATIENCE, Ledger
from pantheon.delivery.poison import FORGIVEN
from pantheon.errors import ConfigError

ROW = 4


def ledger(rows=40, batch=4, request=4, teachers=("t",), replicas=("a",), **options) -> Ledger:
    options = {"window_bytes": 1 << 20, "row_bytes": dict.fromkeys(teachers, ROW)} | options
    made = Ledger(rows=rows, batch=batch, request=request, **options)
    for teacher in teachers:
        for replica in replicas:
            made.join(teacher, replica)
    return made


def answer(made: Ledger, given, now=0.0) -> None:
    for a in given:
        assert made.accept(a.lease, (a.stop - a.start) * ROW, now)


def requests(given) -> list[int]:
    return [a.request for a in given]


# ---- requests and yielding


def test_an_epoch_is_asked_in_order_and_yielded_in_order():
    made = ledger(rows=10, batch=4, request=3, teachers=("t", "u"))
    rows: list[int] = []
    while not made.done:
        answer(made, made.dispatch(0.0))
        while made.head < made.ready():
            stop = min(made.head + 4, made.ready())
            rows += range(made.head, stop)
            made.advance(stop)
    assert rows == list(range(10))
    assert made.nbytes == 0
    assert made.dispatch(0.0) == []
    assert made.waiting_for() == ()


@pytest.mark.parametrize("request_rows", [1, 3, 4, 7, 8, 100])
def test_requests_cover_the_rows_without_gap_or_overlap(request_rows):
    made = ledger(rows=22, request=request_rows, max_requests=100)
    given = made.dispatch(0.0)
    assert [row for a in given for row in range(a.start, a.stop)] == list(range(22))
    assert requests(given) == list(range(len(given)))
    assert all(made.span(a.request) == (a.start, a.stop) for a in given)


def test_only_whole_batches_and_the_end_are_ready():
    made = ledger(rows=10, batch=4, request=3, max_requests=10)
    given = made.dispatch(0.0)
    answer(made, given[:1])
    assert made.ready() == 0
    answer(made, given[1:3])
    assert made.ready() == 8
    answer(made, given[3:])
    assert made.ready() == 10


def test_nothing_is_ready_before_every_teacher_has_answered():
    made = ledger(teachers=("t", "u"))
    given = made.dispatch(0.0)
    answer(made, [a for a in given if a.teacher == "t"])
    assert made.ready() == 0
    assert made.waiting_for() == ("u",)
    assert (made.answered("t"), made.answered("u")) == (32, 0)
    answer(made, [a for a in given if a.teacher == "u"])
    assert made.ready() == 32


def test_a_payload_may_go_when_all_of_its_rows_are_yielded():
    made = ledger(rows=12, batch=4, request=6)
    answer(made, made.dispatch(0.0))
    assert [made.advance(stop) for stop in (4, 8, 12)] == [[], [0], [1]]


@pytest.mark.parametrize("stop", [-4, 2, 36, 44])
def test_what_was_not_ready_cannot_have_been_yielded(stop):
    made = ledger()
    answer(made, made.dispatch(0.0))
    assert made.ready() == 32
    with pytest.raises(ConfigError, match=f"up to {stop} cannot.*ready is 32"):
        made.advance(stop)


# ---- window and credit


def test_nothing_beyond_the_window_is_asked_for():
    made = ledger(window_bytes=3 * 4 * ROW)
    assert requests(made.dispatch(0.0)) == [0, 1, 2]
    assert made.nbytes == 48


def test_what_has_arrived_counts_until_it_is_yielded():
    made = ledger(window_bytes=3 * 4 * ROW)
    answer(made, made.dispatch(0.0))
    assert made.dispatch(0.0) == []
    made.advance(4)
    assert requests(made.dispatch(0.0)) == [3]


def test_the_head_batch_is_asked_for_over_any_budget():
    made = ledger(batch=8, request=3, window_bytes=0)
    assert requests(made.dispatch(0.0)) == [0, 1, 2]
    assert made.dispatch(0.0) == []


def test_a_fast_teacher_leaves_a_slow_one_its_share_of_the_window():
    made = ledger(teachers=("fast", "slow"), window_bytes=4 * 4 * ROW * 2)
    given = made.dispatch(0.0)
    answer(made, [a for a in given if a.teacher == "fast"])
    assert made.dispatch(0.0) == []
    assert requests(a for a in given if a.teacher == "slow") == [0, 1, 2, 3]


def test_no_replica_holds_more_than_its_share():
    made = ledger(max_requests=2, replicas=("a", "b"))
    given = made.dispatch(0.0)
    assert len(given) == 4
    assert (made.in_flight("a"), made.in_flight("b"), made.in_flight("c")) == (2, 2, 0)
    answer(made, given[:1])
    assert len(made.dispatch(0.0)) == 1


def test_a_larger_reply_than_declared_is_counted_as_it_is():
    made = ledger(window_bytes=4 * 4 * ROW)
    given = made.dispatch(0.0)
    made.accept(given[1].lease, 1000)
    assert made.nbytes == 3 * 16 + 1000
    answer(made, [given[0], *given[2:]])
    made.advance(8)
    assert made.nbytes == 2 * 16
    assert requests(made.dispatch(0.0)) == [], "what is large is asked for in smaller numbers"


def test_the_size_of_ragged_rows_is_learned_down_to_what_was_declared():
    made = ledger(rows=4000, max_requests=1)
    for size, expected in ((1000, 1000), (0, ROW)):
        for _ in range(60):
            (a,) = made.dispatch(0.0)
            made.accept(a.lease, 4 * size)
            made.advance(made.ready())
        assert made.row_bytes["t"] == pytest.approx(expected, rel=0.01)


# ---- replicas


def test_work_goes_to_the_replica_with_the_fewest_bytes_outstanding():
    made = ledger(replicas=("a", "b"), max_requests=3, window_bytes=4 * 4 * ROW)
    given = made.dispatch(0.0)
    assert [a.replica for a in given] == ["a", "b", "a", "b"]
    answer(made, [given[0], given[2]])
    made.advance(4)
    assert [a.replica for a in made.dispatch(0.0)] == ["a"]


def test_a_slow_replica_does_not_hold_back_the_others():
    made = ledger(rows=400, replicas=("slow", "fast"), max_requests=2)
    by_fast = 0
    for _ in range(20):
        given = [a for a in made.dispatch(0.0) if a.replica == "fast"]
        by_fast += len(given)
        answer(made, given)
    assert by_fast == 40
    assert made.in_flight("slow") == 2


def test_a_new_replica_gets_work_at_once():
    made = ledger(max_requests=2)
    made.dispatch(0.0)
    assert made.dispatch(0.0) == []
    made.join("t", "b")
    assert [a.replica for a in made.dispatch(0.0)] == ["b", "b"]


def test_joining_twice_changes_nothing():
    made = ledger(max_requests=2)
    made.dispatch(0.0)
    made.join("t", "a")
    assert made.in_flight("a") == 2


def test_what_a_dead_replica_held_goes_to_another_at_once_and_first():
    made = ledger(replicas=("a", "b"), max_requests=2)
    made.dispatch(0.0)
    assert made.leave("t", "a") == (0, 2)
    assert made.leave("t", "a") == ()
    made.join("t", "c")
    assert [(a.request, a.replica) for a in made.dispatch(0.0)] == [(0, "c"), (2, "c")]
    assert made.counters.requeued == 2
    assert made.counters.lost == 1


def test_without_a_replica_nothing_is_lost():
    made = ledger()
    made.dispatch(0.0)
    made.leave("t", "a")
    assert made.dispatch(0.0) == []
    made.join("t", "a")
    answer(made, made.dispatch(0.0))
    assert made.ready() == 32


def test_a_teacher_nobody_knows_is_named():
    made = ledger(teachers=("bert", "roberta"))
    for call in (made.join, made.leave):
        with pytest.raises(ConfigError, match="no teacher 'bart'; there are bert, roberta"):
            call("bart", "a")


# ---- leases


def test_a_lease_runs_out_and_its_request_goes_to_another_replica():
    made = ledger(rows=4, replicas=("a", "b"), lease=30.0)
    (first,) = made.dispatch(5.0)
    assert made.deadline() == 35.0
    assert made.expire(34.9) == []
    assert made.expire(35.0) == [first]
    (again,) = made.dispatch(35.0)
    assert again.replica != first.replica
    assert again.lease > first.lease
    assert made.deadline() == 65.0
    assert made.counters.expired == made.counters.requeued == 1


def test_a_heartbeat_renews_the_leases_it_names():
    made = ledger(rows=8, lease=30.0)
    one, other = made.dispatch(0.0)
    made.renew([one.lease, 999], 20.0)
    assert made.deadline() == 30.0
    assert made.expire(45.0) == [other]
    assert made.deadline() == 50.0


def test_a_late_reply_wins_when_it_is_the_first():
    made = ledger(rows=4, replicas=("a", "b"))
    (late,) = made.dispatch(0.0)
    made.expire(30.0)
    (again,) = made.dispatch(30.0)
    assert made.accept(late.lease, 16)
    assert made.lease_of(0, "t") is None
    assert not made.accept(again.lease, 16)
    assert made.counters.duplicates == 1
    assert made.in_flight("b") == made.in_flight("a") == 0
    assert made.deadline() is None


def test_a_late_reply_is_dropped_when_another_came_before():
    made = ledger(rows=4, replicas=("a", "b"))
    (late,) = made.dispatch(0.0)
    made.expire(30.0)
    answer(made, made.dispatch(30.0))
    assert not made.accept(late.lease, 16)
    assert made.nbytes == 16


def test_a_late_reply_that_waits_to_be_asked_again_is_not_asked_again():
    made = ledger(rows=4, lease=1.0)
    (late,) = made.dispatch(0.0)
    made.leave("t", "a")
    assert made.accept(late.lease, 16)
    made.join("t", "b")
    assert made.dispatch(0.0) == []


def test_a_reply_that_came_twice_or_that_nobody_asked_for_is_dropped_and_counted():
    made = ledger(rows=4)
    (a,) = made.dispatch(0.0)
    assert [made.accept(n, 16) for n in (a.lease, a.lease, 12345)] == [True, False, False]
    assert made.counters.duplicates == 2
    assert made.counters.answered == 1


def test_a_silent_replica_gets_nothing_more_while_another_is_well():
    made = ledger(replicas=("silent", "well"), max_requests=1, lease=10.0)
    silent = next(a for a in made.dispatch(0.0) if a.replica == "silent")
    made.renew([1 - silent.lease], 9.0)
    made.expire(10.0)
    assert made.dispatch(10.0) == [], "it waits for the one that is well"
    answer(made, [made.lease_of(1, "t")], 11.0)
    assert [(a.request, a.replica) for a in made.dispatch(11.0)] == [(0, "well")]
    assert [(a.request, a.replica) for a in made.dispatch(20.0)] == [(2, "silent")]


def test_a_silent_replica_that_is_heard_again_gets_work_again():
    made = ledger(replicas=("silent", "well"), max_requests=1, lease=10.0)
    silent = next(a for a in made.dispatch(0.0) if a.replica == "silent")
    made.renew([1 - silent.lease], 9.0)
    made.expire(10.0)
    made.renew([silent.lease], 10.5)
    assert [a.replica for a in made.dispatch(10.5)] == ["silent"]


def test_what_the_head_waits_for_goes_to_an_idle_replica_soon_and_what_it_does_not_stays():
    made = ledger(rows=24, replicas=("late", "well"), max_requests=2, window_bytes=4 * 4 * ROW)
    answer(made, made.dispatch(0.0))
    made.advance(16)
    last = made.dispatch(1.0)
    assert {a.replica for a in last} == {"late", "well"}
    first = min(last, key=lambda a: a.request)
    answer(made, [a for a in last if a is not first])
    assert made.suspect(1.05, {"t": 3.0}) == []
    due = made.next_suspicion({"t": 3.0})
    assert due is not None
    assert due < 2.0
    assert made.suspect(due, {"t": 3.0}) == [first]
    (again,) = made.dispatch(due)
    assert (again.request, again.replica != first.replica) == (first.request, True)
    assert made.next_suspicion({"t": 3.0}) == due + 3.0, "nobody is idle now"
    assert made.accept(first.lease, 16, due), "its late answer is as good"
    assert not made.accept(again.lease, 16, due)


def test_while_the_student_does_not_listen_nobody_is_silent():
    made = ledger(replicas=("a", "b"), max_requests=1, lease=10.0)
    given = made.dispatch(0.0)
    made.away(100.0, 100.0)
    assert (made.deadline(), made.next_suspicion({"t": 3.0})) == (110.0, 103.0)
    assert (made.expire(102.0), made.suspect(102.0, {"t": 3.0})) == ([], [])
    assert {a.lease for a in made.expire(110.0)} == {a.lease for a in given}


def test_a_pause_of_the_student_makes_no_replica_slow():
    made = ledger(rows=400, replicas=("a", "b"), max_requests=1)
    for now in (1.0, 2.0, 3.0):
        answer(made, made.dispatch(now - 1.0), now)
    first, second = made.dispatch(3.0)
    made.away(60.0, 63.5)
    answer(made, [first, second], 64.0)
    assert len(made.dispatch(64.0)) == 2, "both are as fast as before"


def test_one_that_is_to_be_spared_is_asked_after_others_until_it_is_heard_of():
    made = ledger(replicas=("a", "b"), max_requests=1)
    first, second = made.dispatch(0.0)
    made.decline(first.lease, 0.0)
    made.spare("t", first.replica, 1.0)
    assert made.dispatch(0.5) == []
    answer(made, [second])
    assert [a.replica for a in made.dispatch(0.6)] == [second.replica]
    assert [a.replica for a in made.dispatch(1.0)] == [first.replica]


def test_a_crash_is_not_forgiven_for_another_ones_sake():
    made = ledger(replicas=("a", "b"), attempts=1)
    made.dispatch(0.0)
    made.leave("t", "a")
    made.join("t", "a")
    made.leave("t", "a", crashed=False)
    blamed = [ask for ask in made._teachers["t"].asks.values() if ask.crashes]
    made.forgive("t", "a")
    assert [ask.crashes for ask in blamed] == [1]


def test_one_that_is_about_to_stop_is_no_other_replica_for_poison():
    made = ledger(replicas=("a", "b"), attempts=2, max_requests=1)
    made.retire("t", "b")
    for _ in range(2):
        (given,) = made.dispatch(0.0)
        made.refuse(given.lease, "no", 0.0)
    assert made.poisoned is not None


def test_a_silent_replica_is_not_waited_for_without_end_before_poison():
    made = ledger(replicas=("a", "b"), attempts=2, max_requests=1)
    given = next(a for a in made.dispatch(0.0) if a.replica == "a")
    made.spare("t", "b", 1e9)
    tries = 0
    while made.poisoned is None:
        assert (given.request, given.replica) == (0, "a")
        made.refuse(given.lease, "no", 1.0)
        tries += 1
        given = next(iter(made.dispatch(1.0)), given)
    assert tries == 2 * PATIENCE


def test_a_single_silent_replica_is_asked_again():
    made = ledger(rows=4, lease=10.0)
    made.dispatch(0.0)
    made.expire(10.0)
    assert requests(made.dispatch(10.0)) == [0]


def test_a_lease_that_runs_out_blames_nobody():
    made = ledger(rows=4, lease=10.0, attempts=1)
    for n in range(5):
        assert requests(made.dispatch(10.0 * n)) == [0]
        made.expire(10.0 * (n + 1))
    assert made.poisoned is None


def test_a_clock_that_goes_back_ends_no_lease_early():
    made = ledger(rows=8, max_requests=1, lease=10.0)
    answer(made, made.dispatch(100.0))
    made.dispatch(50.0)
    assert made.deadline() == 110.0


def test_leases_go_on_counting_in_the_next_epoch():
    made = ledger(rows=8)
    made.dispatch(0.0)
    following = ledger(rows=8, first_lease=made.next_lease)
    assert [a.lease for a in following.dispatch(0.0)] == [2, 3]


def test_an_abandoned_epoch_names_what_is_in_flight_and_drops_its_replies():
    made = ledger(rows=8)
    given = made.dispatch(0.0)
    assert made.cancel_all() == given
    assert made.in_flight("a") == 0
    assert made.deadline() is None
    assert [made.accept(a.lease, 16) for a in given] == [False, False]
    assert requests(made.dispatch(0.0)) == [0, 1], "it could be taken up again"


# ---- refusals, crashes, poison


def test_a_refused_request_goes_to_another_replica():
    made = ledger(rows=4, replicas=("a", "b"))
    (first,) = made.dispatch(0.0)
    made.refuse(first.lease, "out of memory", 0.0)
    (again,) = made.dispatch(0.0)
    assert (first.replica, again.replica) == ("a", "b")
    assert made.counters.refused == 1
    assert made.poisoned is None


def test_a_refused_request_waits_for_another_replica_that_is_busy():
    made = ledger(rows=8, replicas=("a", "b"), max_requests=1)
    first, other = made.dispatch(0.0)
    made.refuse(first.lease, "no", 0.0)
    assert made.dispatch(0.0) == []
    answer(made, [other])
    assert [(a.request, a.replica) for a in made.dispatch(0.0)] == [(0, "b")]


def test_a_single_replica_poisons_a_request_by_the_third_refusal():
    made = ledger(rows=4)
    for n in range(3):
        assert made.poisoned is None
        (a,) = made.dispatch(0.0)
        made.refuse(a.lease, f"no {n}", 0.0)
    poisoned = made.poisoned
    assert poisoned is not None
    assert (poisoned.teacher, poisoned.request, poisoned.start, poisoned.stop) == ("t", 0, 0, 4)
    assert poisoned.attempts == 3
    assert poisoned.reasons == ("a: no 0", "a: no 1", "a: no 2")
    assert made.dispatch(0.0) == []


def test_where_there_are_two_replicas_one_alone_poisons_nothing():
    made = ledger(rows=8, attempts=1, replicas=("a", "b"))
    first, _ = made.dispatch(0.0)
    made.refuse(first.lease, "no", 0.0)
    assert made.poisoned is None
    (again,) = made.dispatch(0.0)
    made.refuse(again.lease, "no", 0.0)
    assert made.poisoned is not None
    assert made.poisoned.reasons == ("a: no", "b: no")


def test_a_final_refusal_poisons_at_once():
    made = ledger(rows=4, replicas=("a", "b"))
    (a,) = made.dispatch(0.0)
    made.refuse(a.lease, "id 99 is out of range", 0.0, final=True)
    assert made.poisoned is not None
    assert made.poisoned.reasons == ("a: id 99 is out of range",)


def test_a_refusal_of_what_was_answered_or_is_unknown_is_nothing():
    made = ledger(rows=4, attempts=1)
    (a,) = made.dispatch(0.0)
    answer(made, [a])
    made.refuse(a.lease, "no", 0.0, final=True)
    made.refuse(777, "no", 0.0, final=True)
    assert made.poisoned is None
    assert made.counters.refused == 0


def test_a_refusal_by_one_whose_lease_ran_out_leaves_the_request_where_it_is():
    made = ledger(rows=4, replicas=("a", "b"))
    (late,) = made.dispatch(0.0)
    made.expire(30.0)
    (again,) = made.dispatch(30.0)
    made.refuse(late.lease, "no", 30.0)
    assert made.lease_of(0, "t") == again
    assert made.dispatch(30.0) == []


def test_a_request_that_kills_every_replica_is_poisoned():
    made = ledger(rows=4, replicas=("a", "b"), attempts=1)
    for _ in range(2):
        assert made.poisoned is None
        (a,) = made.dispatch(0.0)
        made.leave("t", a.replica)
    assert made.poisoned is not None
    assert {r.split(":")[0] for r in made.poisoned.reasons} == {"a", "b"}


def test_a_replica_that_dies_is_blamed_for_its_oldest_request_only():
    made = ledger(rows=16, attempts=3)
    for _ in range(5):
        made.dispatch(0.0)
        made.leave("t", "a")
        made.join("t", "a")
    oldest, *others = made.dispatch(0.0)
    answer(made, others)
    assert made.poisoned is None
    assert made.leave("t", "a") == ()
    assert made.poisoned is not None
    assert made.poisoned.request == oldest.request


def test_a_replica_that_comes_and_goes_while_it_answers_poisons_nothing():
    made = ledger(rows=400, attempts=2)
    for _ in range(20):
        given = made.dispatch(0.0)
        answer(made, given[:1])
        made.leave("t", "a")
        made.join("t", "a")
        assert made.poisoned is None


def test_a_crash_that_was_a_broken_connection_is_forgiven_but_not_for_ever():
    made = ledger(rows=4, attempts=1)
    for _ in range(FORGIVEN):
        made.dispatch(0.0)
        made.leave("t", "a")
        made.forgive("t", "a")
        made.join("t", "a")
    assert made.poisoned is None
    for _ in range(2):
        made.forgive("t", "a")
        made.join("t", "a")
        made.dispatch(0.0)
        made.leave("t", "a")
    assert made.poisoned is not None
    assert made.poisoned.attempts == 2


def test_a_crash_counts_half_of_a_refusal():
    made = ledger(rows=4, attempts=2)
    for how in ("crash", "refusal"):
        (a,) = made.dispatch(0.0)
        if how == "crash":
            made.leave("t", "a")
            made.join("t", "a")
        else:
            made.refuse(a.lease, "out of memory", 0.0)
        assert made.poisoned is None
    made.dispatch(0.0)
    made.leave("t", "a")
    assert made.poisoned is not None
    assert made.poisoned.attempts == 3


def test_only_the_crash_is_forgiven_and_not_a_refusal():
    made = ledger(rows=4, attempts=3)
    for reason in ("out of memory", "left", "out of memory"):
        (a,) = made.dispatch(0.0)
        if reason == "left":
            made.leave("t", "a")
            made.forgive("t", "a")
            made.join("t", "a")
        else:
            made.refuse(a.lease, reason, 0.0)
    assert made.poisoned is None
    (a,) = made.dispatch(0.0)
    made.refuse(a.lease, "out of memory", 0.0)
    assert made.poisoned is not None
    assert made.poisoned.reasons == ("a: out of memory",) * 3


def test_a_goodbye_counts_against_nothing():
    made = ledger(rows=4, attempts=1)
    for _ in range(5):
        (a,) = made.dispatch(0.0)
        made.leave("t", a.replica, crashed=False)
        made.join("t", "a")
    assert made.poisoned is None


# ---- resume


def test_a_state_counts_yielded_rows_only():
    made = ledger()
    answer(made, made.dispatch(0.0))
    made.advance(8)
    assert made.ready() == 32
    assert made.state() == 8


def test_a_resume_in_the_middle_of_a_request_asks_for_the_rest_of_it():
    made = ledger(rows=20, batch=4, request=10, head=4)
    assert [(a.request, a.start, a.stop) for a in made.dispatch(0.0)] == [(0, 4, 10), (1, 10, 20)]
    assert made.nbytes == 16 * ROW


def test_a_resume_at_the_end_has_nothing_to_do():
    made = ledger(rows=10, head=10)
    assert made.done
    assert made.ready() == 10
    assert made.dispatch(0.0) == []


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"rows": 0}, "rows is 0"),
        ({"batch": 0}, "batch is 0"),
        ({"request": 0}, "request is 0"),
        ({"max_requests": 0}, "max_requests is 0"),
        ({"attempts": 0}, "attempts is 0"),
        ({"lease": 0.0}, "lease is 0.0"),
        ({"window_bytes": -1}, "window_bytes is -1"),
        ({"row_bytes": {}}, "at least one teacher"),
        ({"row_bytes": {"t": -1}}, "sizes not below 0"),
        ({"head": 3}, "head is row 3; expected a multiple of the batch 4 up to 40"),
        ({"head": 44}, "head is row 44"),
    ],
)
def test_a_ledger_that_cannot_be_says_why(options, named):
    with pytest.raises(ConfigError, match=named):
        ledger(teachers=(), **({"row_bytes": {"t": ROW}} | options))


def test_what_is_diverted_costs_the_replica_neither_credit_nor_reputation() -> None:
    ledger = Ledger(
        rows=8, batch=4, request=4, row_bytes={"t": 4}, window_bytes=64, max_requests=1, lease=30.0
    )
    ledger.join("t", "a")
    (given,) = ledger.dispatch(0.0)
    aside = ledger.divert(given.lease, "cache")
    assert (aside.replica, aside.start, aside.stop) == ("cache", 0, 4)
    assert not ledger.accept(given.lease, 16)
    (second,) = ledger.dispatch(0.0)
    assert (second.replica, second.start) == ("a", 4)
    assert ledger.leave("t", "a") == (1,)
    assert ledger.accept(aside.lease, 16)
    assert ledger.ready() == 4


def test_what_is_diverted_is_given_to_a_replica_when_nothing_comes_of_it() -> None:
    ledger = Ledger(rows=8, batch=4, request=4, row_bytes={"t": 4}, window_bytes=64, lease=30.0)
    ledger.join("t", "a")
    first, second = ledger.dispatch(0.0)
    declined = ledger.divert(first.lease, "cache")
    expired = ledger.divert(second.lease, "cache")
    ledger.decline(declined.lease, 1.0)
    assert [(a.replica, a.start) for a in ledger.dispatch(1.0)] == [("a", 0)]
    assert ledger.expire(30.0) == [expired]
    assert [(a.replica, a.start) for a in ledger.dispatch(30.0)] == [("a", 4)]
