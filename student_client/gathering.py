"""When answers that come in small pieces are written, and how many together. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pantheon.store.arranged import Answer

FLUSH_S = 60.0
"""Seconds after which what is gathered is written even if it is little."""

LIST_S = 1.0
"""Least seconds between two looks at what others have published."""

LIST_SHARE = 20
"""Looking takes at most one part in so many of the time."""

Step = Literal["write", "finish", "list", "end"]


@dataclass(slots=True)
class Gathering:
    """What is to be done for one cache.

    Args:
        shard_bytes: answers are gathered to about as many.

    Attributes:
        asked, finished: how often everything was wanted on disk, and how often it has been.

    Example:
        >>> import numpy as np
        >>> gathering, none = Gathering(shard_bytes=100), np.empty(0, np.int64)
        >>> gathering.add(Answer(none, none, []), now=5.0)
        >>> gathering.due(5.0), gathering.pause(5.0), gathering.due(65.0)
        (None, 60.0, 'write')
        >>> gathering.asked += 1
        >>> gathering.due(5.0), len(gathering.take()), gathering.due(5.0)
        ('write', 1, 'finish')
    """

    shard_bytes: int
    answers: list[Answer] = field(default_factory=list)
    nbytes: int = 0
    asked: int = 0
    finished: int = 0
    missed: bool = False
    closing: bool = False
    _since: float = 0.0
    _next_list: float = 0.0

    def add(self, answer: Answer, now: float) -> None:
        """An answer came."""
        if not self.answers:
            self._since = now
        self.answers.append(answer)
        self.nbytes += answer.nbytes

    def due(self, now: float) -> Step | None:
        """What is to be done now."""
        wanted = self.asked > self.finished
        if self.answers and (
            wanted or self.nbytes >= self.shard_bytes or now >= self._since + FLUSH_S
        ):
            return "write"
        if wanted:
            return "finish"
        if self.closing:
            return "end"
        return "list" if self.missed and now >= self._next_list else None

    def pause(self, now: float) -> float | None:
        """Seconds until something is due if nothing else happens; None for never."""
        times = [self._since + FLUSH_S] if self.answers else []
        if self.missed:
            times.append(self._next_list)
        return max(0.0, min(times) - now) if times else None

    def take(self) -> list[Answer]:
        """The oldest answers, as many as make a shard."""
        count = size = 0
        while count < len(self.answers) and size < self.shard_bytes:
            size += self.answers[count].nbytes
            count += 1
        count = count or len(self.answers)
        taken, self.answers = self.answers[:count], self.answers[count:]
        self.nbytes -= size
        return taken

    def listed(self, began: float, now: float) -> None:
        """What others have published was looked at."""
        self.missed = False
        self._next_list = now + max(LIST_S, LIST_SHARE * (now - began))
