"""What was asked of whom, what was answered, what may be yielded: the delivery protocol, pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pantheon.delivery.counters import Counters
from pantheon.delivery.lease import Ask, Assignment, Lease, Leases, Replica
from pantheon.delivery.poison import (
    Poisoned,
    count_attempt,
    failed_too_often,
    forgive_crash,
    verdict,
)
from pantheon.delivery.progress import Progress
from pantheon.delivery.roster import Roster
from pantheon.delivery.speed import Speed
from pantheon.delivery.window import Window
from pantheon.errors import ConfigError

CRASH = "left while it held the request"

PATIENCE = 4
"""How many times the attempts a request has while another replica is there, but silent."""

__all__ = ["Assignment", "Counters", "Ledger", "Poisoned"]


class Ledger:
    """The delivery protocol of one epoch and one rank, without I/O and without a clock.

    The local rows ``0 … rows - 1`` are cut into requests; request k is
    ``[k * request, (k + 1) * request)``, cut at the end (and, after a resume, at the head). Every
    teacher answers every request once. The caller sends what `dispatch` returns, reports what comes
    back, and yields rows up to `ready`, in order.

    - *Window.* A request is given away when it overlaps the head batch, or when what was asked for
      or has arrived and is not yielded stays within `window_bytes`, over all teachers together.
    - *Leases.* A replica holds a request for `lease` seconds, renewed by its heartbeats. What it
      held goes to another replica once the lease runs out or the replica leaves; the replica that
      failed it gets it again only when there is no other. The first reply wins, even a late one.
    - *Poison.* A request is given up after `attempts` refusals, or twice as many crashes, on two
      replicas where there are two; `poisoned` then says which. A replica that crashes is blamed for
      its oldest lease only, the one it most likely worked on, and `forgive` takes that back; a
      lease that ran out blames nobody. A slow or silent teacher is a matter for the caller's
      patience.

    Memory and time depend on the window, never on the number of rows.

    Args:
        rows: local rows of the epoch.
        batch: rows of a batch, as yielded; only the last one may be short.
        request: rows of a request; it need not divide the batch, nor be a multiple of it.
        row_bytes: bytes of one row from each teacher, by the teachers' names.
        window_bytes: the budget.
        max_requests: requests in flight at one replica.
        lease: seconds.
        attempts: refusals after which a request is poisoned; a crash counts half.
        head: rows yielded before, a multiple of `batch` or `rows`.
        first_lease: number of the first lease; the `next_lease` of the epoch before.
        ramp: rows of the first request, where later ones double it up to `request`; None for none.
        counters: what to count on; from 0 by default.

    Raises:
        ConfigError: an argument that cannot be.

    Example:
        >>> ledger = Ledger(rows=10, batch=4, request=4, row_bytes={"t": 4}, window_bytes=1024)
        >>> ledger.join("t", "a")
        >>> asked = ledger.dispatch(now=0.0)
        >>> [(a.lease, a.start, a.stop) for a in asked]
        [(0, 0, 4), (1, 4, 8), (2, 8, 10)]
        >>> ledger.accept(1, nbytes=16), ledger.ready()
        (True, 0)
        >>> ledger.accept(0, nbytes=16), ledger.ready()
        (True, 8)
        >>> ledger.advance(4), ledger.head, ledger.leave("t", "a")
        ([0], 4, (2,))
    """

    def __init__(
        self,
        *,
        rows: int,
        batch: int,
        request: int,
        row_bytes: Mapping[str, float],
        window_bytes: int,
        max_requests: int = 8,
        lease: float = 30.0,
        attempts: int = 3,
        head: int = 0,
        first_lease: int = 0,
        ramp: int | None = None,
        counters: Counters | None = None,
    ) -> None:
        for name, value in (
            ("rows", rows),
            ("batch", batch),
            ("request", request),
            ("max_requests", max_requests),
            ("attempts", attempts),
        ):
            if value < 1:
                raise ConfigError(f"{name} is {value}; expected at least 1")
        _check(row_bytes, window_bytes, lease)
        if not 0 <= head <= rows or (head % batch and head != rows):
            raise ConfigError(
                f"the head is row {head}; expected a multiple of the batch {batch} up to {rows}"
            )
        self.rows, self.batch, self.attempts = rows, batch, attempts
        self.poisoned: Poisoned | None = None
        self.counters = Counters() if counters is None else counters
        self.next_lease = first_lease
        self._window = Window(rows, batch, request, row_bytes, window_bytes, head, ramp)
        self._leases = Leases(lease)
        self._aside = Replica("")
        self._now = float("-inf")
        self._ready = head
        first = self._window.first
        self._teachers = {
            name: Progress(name, Roster(max_requests), first, first) for name in row_bytes
        }

    @property
    def head(self) -> int:
        """Rows yielded."""
        return self._window.head

    @property
    def done(self) -> bool:
        """Whether every row was yielded."""
        return self.head >= self.rows

    @property
    def nbytes(self) -> int:
        """Bytes asked for, or arrived and not yielded, of all teachers."""
        return self._window.nbytes

    @property
    def row_bytes(self) -> Mapping[str, float]:
        """Bytes a row of each teacher is expected to have, as declared or learned since."""
        return self._window.row_bytes

    def state(self) -> int:
        """What a checkpoint needs: rows yielded, not those that merely arrived."""
        return self.head

    def span(self, request: int) -> tuple[int, int]:
        """The local rows ``[start, stop)`` of a request."""
        return self._window.span(request)

    def holding(self, row: int) -> int:
        """The request that holds a row."""
        return self._window.cuts.holding(row)

    def in_flight(self, replica: str) -> int:
        """Requests a replica holds (of that name, for whichever teacher)."""
        found = (t.roster.replicas.get(replica) for t in self._teachers.values())
        return sum(len(r.leases) for r in found if r is not None)

    def answered(self, teacher: str) -> int:
        """Rows r such that a teacher has answered ``[0, r)``."""
        low = self._teacher(teacher).low
        return self.rows if low >= self._window.requests else self.span(low)[0]

    def waiting_for(self) -> tuple[str, ...]:
        """The teachers that have not answered all of the head batch; empty when done."""
        stop = self._window.head_stop
        return tuple(t for t in self._teachers if self.answered(t) < stop)

    def lease_of(self, request: int, teacher: str) -> Assignment | None:
        """What an unanswered request is out on, None when nobody holds it."""
        ask = self._teacher(teacher).asks.get(request)
        return ask.lease.assignment if ask is not None and ask.lease is not None else None

    def join(self, teacher: str, replica: str, speed: Speed | None = None) -> None:
        """A replica can be given work from now on; joining twice changes nothing.

        Args:
            speed: how fast it was in an epoch before.
        """
        found = self._teacher(teacher)
        if found.roster.join(replica, speed):
            found.crashes.pop(replica, None)

    def leave(self, teacher: str, replica: str, *, crashed: bool = True) -> tuple[int, ...]:
        """A replica is gone; what it held can be given away at once.

        Args:
            crashed: count an attempt against the oldest request it held. False for one that said
                goodbye, or whom the caller left.

        Returns:
            The requests put back, in order; none for a replica that was not there.
        """
        gone = self._teacher(teacher).roster.leave(replica)
        if gone is None or not gone.leases:
            return ()
        self.counters.lost += 1
        wanted = [lease for lease in list(gone.leases.values()) if self._end(lease)]
        if crashed and wanted:
            self._teachers[teacher].crashes[replica] = wanted[0].ask
            self._blame(wanted[0], CRASH, crash=True)
        return tuple(sorted(a.ask.request for a in wanted if self._put_back(a)))

    def forgive(self, teacher: str, replica: str) -> None:
        """A replica that had left is back and had not crashed: it was the way to it that broke."""
        ask = self._teacher(teacher).crashes.pop(replica, None)
        if ask is not None:
            forgive_crash(ask, replica, CRASH)

    def dispatch(self, now: float) -> list[Assignment]:
        """Give requests away as window and credit allow; the caller sends what is returned.

        Requests that were put back come first, then new ones, each in order of rows.
        """
        self._tick(now)
        given: list[Assignment] = []
        for teacher in self._teachers.values():
            if teacher.roster.replicas:
                if teacher.back:
                    self._give_again(teacher, given)
                self._give_new(teacher, given)
        return given

    def _give_again(self, teacher: Progress, given: list[Assignment]) -> None:
        for request in sorted(teacher.back):
            ask = teacher.asks[request]
            replica = teacher.roster.choose(self._now, ask.nbytes, ask.blame)
            if replica is not None:
                teacher.back.remove(request)
                given.append(self._grant(ask, replica.name))

    def _give_new(self, teacher: Progress, given: list[Assignment]) -> None:
        window, choose = self._window, teacher.roster.choose
        while teacher.next < window.requests:
            request = teacher.next
            nbytes = window.expected(request, teacher.name)
            replica = choose(self._now, nbytes)
            if replica is None or not window.admit(request):
                return
            ask = Ask(teacher.name, request, nbytes)
            teacher.asks[request] = ask
            teacher.next += 1
            given.append(self._grant(ask, replica.name))

    def _grant(self, ask: Ask, replica: str) -> Assignment:
        start, stop = self._window.span(ask.request)
        given = Assignment(ask.teacher, replica, self.next_lease, ask.request, start, stop)
        self.next_lease += 1
        holder = self._teachers[ask.teacher].roster.replicas[replica]
        self._leases.grant(given, ask, holder, self._now)
        return given

    def divert(self, lease: int, by: str) -> Assignment:
        """Something that is no replica answers what was just given away.

        The replica gets its credit back, and is not held to be as fast or as slow.

        Args:
            by: what to call it; it is never chosen by itself.

        Returns:
            The assignment in its place, with a lease of its own.
        """
        ask = self._leases.withdraw(lease)
        start, stop = self._window.span(ask.request)
        given = Assignment(ask.teacher, by, self.next_lease, ask.request, start, stop)
        self.next_lease += 1
        self._leases.grant(given, ask, self._aside, self._now)
        return given

    def renew(self, leases: Iterable[int], now: float) -> None:
        """A heartbeat named these leases: they last from now on; unknown ones are left alone."""
        self._tick(now)
        self._leases.renew(leases, self._now)

    def hear(self, teacher: str, replica: str, now: float) -> None:
        """A replica gave a sign of life, whichever requests it was about."""
        self._tick(now)
        found = self._teacher(teacher).roster.replicas.get(replica)
        if found is not None:
            found.hear(self._now)

    def away(self, seconds: float, now: float) -> None:
        """The caller did not listen for some seconds up to now: nobody's silence, or slowness."""
        self._tick(now)
        self._leases.away(seconds, self._now)
        for teacher in self._teachers.values():
            for replica in teacher.roster.replicas.values():
                replica.heard = min(self._now, replica.heard + seconds)
                replica.speed.since = min(self._now, replica.speed.since + seconds)

    def spare(self, teacher: str, replica: str, until: float) -> None:
        """Prefer others until then; a sign of life of it that comes before ends that."""
        found = self._teacher(teacher).roster.replicas.get(replica)
        if found is not None:
            found.quiet_until = max(found.quiet_until, until)

    def retire(self, teacher: str, replica: str) -> None:
        """A replica takes no new requests but finishes those it holds, until it leaves."""
        found = self._teacher(teacher).roster.replicas.get(replica)
        if found is not None:
            found.retired = True

    def suspect(self, now: float, after: Mapping[str, float]) -> list[Assignment]:
        """Put back what silent and late replicas hold, where another replica can take it over.

        They get no more work until they are heard of, while there are others; a late answer is
        still good. The only replica of a teacher is left to its leases and the caller's patience.
        One that the head waits for loses what it holds much earlier, by how fast it answered
        before, where another has nothing to do.

        Args:
            after: seconds of silence, at most, by teacher.

        Returns:
            The assignments put back.
        """
        self._tick(now)
        found: list[Assignment] = []
        for name, seconds in after.items():
            teacher = self._teacher(name)
            for replica in teacher.roster.silent(self._now, seconds, self._awaited(teacher)):
                replica.quiet_until = float("inf")
                replica.speed.miss(self._now)
                for lease in list(replica.leases.values()):
                    if self._end(lease):
                        self._put_back(lease)
                    found.append(lease.assignment)
        self.counters.suspected += len(found)
        return found

    def next_suspicion(self, after: Mapping[str, float]) -> float | None:
        """When `suspect` next has something to do; None: nothing depends on it now."""
        teachers = ((self._teacher(n), s) for n, s in after.items())
        times = (t.roster.first_silent(self._now, s, self._awaited(t)) for t, s in teachers)
        return min((t for t in times if t is not None), default=None)

    def _awaited(self, teacher: Progress) -> Replica | None:
        """Who holds the request of a teacher that the head batch needs next."""
        ask = teacher.asks.get(teacher.low)
        if ask is None or ask.lease is None:
            return None
        return ask.lease.replica if self.span(ask.request)[0] < self._window.head_stop else None

    def deadline(self) -> float | None:
        """When `expire` next has something to do, in seconds on the caller's clock."""
        return self._leases.deadline

    def expire(self, now: float) -> list[Assignment]:
        """Put back the requests whose lease has run out.

        Their replicas get no more work until they are heard of, or a lease's time has passed, while
        there are others.

        Returns:
            The assignments that ran out, the oldest first.
        """
        self._tick(now)
        overdue = self._leases.overdue(self._now)
        for lease in overdue:
            lease.replica.quiet_until = self._now + self._leases.term
            if self._end(lease):
                self._put_back(lease)
        self.counters.expired += len(overdue)
        return [lease.assignment for lease in overdue]

    def accept(self, lease: int, nbytes: int, now: float | None = None) -> bool:
        """A reply came.

        Args:
            nbytes: bytes it takes until it is yielded.
            now: seconds; None for the last time that was told.

        Returns:
            Whether it is the first for its request and teacher; otherwise drop it.
        """
        self._tick(self._now if now is None else now)
        found = self._leases.close(lease, self._now)
        if found is not None:
            found.replica.speed.reply(found.ask.nbytes, self._now)
        if found is None or found.ask.answered:
            self.counters.duplicates += 1
            return False
        ask = found.ask
        self.counters.answered += 1
        self._leases.forget(ask.late)
        self._window.settle(ask.request, ask.teacher, nbytes)
        if self._teachers[ask.teacher].answer(ask.request):
            self._ready = self._ready_up_to(self._answered_by_all())
        return True

    def refuse(self, lease: int, reason: str, now: float, *, final: bool = False) -> None:
        """A replica will not answer: put the request back, or find it poisoned.

        Args:
            reason: what it said.
            final: no replica can ever answer it; it is poisoned at once.
        """
        self._tick(now)
        found = self._leases.close(lease, self._now)
        if found is None or found.ask.answered:
            return
        self.counters.refused += 1
        self._blame(found, reason, final)
        if found.ask.lease is None:
            self._put_back(found)

    def decline(self, lease: int, now: float) -> None:
        """A replica takes no work now: put the request back, which blames nobody."""
        self._tick(now)
        found = self._leases.close(lease, self._now)
        if found is None or found.ask.answered or found.ask.lease is not None:
            return
        # What went to no replica could not be lost by one.
        self._put_back(found, counted=found.replica is not self._aside)

    def ready(self) -> int:
        """The row up to which every teacher has answered, cut down to whole batches or the end."""
        return self._ready

    def _answered_by_all(self) -> int:
        """The first request that some teacher has not answered."""
        return min([teacher.low for teacher in self._teachers.values()])

    def _ready_up_to(self, request: int) -> int:
        if request >= self._window.requests:
            return self.rows
        return self._window.span(request)[0] // self.batch * self.batch

    def advance(self, stop: int) -> list[int]:
        """The rows up to `stop` were yielded.

        Returns:
            The requests that are now yielded whole; their payloads may go.

        Raises:
            ConfigError: `stop` is before the head, past `ready`, or within a batch.
        """
        cut = stop % self.batch and stop != self.rows
        if cut or not self._window.head <= stop <= self.ready():
            raise ConfigError(
                f"rows up to {stop} cannot have been yielded: the head is {self.head}, ready is "
                f"{self.ready()}, a batch has {self.batch} rows"
            )
        return self._window.advance(stop)

    def cancel_all(self) -> list[Assignment]:
        """Take back whatever is in flight; replies to it are duplicates from now on."""
        live = self._leases.live
        for lease in live:
            wanted = self._end(lease)
            self._leases.forget([lease.assignment.lease])
            if wanted:
                self._teachers[lease.ask.teacher].back.add(lease.ask.request)
        return [lease.assignment for lease in live]

    def _end(self, lease: Lease) -> bool:
        """Give the lease's credit back; whether its request is still wanted."""
        self._leases.end(lease)
        return not lease.ask.answered

    def _put_back(self, lease: Lease, counted: bool = True) -> bool:
        """Let the request be given away again, to another replica if there is one."""
        ask = lease.ask
        ask.blame.setdefault(lease.replica.name, 0)
        if self.poisoned is not None and self.poisoned.concerns(ask):
            return False
        self._teachers[ask.teacher].back.add(ask.request)
        self.counters.requeued += counted
        return True

    def _blame(
        self, lease: Lease, reason: str, final: bool = False, *, crash: bool = False
    ) -> None:
        """Count an attempt of the lease's replica at its request."""
        ask = lease.ask
        count_attempt(ask, lease.replica.name, reason, crash=crash)
        if self.poisoned is None and (final or self._failed_too_often(ask)):
            self.poisoned = verdict(ask, self.span(ask.request))

    def _failed_too_often(self, ask: Ask) -> bool:
        roster = self._teachers[ask.teacher].roster
        if failed_too_often(ask, roster.usable(), self.attempts):
            return True
        # Who is silent may be back, so that it is waited for; not without end.
        return failed_too_often(ask, roster.usable(self._now), PATIENCE * self.attempts)

    def _tick(self, now: float) -> None:
        # A clock that goes back would leave the leases out of order.
        if now > self._now:
            self._now = now

    def _teacher(self, name: str) -> Progress:
        found = self._teachers.get(name)
        if found is None:
            raise ConfigError(f"no teacher {name!r}; there are {', '.join(self._teachers)}")
        return found


def _check(row_bytes: Mapping[str, float], window_bytes: int, lease: float) -> None:
    if not row_bytes or min(row_bytes.values()) < 0:
        raise ConfigError(
            f"row_bytes is {dict(row_bytes)}; expected at least one teacher, sizes not below 0"
        )
    if window_bytes < 0:
        raise ConfigError(f"window_bytes is {window_bytes}; expected at least 0")
    if not lease > 0:
        raise ConfigError(f"lease is {lease} seconds; expected more than 0")
