"""The live replicas of one teacher, and which of them gets the next request."""

from __future__ import annotations

from collections.abc import Collection

from pantheon.delivery.lease import Replica
from pantheon.delivery.speed import Speed

UNKNOWN = 2
"""Requests in flight at a replica that has not answered any, where there are others."""

BEHIND = 2.0
"""How many times later than the best a replica may be expected to answer."""

PROBE = 10.0
"""How long a replica that is too slow stays idle until it is tried again, in times of a request."""

REST = 30.0
"""Seconds until it is tried again at the latest: it may have been slow for once."""

LATE = 4.0
"""How many times longer than an idle replica one may take until that gets what is waited for."""

SOON = 0.1
"""Seconds without an answer that are never too long."""


class Roster:
    """The replicas of one teacher that work can be given to.

    Args:
        most: requests in flight at one replica.

    Example:
        >>> roster = Roster(most=2)
        >>> roster.join("a"), roster.join("b")
        (True, True)
        >>> roster.replicas["a"].nbytes = 100
        >>> roster.choose(now=0.0).name, roster.choose(now=0.0, avoid={"b"}).name
        ('b', 'a')
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.replicas: dict[str, Replica] = {}

    def join(self, name: str, speed: Speed | None = None) -> bool:
        """Add a replica, whose speed may be known; False when it is there already."""
        if name in self.replicas:
            return False
        self.replicas[name] = Replica(name, speed=speed or Speed())
        return True

    def leave(self, name: str) -> Replica | None:
        """Take a replica out, with the leases it holds; None when it is not there."""
        return self.replicas.pop(name, None)

    def usable(self, now: float | None = None) -> set[str]:
        """Names of those that can be asked; at some time: of those that are not silent then."""
        asked = [r for r in self.replicas.values() if not r.retired]
        return {r.name for r in asked if now is None or r.quiet_until <= now}

    def choose(self, now: float, nbytes: int = 0, avoid: Collection[str] = ()) -> Replica | None:
        """The replica that is expected to answer a request first, among those fit for it.

        That is the one with the fewest bytes outstanding where all answer equally fast. One that is
        much slower than the best, so that the request would be answered long after later ones, is
        left alone even when only it has credit; a new one begins with few requests. A replica that
        was silent for too long is left alone for a while, if there is another; so is one to avoid,
        even when that means waiting for the others to have credit: a request given at once to the
        replica that just failed it would fail again.

        Args:
            now: seconds.
            nbytes: bytes the request is expected to have.
            avoid: names of replicas that failed the request before.

        Returns:
            None when those fit have no credit now, or when there is none at all.
        """
        if len(self.replicas) == 1:
            (only,) = self.replicas.values()
            return None if only.retired or len(only.leases) >= self.most else only
        fit = self._fit(now, avoid)
        free = [r for r in fit if len(r.leases) < self._credit(r)]
        if not free:
            return None
        best = min(free, key=lambda r: (r.done_in(nbytes), r.nbytes))
        takes = best.done_in(nbytes)
        # Of one that has not answered yet nothing is known, so that nobody is slow beside it.
        soonest = min((r.done_in(nbytes) for r in fit if r.speed.known), default=takes)
        idle = 0.0 if best.leases else now - best.speed.since
        rested = idle >= min(PROBE * takes, REST)
        return best if takes <= BEHIND * soonest or rested else None

    def _credit(self, replica: Replica) -> int:
        return self.most if replica.speed.known else min(self.most, UNKNOWN)

    def _fit(self, now: float, avoid: Collection[str]) -> Collection[Replica]:
        found = [r for r in self.replicas.values() if not r.retired]
        found = [r for r in found if r.quiet_until <= now] or found
        if avoid:
            found = [r for r in found if r.name not in avoid] or found
        return found

    def silent(self, now: float, limit: float, awaited: Replica | None = None) -> list[Replica]:
        """Replicas that hold requests and gave no sign of life for too long.

        Only those whose work another one can take over. The one that everybody waits for is missed
        much earlier where another has nothing to do: asking that one costs nothing, as in the
        hedged requests of Dean and Barroso, "The Tail at Scale" (2013).

        Args:
            now: seconds.
            limit: seconds.
            awaited: the replica that holds the request that is needed next.
        """
        if len(self.replicas) < 2:
            return []
        awake = self._awake(now)
        late = [r for r in awake if r.leases and now >= self._silent_at(now, r, limit, awaited)]
        others = [r for r in awake if r not in late and not r.retired]
        return late if others else []

    def first_silent(
        self, now: float, limit: float, awaited: Replica | None = None
    ) -> float | None:
        """When `silent` next has something to say, in seconds; None: not before something else."""
        if len(self.replicas) < 2:
            return None
        holders = [r for r in self._awake(now) if r.leases]
        times = [self._silent_at(now, r, limit, awaited) for r in holders]
        # Where nobody could take over what is overdue already, only a message changes anything.
        return min((t for t in times if t > now), default=None)

    def _silent_at(
        self, now: float, replica: Replica, limit: float, awaited: Replica | None
    ) -> float:
        """When a replica's silence has lasted for too long, in seconds."""
        at = replica.heard + limit
        if replica is not awaited:
            return at
        nbytes = next(iter(replica.leases.values())).ask.nbytes
        others = [r for r in self._awake(now) if r is not replica and not r.retired]
        idle = [r.speed for r in others if not r.leases]
        if not idle:
            return at
        usual = min((s.usual(nbytes) for s in idle if s.known), default=limit / LATE)
        # Not from its heartbeats on: they may come while what it works on never ends.
        return min(at, replica.speed.since + max(SOON, LATE * usual))

    def _awake(self, now: float) -> list[Replica]:
        return [r for r in self.replicas.values() if r.quiet_until <= now]
