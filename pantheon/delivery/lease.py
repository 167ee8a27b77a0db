"""Leases: which replica was given which request, until when, and what it is blamed for."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

from pantheon.delivery.speed import Speed


@dataclass(frozen=True, slots=True)
class Assignment:
    """One request for one replica: the knowledge of local rows ``[start, stop)``.

    Args:
        teacher, replica: who is asked.
        lease: number of this asking, unique and increasing; it names the request on the wire.
        request: number of the row range, the same for every teacher and every asking.
        start, stop: local rows.
    """

    teacher: str
    replica: str
    lease: int
    request: int
    start: int
    stop: int


@dataclass(slots=True, eq=False)
class Ask:
    """A request one teacher has not answered yet, over all its leases.

    Args:
        blame: attempts counted against each replica that held it; 0 for one that was merely slow,
            left in peace, or lost more than this request.
        lease: the lease it is out on, None while it waits to be given away again.
        crashes: how many of these attempts were crashes.
        forgiven: how many crashes were taken back.
        late: numbers of its former leases; a reply to one of them is as good.
    """

    teacher: str
    request: int
    nbytes: int
    answered: bool = False
    lease: Lease | None = None
    blame: dict[str, int] = field(default_factory=dict)
    crashes: int = 0
    forgiven: int = 0
    reasons: list[str] = field(default_factory=list)
    late: list[int] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Replica:
    """One replica and what it holds, oldest lease first.

    Args:
        nbytes: bytes it is expected to answer with.
        quiet_until: seconds; a lease of it ran out, or it was silent for too long, so that until
            then others are preferred. Its silence may be over without a word that could be known
            for its own, so it is tried again.
        retired: it takes no new requests, but finishes those it holds.
        heard: seconds; when it last gave a sign of life, or was first given something to do.
        speed: how fast it answers.
    """

    name: str
    leases: dict[int, Lease] = field(default_factory=dict)
    nbytes: int = 0
    quiet_until: float = float("-inf")
    retired: bool = False
    heard: float = float("-inf")
    speed: Speed = field(default_factory=Speed)

    def hear(self, now: float) -> None:
        """It gave a sign of life."""
        self.heard = max(self.heard, now)
        self.quiet_until = float("-inf")

    def done_in(self, nbytes: int) -> float:
        """Seconds in which it is expected to have answered what it holds and some bytes more."""
        return self.speed.time(self.nbytes + nbytes)


@dataclass(slots=True, eq=False)
class Lease:
    """One assignment while it is remembered.

    Args:
        deadline: seconds, on the caller's clock.
        live: it holds credit of its replica; False once it has run out or its replica has left.
    """

    assignment: Assignment
    ask: Ask
    replica: Replica
    deadline: float
    live: bool = True


class Leases:
    """All leases a reply may still come for, and the live ones by deadline.

    Args:
        term: seconds a lease lasts without being renewed.

    Example:
        >>> leases, a = Leases(30.0), Replica("a")
        >>> lease = leases.grant(Assignment("t", "a", 0, 0, 0, 8), Ask("t", 0, 64), a, now=5.0)
        >>> leases.deadline, a.nbytes, leases.overdue(35.0) == [lease]
        (35.0, 64, True)
    """

    def __init__(self, term: float) -> None:
        self.term = term
        self._known: dict[int, Lease] = {}
        # In order of deadline, as all leases last equally long and the clock never goes back.
        self._live: OrderedDict[int, Lease] = OrderedDict()

    @property
    def deadline(self) -> float | None:
        """When the next live lease runs out, None without one."""
        for lease in self._live.values():
            return lease.deadline
        return None

    @property
    def live(self) -> list[Lease]:
        """Leases that hold credit, the next to run out first."""
        return list(self._live.values())

    def __len__(self) -> int:
        return len(self._known)

    def grant(self, assignment: Assignment, ask: Ask, replica: Replica, now: float) -> Lease:
        """Start a lease."""
        lease = Lease(assignment, ask, replica, now + self.term)
        number = assignment.lease
        if not replica.leases:
            replica.heard = now
            replica.speed.begin(now)
        ask.lease = lease
        self._known[number] = self._live[number] = replica.leases[number] = lease
        replica.nbytes += ask.nbytes
        return lease

    def renew(self, numbers: Iterable[int], now: float) -> None:
        """Let live leases last a term from now; their replicas were heard."""
        for number in numbers:
            lease = self._known.get(number)
            if lease is None:
                continue
            lease.replica.hear(now)
            if lease.live:
                lease.deadline = now + self.term
                self._live.move_to_end(number)

    def away(self, seconds: float, now: float) -> None:
        """Nobody listened for some seconds up to now: all live leases last as much longer."""
        for lease in self._live.values():
            lease.deadline = min(lease.deadline + seconds, now + self.term)

    def overdue(self, now: float) -> list[Lease]:
        """Live leases whose deadline has come."""
        found = []
        for lease in self._live.values():
            if lease.deadline > now:
                break
            found.append(lease)
        return found

    def end(self, lease: Lease) -> None:
        """Give its credit back; while the request is unanswered, a reply is still good."""
        number = lease.assignment.lease
        if lease.live:
            lease.live = False
            del self._live[number], lease.replica.leases[number]
            lease.replica.nbytes -= lease.ask.nbytes
        if lease.ask.lease is lease:
            lease.ask.lease = None
        if lease.ask.answered:
            self._known.pop(number, None)
        else:
            lease.ask.late.append(number)

    def close(self, number: int, now: float) -> Lease | None:
        """End the lease a reply came for and forget it; None when it is not known (any more)."""
        lease = self._known.pop(number, None)
        if lease is not None:
            lease.replica.hear(now)
            self.end(lease)
        return lease

    def withdraw(self, number: int) -> Ask:
        """Take a lease back that was just given; what it was for."""
        lease = self._known[number]
        self.end(lease)
        self.forget([number])
        lease.ask.late.remove(number)
        return lease.ask

    def forget(self, numbers: Iterable[int]) -> None:
        """No reply to these is of use any more."""
        for number in numbers:
            self._known.pop(number, None)
