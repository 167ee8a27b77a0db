"""Which replica gets the next request, as they differ in speed."""

import pytest

from pantheon.delivery.lease import Ask, Assignment, Leases
from pantheon.delivery.roster import LATE, PROBE, REST, UNKNOWN, Roster
from pantheon.delivery.speed import Speed

NBYTES = 1000


class Race:
    """Replicas that answer one request after another, each in its own time."""

    def __init__(self, seconds: dict[str, float], most: int = 8) -> None:
        self.seconds, self.now, self.number = seconds, 0.0, 0
        self.roster, self.leases = Roster(most), Leases(1e9)
        self.free_at = dict.fromkeys(seconds, 0.0)
        self.answers: list[tuple[float, int, str]] = []
        self.done = dict.fromkeys(seconds, 0)
        for name in seconds:
            self.roster.join(name)

    def fill(self) -> None:
        """Give away requests while somebody takes them."""
        while (replica := self.roster.choose(self.now, NBYTES)) is not None:
            given = Assignment("t", replica.name, self.number, self.number, 0, 1)
            self.leases.grant(given, Ask("t", self.number, NBYTES), replica, self.now)
            begin = max(self.now, self.free_at[replica.name])
            self.free_at[replica.name] = begin + self.seconds[replica.name]
            self.answers.append((self.free_at[replica.name], self.number, replica.name))
            self.number += 1

    def run(self, until: float) -> None:
        while self.now < until:
            self.fill()
            first = min(self.answers)
            self.answers.remove(first)
            self.now, number, name = first
            lease = self.leases.close(number, self.now)
            assert lease is not None
            lease.replica.speed.reply(NBYTES, self.now)
            self.done[name] += 1

    def oldest(self) -> float:
        """How long ago the oldest request in flight was given, in requests given since."""
        return self.number - min(number for _, number, _ in self.answers)


def test_replicas_of_one_speed_get_equal_work():
    race = Race({"a": 0.1, "b": 0.1, "c": 0.1})
    race.run(30.0)
    assert max(race.done.values()) - min(race.done.values()) <= UNKNOWN + 1


def test_a_slow_replica_gets_what_it_can_do():
    race = Race({"a": 0.1, "b": 0.1, "c": 0.1, "slow": 1.0})
    race.run(60.0)
    assert 0.8 * 60 <= race.done["slow"] <= 60
    assert sum(race.done.values()) >= 0.97 * 60 * 31


def test_a_slow_replica_holds_nobody_up_for_long():
    race = Race({"a": 0.1, "b": 0.1, "c": 0.1, "slow": 1.0})
    race.run(20.0)
    held = 0
    for second in range(21, 60):
        race.run(second)
        held = max(held, race.oldest())
    # While the slow one works on one request, the others do 30; their queues are 8 each.
    assert held <= 30 + 8 * 3 + 10


def test_a_replica_that_became_fast_again_is_used_again():
    race = Race({"a": 0.1, "b": 2.5})
    race.run(60.0)
    race.seconds["b"] = 0.1
    race.run(60.0 + 4 * 2.5 * PROBE)
    before = race.done["b"]
    race.run(race.now + 10.0)
    assert race.done["b"] - before >= 50


def test_a_new_replica_begins_with_few_requests():
    roster = Roster(most=8)
    leases = Leases(1e9)
    roster.join("a"), roster.join("b")
    for number in range(100):
        replica = roster.choose(0.0, NBYTES)
        if replica is None:
            break
        given = Assignment("t", replica.name, number, number, 0, 1)
        leases.grant(given, Ask("t", number, NBYTES), replica, 0.0)
    assert {name: len(r.leases) for name, r in roster.replicas.items()} == {
        "a": UNKNOWN,
        "b": UNKNOWN,
    }


def test_a_speed_follows_a_change():
    speed = Speed()
    for second in range(100):
        speed.reply(1000, float(second))
    assert speed.time(1000) == pytest.approx(1.0, rel=0.05)
    for second in range(100, 500, 10):
        speed.reply(1000, float(second))
    assert speed.time(1000) == pytest.approx(10.0, rel=0.05)


@pytest.mark.parametrize("retired", [False, True])
def test_silence_that_nobody_can_take_over_is_not_waited_for(retired):
    roster, leases = Roster(most=8), Leases(1e9)
    for number, name in enumerate("ab"):
        roster.join(name)
        given = Assignment("t", name, number, number, 0, 1)
        leases.grant(given, Ask("t", number, NBYTES), roster.replicas[name], 0.0)
    roster.replicas["b"].retired = retired
    assert roster.first_silent(1.0, 3.0) == 3.0
    assert (roster.silent(4.0, 3.0), roster.first_silent(4.0, 3.0)) == ([], None)


