"""A ledger watched from outside: every call is checked against a plain model of the promises."""

from collections import Counter
from collections.abc import Iterable
from math import ceil

from pantheon.delivery.ledger import PATIENCE, Assignment, Ledger
from pantheon.delivery.roster import SOON


def cut(head: int, rows: int, request: int, ramp: int | None) -> list[int]:
    """Where the requests end, one after another."""
    stops, at, size = [], head, ramp or request
    while at < rows:
        at = min(rows, at + size if ramp else (at // request + 1) * request)
        size = min(size * 2, request)
        stops.append(at)
    return stops


class WatchedLedger:
    """One ledger and what it must have done, kept in the most literal way.

    Used by the state machine, and by any test that wants a run of its own watched. An assertion
    names the promise that was broken.
    """

    def __init__(
        self, ledger: Ledger, *, batch, request, row_bytes, window, most, term, attempts, ramp=None
    ):
        self.ledger = ledger
        self.batch, self.window = batch, window
        self.stops = cut(ledger.head, ledger.rows, request, ramp)
        self.base = 0 if ramp else ledger.head // request
        self.most, self.term, self.attempts = most, term, attempts
        self.teachers = list(row_bytes)
        self.origin = self.head = ledger.head
        self.replicas: dict[str, set[str]] = {t: set() for t in row_bytes}
        self.quiet_until: dict[str, float] = {}
        self.heard: dict[str, float] = {}
        self.retired: set[str] = set()
        self.replied: dict[str, float] = {}
        self.now = float("-inf")
        self.born: dict[str, int] = {}
        self.given: dict[int, tuple[Assignment, int]] = {}
        self.live: dict[int, Assignment] = {}
        self.deadlines: dict[int, float] = {}
        self.cancelled: set[int] = set()
        self.answered: set[tuple[str, int]] = set()
        self.blame: dict[tuple[str, int], dict[str, int]] = {}
        self.crashes: Counter[tuple[str, int]] = Counter()
        self.taken: dict[int, dict[str, int]] = {}
        self.hopeless = False
        self.end = self.first
        self.last_lease = -1

    @property
    def rows(self) -> int:
        return self.ledger.rows

    @property
    def count(self) -> int:
        return self.base + len(self.stops)

    @property
    def first(self) -> int:
        return self.base + sum(stop <= self.head for stop in self.stops)

    def span(self, request: int) -> tuple[int, int]:
        k = request - self.base
        return self.stops[k - 1] if k else self.origin, self.stops[k]

    def held(self, replica: str) -> list[Assignment]:
        return [a for a in self.live.values() if a.replica == replica]

    # ---- calls

    def join(self, teacher: str, replica: str) -> None:
        self.ledger.join(teacher, replica)
        if replica not in self.replicas[teacher]:
            self.replicas[teacher].add(replica)
            self.quiet_until.pop(replica, None)
            self.heard.pop(replica, None)
            self.retired.discard(replica)
            self.born[replica] = self.last_lease

    def leave(self, teacher: str, replica: str, crashed: bool) -> None:
        held = self.held(replica)
        wanted = [a for a in held if (a.teacher, a.request) not in self.answered]
        self.replicas[teacher].discard(replica)
        for a in held:
            self._end(a)
        back = self.ledger.leave(teacher, replica, crashed=crashed)
        if crashed and wanted:
            self._blame(wanted[0], 1)
            self.crashes[teacher, wanted[0].request] += 1
        for a in wanted:
            self._blame(a, 0)
        if crashed and wanted:
            self._check_poison((teacher, wanted[0].request))
        poisoned = self._poisoned_request()
        expected = sorted(a.request for a in wanted if (teacher, a.request) != poisoned)
        assert list(back) == expected, f"what a dead replica held is put back: {back}, {expected}"
        self.check()

    def retire(self, teacher: str, replica: str) -> None:
        self.ledger.retire(teacher, replica)
        if replica in self.replicas[teacher]:
            self.retired.add(replica)
        self.check()

    def hear(self, teacher: str, replica: str, now: float) -> None:
        self.now = now
        self.ledger.hear(teacher, replica, now)
        self._heard(replica)
        self.check()

    def suspect(self, now: float, silence: float) -> None:
        self.now = now
        due = {r for t in self.teachers for r in self._suspects(t, silence)}
        early = {r for t in self.teachers for r in self._may_be_suspected(t)}
        gone = self.ledger.suspect(now, dict.fromkeys(self.teachers, silence))
        found = {a.replica for a in gone}
        held = {a.lease for r in found for a in self.held(r)}
        assert {a.lease for a in gone} == held, "a silent replica keeps nothing"
        assert due <= found, "what silent replicas hold goes on"
        assert found <= due | early, "only what silent replicas hold goes on"
        for a in gone:
            self._end(a)
            self.quiet_until[a.replica] = float("inf")
            if (a.teacher, a.request) not in self.answered:
                self._blame(a, 0)
        self.check()

    def _suspects(self, teacher: str, silence: float) -> set[str]:
        awake = {r for r in self.replicas[teacher] if self.quiet_until.get(r, 0.0) <= self.now}
        late = {r for r in awake if self.held(r) and self.now - self.heard[r] >= silence}
        return late if awake - late - self.retired else set()

    def _may_be_suspected(self, teacher: str) -> set[str]:
        """Who has kept the head waiting for a while without an answer, where others idle."""
        names = {r for r in self.replicas[teacher] if self.quiet_until.get(r, 0.0) <= self.now}
        idle = {r for r in names - self.retired if not self.held(r)}
        first = min(
            k for k in range(self.first, self.count + 1) if (teacher, k) not in self.answered
        )
        return {
            a.replica
            for a in self.live.values()
            if (a.teacher, a.request) == (teacher, first)
            and a.start < (self.head // self.batch + 1) * self.batch
            and a.replica in names
            and self.now - self.replied[a.replica] >= SOON
            and idle
        }

    def dispatch(self, now: float) -> list[Assignment]:
        self.now = now
        expected = dict(self.ledger.row_bytes)
        given = self.ledger.dispatch(now)
        self.quiet = {name for name, until in self.quiet_until.items() if until > now}
        for a in given:
            self._check_assignment(a)
            if not self.held(a.replica):
                self.heard[a.replica] = self.replied[a.replica] = now
            self.live[a.lease] = a
            self.deadlines[a.lease] = now + self.term
            self.given[a.lease] = a, self.born[a.replica]
        for request in sorted({a.request for a in given if a.request >= self.end}):
            self._let_in(request, expected)
        self.check()
        self._check_head_is_out()
        return given

    def accept(self, a: Assignment, nbytes: int) -> bool:
        key = (a.teacher, a.request)
        new = key not in self.answered and a.lease not in self.cancelled
        self._hear(a.lease)
        self._end(a)
        self.replied[a.replica] = self.now
        found = self.ledger.accept(a.lease, nbytes)
        assert found == new, f"the first reply wins and only the first: {a} gave {found}"
        if new:
            self.answered.add(key)
            self.taken[a.request][a.teacher] = nbytes
        self.check()
        return found

    def refuse(self, a: Assignment, now: float, final: bool = False) -> None:
        self.now = now
        key = (a.teacher, a.request)
        self._hear(a.lease)
        self._end(a)
        self.ledger.refuse(a.lease, "no", now, final=final)
        if a.lease not in self.cancelled and key not in self.answered:
            self._blame(a, 1)
            self.hopeless |= final
        self._check_poison(key)
        self.check()

    def renew(self, leases: Iterable[int], now: float) -> None:
        self.now = now
        leases = list(leases)
        self.ledger.renew(leases, now)
        for lease in leases:
            self._hear(lease)
            if lease in self.live:
                self.deadlines[lease] = now + self.term
        self.check()

    def expire(self, now: float) -> None:
        self.now = now
        due = {lease for lease in self.live if self.deadlines[lease] <= now}
        gone = self.ledger.expire(now)
        assert {a.lease for a in gone} == due, "what has run out, and only that, is put back"
        for a in gone:
            self._end(a)
            self.quiet_until[a.replica] = now + self.term
            if (a.teacher, a.request) not in self.answered:
                self._blame(a, 0)
        self.check()

    def cancel_all(self) -> None:
        gone = self.ledger.cancel_all()
        assert {a.lease for a in gone} == set(self.live), "everything in flight is cancelled"
        for a in gone:
            self._end(a)
            self.cancelled.add(a.lease)
        self.check()

    def advance(self, stop: int) -> None:
        touched = [k for k in range(self.first, self.count) if self.span(k)[0] < stop]
        for request in touched:
            for teacher in self.teachers:
                assert (teacher, request) in self.answered, (
                    f"nothing is yielded before all teachers answered: {teacher}, {request}"
                )
        before = self.first
        gone = self.ledger.advance(stop)
        self.head = stop
        assert gone == list(range(before, self.first)), "what is yielded whole may go"
        for request in gone:
            del self.taken[request]
        self.check()

    # ---- promises

    def check(self) -> None:
        ledger = self.ledger
        assert ledger.head == self.head
        assert ledger.done == (self.head == self.rows)
        assert ledger.nbytes == sum(sum(t.values()) for t in self.taken.values()), (
            "the bytes counted are those asked for or arrived and not yielded"
        )
        deadline = min((self.deadlines[lease] for lease in self.live), default=None)
        assert ledger.deadline() == deadline, "the next deadline is known"
        for names in self.replicas.values():
            for name in names:
                assert ledger.in_flight(name) == len(self.held(name)), "credit is exact"
        assert ledger.ready() == self.ready(), "nothing is ready before all teachers answered"

    def ready(self) -> int:
        request = self.first
        while request < self.count and all((t, request) in self.answered for t in self.teachers):
            request += 1
        if request >= self.count:
            return self.rows
        return self.span(request)[0] // self.batch * self.batch

    def _check_assignment(self, a: Assignment) -> None:
        key = (a.teacher, a.request)
        assert (a.start, a.stop) == self.span(a.request)
        assert a.lease > self.last_lease, "leases are unique and increase"
        self.last_lease = a.lease
        assert a.replica in self.replicas[a.teacher], "only live replicas are asked"
        assert a.replica not in self.retired, "a replica that is about to stop is not asked"
        assert len(self.held(a.replica)) < self.most, "no replica has more than its share in flight"
        assert key not in self.answered, "what was answered is not asked again"
        assert all((b.teacher, b.request) != key for b in self.live.values()), (
            "one replica at a time is asked"
        )
        failed = self.blame.get(key, {})
        others = self.replicas[a.teacher] - failed.keys() - self.quiet - self.retired
        assert a.replica not in failed or not others, (
            "a request goes to a replica that did not fail it, where there is one"
        )

    def _let_in(self, request: int, row_bytes: dict[str, float]) -> None:
        assert request == self.end, "requests are let in in order"
        start, stop = self.span(request)
        taken = {t: ceil(row_bytes[t] * (stop - start)) for t in self.teachers}
        held = sum(sum(t.values()) for t in self.taken.values())
        in_head = start < (self.head // self.batch + 1) * self.batch
        assert in_head or held + sum(taken.values()) <= self.window, (
            f"nothing beyond the window is asked for: {request} with {held} of {self.window} taken"
        )
        self.taken[request] = taken
        self.end = request + 1

    def _check_head_is_out(self) -> None:
        for teacher, names in self.replicas.items():
            request = self.first
            while (teacher, request) in self.answered:
                request += 1
            head_stop = min((self.head // self.batch + 1) * self.batch, self.rows)
            key = (teacher, request)
            wanted = request < self.count and self.span(request)[0] < head_stop
            if not wanted or key in self.blame:
                continue
            out = any((a.teacher, a.request) == key for a in self.live.values())
            asked = names - self.retired
            fit = asked - self.quiet or asked
            busy = any(self.held(n) for n in fit) or not fit
            assert out or busy, f"the head is asked for whatever the budget: {key}"

    def _check_poison(self, key: tuple[str, int]) -> None:
        if self.hopeless or self._should_be_poisoned(key):
            assert self.ledger.poisoned, f"what fails again and again is given up: {key}"
        self._poisoned_request()

    def _poisoned_request(self) -> tuple[str, int] | None:
        found = self.ledger.poisoned
        if found is None:
            return None
        key = (found.teacher, found.request)
        assert self.hopeless or self._should_be_poisoned(key), f"poisoned too early: {found}"
        assert found.attempts == len(found.reasons) == sum(self.blame[key].values()), (
            "every attempt counted is named"
        )
        assert (found.start, found.stop) == self.span(found.request)
        return key

    def _should_be_poisoned(self, key: tuple[str, int]) -> bool:
        counts = self.blame.get(key, {})
        culprits = {name for name, count in counts.items() if count}
        others = self.replicas[key[0]] - culprits - self.retired
        awake = {r for r in others if self.quiet_until.get(r, 0.0) <= self.now}
        # A crash counts half.
        spent = (2 * sum(counts.values()) - self.crashes[key]) / (2 * self.attempts)
        alone = not others or (spent >= PATIENCE and not awake)
        return bool(culprits) and spent >= 1 and (len(culprits) > 1 or alone)

    def _blame(self, a: Assignment, count: int) -> None:
        blame = self.blame.setdefault((a.teacher, a.request), {})
        blame[a.replica] = blame.get(a.replica, 0) + count

    def _hear(self, lease: int) -> None:
        """Something came that named a lease: if it is known, its replica is not silent."""
        a, born = self.given[lease]
        known = lease in self.live or (a.teacher, a.request) not in self.answered
        if known and lease not in self.cancelled and self.born.get(a.replica) == born:
            self._heard(a.replica)

    def _heard(self, replica: str) -> None:
        self.quiet_until.pop(replica, None)
        self.heard[replica] = max(self.now, self.heard.get(replica, self.now))

    def _end(self, a: Assignment) -> None:
        self.live.pop(a.lease, None)
        self.deadlines.pop(a.lease, None)
