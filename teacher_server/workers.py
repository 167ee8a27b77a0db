"""What scores: one interface for a thread of this process and for a process of its own."""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import Any

from pantheon.scoring.scorer import Scorer
from pantheon.transport.wake import Wake
from pantheon.wire.messages import Refused, Scored
from teacher_server.abandoning import Abandoned, abandon
from teacher_server.batching import answer
from teacher_server.jobs import Job

logger = logging.getLogger(__name__)

Reply = Scored | Refused
IDLE_JOIN_S = 0.05
"""Seconds an idle thread may take to end."""

AHEAD = 2
"""Batches a worker has: one it scores and one that waits, so that it never waits for us."""

QUICK_S = 0.005
"""Seconds of a forward that the server's loop does itself: a hop to a thread and back costs as much
as small forwards do, and nobody misses the loop for so short a time."""


class Worker(ABC):
    """Scores requests of one model on one device. All methods are called by the server's loop."""

    rows = 0
    """Samples handed to it and not answered."""

    restarts = 0
    """How often its process was started again."""

    due: float | None = None
    """When to collect at the latest, on `time.monotonic`'s clock; None when nothing is due."""

    @property
    def hopeless(self) -> bool:
        """Whether waiting for it is pointless now."""
        return False

    @property
    @abstractmethod
    def free(self) -> bool:
        """Whether it can be given a batch now."""

    @abstractmethod
    def submit(self, jobs: Sequence[Job]) -> None:
        """Hand over requests of one kind, without blocking."""

    @abstractmethod
    def collect(self, now: float) -> list[tuple[Job, Reply]]:
        """The answers that have come. Never blocks."""

    @abstractmethod
    def jobs(self) -> list[Job]:
        """Requests it has, oldest first."""

    def lost(self) -> list[Job]:
        """Requests whose worker died over them; each is told once."""
        return []

    @property
    def pollables(self) -> tuple[Any, ...]:
        """What becomes readable when there is something to collect, besides the server's wake."""
        return ()

    @abstractmethod
    def stop(self) -> None:
        """Take no more and leave; what it works on is lost."""

    @property
    def borrowed(self) -> bool:
        """Whether it scores in the caller's thread right now; may be asked from any thread."""
        return False


class ThreadWorker(Worker):
    """A thread of this process; what is quick is scored in the caller's, never both at once.

    Args:
        scorer: what it calls.
        wake: set when answers wait.
        max_bytes: most bytes of a reply.
        name: of the thread.
    """

    def __init__(self, scorer: Scorer, wake: Wake, max_bytes: int, name: str) -> None:
        self._scorer, self._wake, self._max_bytes = scorer, wake, max_bytes
        self._todo: queue.SimpleQueue[list[Job] | None] = queue.SimpleQueue()
        self._done: deque[tuple[list[Job], list[Reply]]] = deque()
        self._given: deque[list[Job]] = deque()
        # Seconds a row of the last forwards; the least of them, as others may use the cores too.
        self._paces: deque[float] = deque([math.inf], maxlen=4)
        self._borrowed = self._dead = False
        # A daemon: a forward cannot be interrupted, and the process must not wait for its end.
        self._thread = threading.Thread(target=self._run, name=f"pantheon-{name}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while (jobs := self._todo.get()) is not None:
                self._score(jobs)
                self._wake.set()
        except Abandoned:
            return
        except BaseException:  # whatever it is, nobody must wait for what it was given
            logger.critical("%s ended; it answers no more", self._thread.name, exc_info=True)
            self._dead = True
            self._wake.set()

    def _score(self, jobs: list[Job]) -> None:
        start = time.perf_counter()
        wanted = [job for job in jobs if not job.cancelled]
        replies = answer(self._scorer, wanted, self._max_bytes) if wanted else []
        self._done.append((wanted, replies))
        if wanted:
            seconds = time.perf_counter() - start
            self._paces.append(seconds / sum(job.rows for job in wanted))

    @property
    def hopeless(self) -> bool:
        """Whether its thread has died."""
        return self._dead

    @property
    def free(self) -> bool:
        return len(self._given) < AHEAD and self.due is None and not self._dead

    def submit(self, jobs: Sequence[Job]) -> None:
        given = list(jobs)
        rows = sum(job.rows for job in given)
        quick = not self._given and min(self._paces) * rows < QUICK_S
        self._given.append(given)
        self.rows += rows
        if quick:
            self._borrowed = True
            try:
                self._score(given)
            finally:
                self._borrowed = False
            self.due = 0.0
        else:
            self._todo.put(given)

    def collect(self, now: float) -> list[tuple[Job, Reply]]:
        self.due = None
        found: list[tuple[Job, Reply]] = []
        while self._done:
            jobs, replies = self._done.popleft()
            self.rows -= sum(job.rows for job in self._given.popleft())
            found += zip(jobs, replies, strict=True)
        return found

    def jobs(self) -> list[Job]:
        return [job for batch in self._given.copy() for job in batch]

    def lost(self) -> list[Job]:
        if not self._dead:
            return []
        lost = self.jobs()
        self._given.clear()
        self.rows = 0
        return lost

    def stop(self) -> None:
        """Let the thread end; a forward it is in is abandoned between two of its operations."""
        self._todo.put(None)
        self._thread.join(IDLE_JOIN_S)
        abandon(self._thread)

    @property
    def borrowed(self) -> bool:
        return self._borrowed
