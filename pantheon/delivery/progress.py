"""How far one teacher is: what it was asked, what it answered, and what is to be asked again."""

from __future__ import annotations

from dataclasses import dataclass, field

from pantheon.delivery.lease import Ask
from pantheon.delivery.roster import Roster


@dataclass(slots=True, eq=False)
class Progress:
    """One teacher's way through the requests of an epoch.

    Args:
        next: the first request it was never asked.
        low: the first request it has not answered.
        asks: what it was asked and has not answered.
        back: of these, what nobody holds.
        ahead: answered requests past `low`.
        crashes: by replica, the request that its last crash is blamed on.

    Example:
        >>> teacher = Progress("t", Roster(most=8), next=3, low=0)
        >>> teacher.asks = {k: Ask("t", k, nbytes=64) for k in range(3)}
        >>> [teacher.answer(k) for k in (1, 0)], teacher.low, teacher.ahead
        ([False, True], 2, set())
    """

    name: str
    roster: Roster
    next: int
    low: int
    asks: dict[int, Ask] = field(default_factory=dict)
    back: set[int] = field(default_factory=set)
    ahead: set[int] = field(default_factory=set)
    crashes: dict[str, Ask] = field(default_factory=dict)

    def answer(self, request: int) -> bool:
        """A request is answered; whether `low` has moved."""
        self.asks.pop(request).answered = True
        self.back.discard(request)
        if request != self.low:
            self.ahead.add(request)
            return False
        self.low += 1
        while self.low in self.ahead:
            self.ahead.remove(self.low)
            self.low += 1
        return True
