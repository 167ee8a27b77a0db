"""How many bytes a folder, with all that lies in it, may take."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

_SHARE = 20
"""Looking how much is there takes at most one part in so many of the time."""


class Budget:
    """Bytes of a folder tree, looked up now and then and counted on in between.

    Several processes may share the tree: each sees what the others wrote when it looks again, so
    that together they go over the limit by what they wrote in between at most.

    Args:
        fs, root: an fsspec file system and a folder in it.
        limit: bytes; None for no bound.
        clock: seconds.

    Example:
        >>> import fsspec
        >>> fs = fsspec.filesystem("memory")
        >>> fs.pipe_file("/pantheon-doctest-budget/a/b", b"123")
        >>> budget = Budget(fs, "/pantheon-doctest-budget", 10)
        >>> budget.take(4), budget.take(4), budget.used
        (True, False, 7)
    """

    def __init__(
        self, fs: Any, root: str, limit: int | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._fs, self._root, self.limit, self._clock = fs, root, limit, clock
        self.used = 0
        self._again = -math.inf

    def take(self, nbytes: int, spare: int = 0) -> bool:
        """Whether so many bytes more fit; they are counted if they do.

        Args:
            spare: bytes that have to be free beside them.
        """
        if self.limit is None:
            return True
        if self._clock() >= self._again:
            self._look()
        if self.used + nbytes + spare > self.limit:
            return False
        self.used += nbytes
        return True

    def _look(self) -> None:
        started = self._clock()
        found = self._fs.find(self._root, detail=True)
        self.used = sum(int(info["size"] or 0) for info in found.values())
        now = self._clock()
        self._again = now + _SHARE * (now - started)
