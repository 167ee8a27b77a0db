"""Which replica of a teacher a query is put to next. No I/O."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping

from student_client.fleet import RETRY_S
from student_client.replica import Replica

BUSY_MAX_S = 2.0
"""Most seconds, about, until one that is busy again and again is asked again."""


class Turns:
    """How replicas, by address, have behaved of late."""

    def __init__(self) -> None:
        self._rest: dict[str, float] = {}
        self._busy: Counter[str] = Counter()
        self._quiet: dict[str, float] = {}
        self._random = random.Random()

    def busy(self, address: str, now: float) -> None:
        """A replica asked us to come later; it rests, longer each time until it answers."""
        wait = min(BUSY_MAX_S, RETRY_S * 2.0 ** self._busy[address])
        self._busy[address] += 1
        self._rest[address] = now + wait * self._random.uniform(0.5, 1.5)

    def silent(self, address: str, until: float) -> None:
        """A replica said nothing for too long; until then others are preferred."""
        self._quiet[address] = until

    def heard(self, address: str) -> None:
        """A replica gave a sign of life."""
        self._quiet.pop(address, None)

    def answered(self, address: str) -> None:
        """A replica did what it was asked."""
        self.heard(address)
        del self._busy[address]

    def next_end(self, now: float) -> float | None:
        """When the next rest is over; None without one."""
        return min((t for t in self._rest.values() if t > now), default=None)

    def open(self, replica: Replica, load: int, now: float) -> bool:
        """Whether a replica that has some queries may be given one more now."""
        if replica.welcome is None or self._rest.get(replica.address, now) > now:
            return False
        return load < replica.welcome.limits.max_in_flight

    def choose(
        self, tries: Mapping[str, int], load: Mapping[Replica, int], now: float
    ) -> Replica | None:
        """The replica that failed a query the least, then the least busy one.

        Args:
            tries: how often each has failed the query.
            load: the replicas that are up, and how many queries each has.

        Returns:
            None when that one has no room now, as it would only be failed again elsewhere.
        """
        least = min((tries.get(r.address, 0) for r in load), default=0)
        fit = [
            r for r, n in load.items() if tries.get(r.address, 0) == least and self.open(r, n, now)
        ]
        return min(
            fit, key=lambda r: (self._quiet.get(r.address, now) > now, load[r]), default=None
        )
