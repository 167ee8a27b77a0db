"""The live replicas of one teacher, and which of them gets the next request."""

from __future__ import annotations

from collections.abc import Collection

from pantheon.lease import Replica


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

    def join(self, name: str) -> bool:
        """Add a replica; False when it is there already."""
        if name in self.replicas:
            return False
        self.replicas[name] = Replica(name)
        return True

    def leave(self, name: str) -> Replica | None:
        """Take a replica out, with the leases it holds; None when it is not there."""
        return self.replicas.pop(name, None)

    def choose(self, now: float, avoid: Collection[str] = ()) -> Replica | None:
        """The replica with the fewest bytes outstanding among those fit for a request.

        A replica that let a lease run out and was not heard since is left alone for a while, if
        there is another; so is one to avoid, even when that means waiting for the others to have
        credit: a request given at once to the replica that just failed it would fail again.

        Args:
            now: seconds.
            avoid: names of replicas that failed the request before.

        Returns:
            None when those fit have no credit now, or when there is none at all.
        """
        best: Replica | None = None
        for replica in self._fit(now, avoid):
            if len(replica.leases) < self.most and (best is None or replica.nbytes < best.nbytes):
                best = replica
        return best

    def _fit(self, now: float, avoid: Collection[str]) -> Collection[Replica]:
        found: Collection[Replica] = self.replicas.values()
        found = [r for r in found if r.quiet_until <= now] or found
        if avoid:
            found = [r for r in found if r.name not in avoid] or found
        return found