def made(*names: str) -> Roster:
    roster = Roster(most=8)
    for name in names:
        roster.join(name)
    return roster


def held_by(roster: Roster, seconds: float, name: str, now: float = 0.0) -> Leases:
    """A replica that answers two requests in some seconds each, and holds another since then."""
    leases, replica = Leases(1e9), roster.replicas[name]
    for number in range(3):
        given = Assignment("t", name, number, number, 0, 1)
        leases.grant(given, Ask("t", number, NBYTES), replica, now)
        if number < 2:
            now += seconds
            leases.close(number, now)
            replica.speed.reply(NBYTES, now)
    return leases


def answered(roster: Roster, seconds: float, name: str) -> None:
    """A replica that answered two requests in some seconds each, and is idle."""
    speed = roster.replicas[name].speed
    speed.begin(0.0)
    for number in (1, 2):
        speed.reply(NBYTES, number * seconds)


def test_one_that_all_wait_for_is_late_soon_where_an_idle_one_would_be_done():
    roster = made("a", "idle")
    answered(roster, 0.5, "idle")
    held_by(roster, 5.0, "a")
    a, due = roster.replicas["a"], 10.0 + LATE * 0.5
    assert roster.first_silent(10.1, 9.0) == 19.0
    assert roster.first_silent(10.1, 9.0, a) == due
    assert roster.silent(due - 0.01, 9.0, a) == []
    assert roster.silent(due, 9.0, a) == [a]
    assert roster.silent(due, 9.0) == []


@pytest.mark.parametrize("why", ["busy", "retired", "quiet", "slow"])
def test_one_that_all_wait_for_gets_its_time_where_no_other_can_help(why):
    roster = made("a", "b")
    held_by(roster, 0.1, "a")
    b = roster.replicas["b"]
    if why == "busy":
        held_by(roster, 0.1, "b")
    else:
        answered(roster, 8.0 if why == "slow" else 0.1, "b")
    b.retired = why == "retired"
    if why == "quiet":
        b.quiet_until = 100.0
    assert roster.silent(2.0, 9.0, roster.replicas["a"]) == []


def test_replicas_that_answer_in_bursts_are_not_late_between_them():
    roster = made("a", "idle")
    for name in ("a", "idle"):
        speed = roster.replicas[name].speed
        speed.begin(0.0)
        for burst in (1.0, 2.0):
            for _ in range(8):
                speed.reply(NBYTES, burst)
    leases, a = Leases(1e9), roster.replicas["a"]
    leases.grant(Assignment("t", "a", 0, 0, 0, 1), Ask("t", 0, NBYTES), a, 2.0)
    assert roster.silent(3.5, 9.0, a) == []


def test_beside_one_that_never_answered_nobody_is_late_early():
    roster = made("a", "idle")
    held_by(roster, 0.1, "a")
    a = roster.replicas["a"]
    a.hear(3.0)
    assert (roster.silent(3.1, 3.0, a), roster.silent(3.2, 3.0, a)) == ([], [a])


def test_heartbeats_of_one_that_never_gets_done_make_it_no_less_late():
    roster = made("a", "idle")
    answered(roster, 0.1, "idle")
    held_by(roster, 0.1, "a")
    a = roster.replicas["a"]
    a.hear(0.9)
    assert roster.silent(1.0, 3.0, a) == [a]


def test_one_that_was_late_gets_what_it_can_do():
    race = Race({"a": 0.1, "b": 0.1})
    race.run(10.0)
    a = race.roster.replicas["a"]
    a.speed.miss(race.now + 2.0)
    assert a.done_in(NBYTES) > race.roster.replicas["b"].done_in(NBYTES)
    race.run(race.now + 20.0)
    assert a.done_in(0) == pytest.approx(race.roster.replicas["b"].done_in(0), abs=0.2)


def test_one_that_has_not_answered_yet_starves_nobody():
    race = Race({"a": 0.1, "b": 0.1, "new": 1e6})
    race.run(20.0)
    assert race.done["a"] + race.done["b"] >= 0.97 * 20 / 0.1 * 2


def test_a_first_answer_that_took_long_says_little():
    speed = Speed()
    speed.begin(0.0)
    speed.reply(NBYTES, 10.0)
    assert speed.usual(NBYTES) == 10.0
    speed.reply(NBYTES, 10.1)
    assert speed.usual(NBYTES) == pytest.approx(0.1)


def test_one_that_was_slow_for_once_is_tried_again_soon():
    race = Race({"a": 0.1, "new": 20.0})
    race.run(1.0)
    race.seconds["new"] = 0.1
    race.run(2 * 20.0 + REST + 1.0)
    before = race.done["new"]
    race.run(race.now + 30.0)
    assert race.done["new"] - before > 0.5 * 30 / 0.1
