"""How an epoch's rows are cut into requests: small ones first, then all of one size."""

from __future__ import annotations

from bisect import bisect_right


class Cuts:
    """Requests of consecutive local rows, by number.

    With `first`, the first request has so many rows and each of the next twice as many as the one
    before, up to `request`: an epoch's first batch must not wait for a large request. Without it,
    request k is ``[k * request, (k + 1) * request)``, whatever the head.
    Nothing is kept for each request, however many there are.

    Args:
        rows: local rows of the epoch.
        request: rows of a request.
        head: rows that need no request; the first one starts there.
        first: rows of the first request; None starts with whole ones.

    Example:
        >>> cuts = Cuts(100, 40, first=10)
        >>> [cuts.span(k) for k in range(cuts.end)]
        [(0, 10), (10, 30), (30, 70), (70, 100)]
        >>> cuts.holding(69), Cuts(100, 40, head=50).span(1)
        (2, (50, 80))
    """

    def __init__(self, rows: int, request: int, head: int = 0, first: int | None = None) -> None:
        self.rows, self.request = rows, request
        self._starts = [head]
        size = first or request
        while size < request and self._starts[-1] + size < rows:
            self._starts.append(self._starts[-1] + size)
            size *= 2
        # Without small requests, cuts stay where they would be from row 0 on.
        self._base = head - head % request if first is None else self._starts[-1]
        self.first = self._base // request if first is None else 0
        self.end = self.holding(rows - 1) + 1 if head < rows else self.first

    def span(self, number: int) -> tuple[int, int]:
        """The rows ``[start, stop)`` of a request."""
        k = number - self.first
        small = len(self._starts) - 1
        if k < small:
            return self._starts[k], self._starts[k + 1]
        start = self._base + (k - small) * self.request
        stop = start + self.request
        first = self._starts[0]
        return start if start > first else first, stop if stop < self.rows else self.rows

    def holding(self, row: int) -> int:
        """The number of the request that holds a row."""
        small = len(self._starts) - 1
        if row >= self._base:
            return self.first + small + (row - self._base) // self.request
        return self.first + bisect_right(self._starts, row) - 1
