"""How far past the head a student asks: a budget in bytes over the requests it has let in."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil

from pantheon.delivery.cuts import Cuts

SMOOTH = 8
"""Replies over which the size of a row is averaged, where it differs from what was declared."""


class Window:
    """The requests from the head to the last one let in, and the bytes they take.

    A request is let in for all teachers at once, so that a fast teacher cannot use up the budget
    that a slow one needs. It takes what its replies are expected to have, then what they have,
    until it is yielded whole. What overlaps the head batch is let in over any budget.

    Args:
        rows: local rows of the epoch.
        batch: rows of a batch.
        request: rows of a request.
        row_bytes: expected bytes of a row from each teacher. Where replies turn out larger, the
            expectation follows them.
        limit: bytes.
        head: rows yielded before; the first request starts there.
        ramp: rows of the first request; see `Cuts`.

    Example:
        >>> window = Window(100, 10, 20, {"a": 4.0}, limit=160, head=10)
        >>> [window.admit(k) for k in range(3)], window.span(0), window.nbytes
        ([True, True, False], (10, 20), 120)
    """

    def __init__(
        self,
        rows: int,
        batch: int,
        request: int,
        row_bytes: Mapping[str, float],
        limit: int,
        head: int,
        ramp: int | None = None,
    ) -> None:
        self.rows, self.batch, self.limit = rows, batch, limit
        self.head = head
        self.cuts = Cuts(rows, request, head, ramp)
        self.requests = self.cuts.end
        self.first = self.end = self.cuts.first
        self.nbytes = 0
        self._declared = dict(row_bytes)
        self.row_bytes = dict(row_bytes)
        self._taken: dict[int, dict[str, int]] = {}
        self._last_cost: tuple[int, dict[str, int], int] | None = None
        self._first_stop = self.span(self.first)[1]

    def span(self, request: int) -> tuple[int, int]:
        """The local rows ``[start, stop)`` of a request."""
        return self.cuts.span(request)

    @property
    def head_stop(self) -> int:
        """Where the batch that is next to be yielded ends."""
        return min((self.head // self.batch + 1) * self.batch, self.rows)

    def admit(self, request: int) -> bool:
        """Let a request in, if it is not and there is room; requests come in order."""
        if request < self.end:
            return True
        start, stop = self.span(request)
        taken, total = self._cost(stop - start)
        if start >= self.head_stop and self.nbytes + total > self.limit:
            return False
        self._taken[request] = dict(taken)
        self.nbytes += total
        self.end = request + 1
        return True

    def _cost(self, rows: int) -> tuple[dict[str, int], int]:
        """Expected bytes of some rows: by teacher, and of all."""
        if self._last_cost is None or self._last_cost[0] != rows:
            taken = {t: ceil(size * rows) for t, size in self.row_bytes.items()}
            self._last_cost = (rows, taken, sum(taken.values()))
        return self._last_cost[1:]

    def expected(self, request: int, teacher: str) -> int:
        """Bytes a request takes for one teacher, let in or not."""
        taken = self._taken.get(request)
        if taken is None:
            start, stop = self.span(request)
            taken = self._cost(stop - start)[0]
        return taken[teacher]

    def settle(self, request: int, teacher: str, nbytes: int) -> None:
        """A reply came; count what it has instead of what was expected."""
        taken = self._taken[request]
        expected = taken[teacher]
        if nbytes != expected or self.row_bytes[teacher] != self._declared[teacher]:
            taken[teacher] = nbytes
            self.nbytes += nbytes - expected
            self._learn(request, teacher, nbytes)

    def _learn(self, request: int, teacher: str, nbytes: int) -> None:
        start, stop = self.span(request)
        known = self.row_bytes[teacher]
        known += (nbytes / (stop - start) - known) / SMOOTH
        self.row_bytes[teacher] = max(known, self._declared[teacher])
        self._last_cost = None

    def advance(self, stop: int) -> list[int]:
        """Move the head; the requests that are now yielded whole give their bytes back."""
        self.head = stop
        gone: list[int] = []
        while stop >= self._first_stop and self.first < self.end:
            self.nbytes -= sum(self._taken.pop(self.first).values())
            gone.append(self.first)
            self.first += 1
            self._first_stop = self.span(self.first)[1]
        return gone
