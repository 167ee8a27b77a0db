"""What one online teacher says goes to disk in a thread of its own, which training never needs.

The thread does whatever may take its time: it opens the folder, writes, lists what others wrote.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Literal

from pantheon.errors import DiskFullError, PantheonError
from pantheon.store.arranged import Answer
from pantheon.store.cache import KnowledgeCache
from student_client.gathering import Gathering, Step

logger = logging.getLogger(__name__)

SHARD_BYTES = 16 << 20
"""Answers are gathered to shards of about this many bytes, or a 16th of the limit if it is less."""

HELD_BYTES = 64 << 20
"""Most bytes of answers in memory that are not on disk yet; then `put` waits."""

STUCK_S = 10.0
"""Seconds without room after which the disk is taken to be stuck."""

State = Literal["on", "full", "off"]


class CacheWriter:
    """Fills one teacher's cache; its methods are for the student's thread.

    Args:
        cache: not opened yet; owned from now on.
        limit: bytes that it is known to keep to; None for no bound.
        clock: seconds.

    Attributes:
        state: ``"full"`` when the limit is reached and ``"off"`` after an error: nothing more is
            written then, and what is there is still read.
        written: samples published.
    """

    def __init__(
        self,
        cache: KnowledgeCache,
        limit: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.cache = cache
        self.state: State = "on"
        self.written = 0
        self._clock, self._pid = clock, os.getpid()
        small = SHARD_BYTES if limit is None else limit // 16
        self._gathering = Gathering(max(1, min(SHARD_BYTES, small)))
        self._held = 0
        self._failure: Exception | None = None
        self._changed = threading.Condition()
        name = f"pantheon-cache-{cache.teacher}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, answer: Answer) -> None:
        """Have an answer written; its memory must not change any more.

        Waits for room, `STUCK_S` at most.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._takes(answer), STUCK_S):
                self._stop(f"the disk took nothing for {STUCK_S:g} s")
            if self.state == "on":
                self._held += answer.nbytes
                self._gathering.add(answer, self._clock())
                self._changed.notify_all()

    def miss(self) -> None:
        """Something was not there; others may have published it since."""
        if not self._gathering.missed:
            with self._changed:
                self._gathering.missed = True
                self._changed.notify_all()

    def flush(self) -> None:
        """Have everything written, and what others wrote looked at."""
        with self._changed:
            self._gathering.asked += 1
            self._changed.notify_all()

    def wait(self, until: float) -> bool:
        """Wait for all that `flush` wants, until some time; whether it is done.

        Raises:
            StoreError: the folder cannot be used at all.
        """
        with self._changed:
            left = max(0.0, until - self._clock())
            done = self._changed.wait_for(self._settled, left)
            failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        return done

    def close(self, until: float) -> None:
        """Write what is left, until some time, and end. Safe to call twice."""
        if self._pid != os.getpid():
            # A forked child has no such thread.
            return
        with self._changed:
            self._gathering.closing = True
        self.flush()
        self._thread.join(max(0.0, until - self._clock()))
        if self._thread.is_alive():
            self._stop(f"{self._held} bytes could not be written in time")
        self.cache.close()

    def _takes(self, answer: Answer) -> bool:
        room = not self._held or self._held + answer.nbytes <= HELD_BYTES
        return room or self.state != "on"

    def _settled(self) -> bool:
        finished = self._gathering.finished >= self._gathering.asked
        return finished or self.state == "off" or not self._thread.is_alive()

    def _stop(self, why: object) -> None:
        with self._changed:
            if self.state != "off":
                self.state = "off"
                logger.warning(
                    "the cache of teacher %r at %s is turned off: %s. Training goes on; what is "
                    "not in the cache is asked each time",
                    self.cache.teacher,
                    self.cache.folder.path,
                    why,
                )
            self._changed.notify_all()

    def _run(self) -> None:
        try:
            self._open()
            while (step := self._next()) != "end":
                self._do(step)
        except (PantheonError, OSError) as error:
            self._stop(error)
        except Exception as error:  # noqa: BLE001  # raised in the student's thread instead
            self._failure = error
            self._stop(error)

    def _open(self) -> None:
        try:
            self.cache.open()
        except DiskFullError:
            raise
        except PantheonError as error:
            # A path that is wrong from the start is for the user to mend.
            self._failure = error
            raise

    def _next(self) -> Step:
        with self._changed:
            while self.state != "off":
                now = self._clock()
                step = self._gathering.due(now)
                if step is not None:
                    return step
                self._changed.wait(self._gathering.pause(now))
        return "end"

    def _do(self, step: Step) -> None:
        gathering, began = self._gathering, self._clock()
        if step == "write":
            self._write()
            return
        asked = gathering.asked
        if step == "finish":
            self.cache.finish()
        self.cache.refresh()
        with self._changed:
            gathering.listed(began, self._clock())
            gathering.finished = asked
            self._changed.notify_all()

    def _write(self) -> None:
        with self._changed:
            answers = self._gathering.take()
        self.written += self.cache.write(answers)
        with self._changed:
            self._held -= sum(a.nbytes for a in answers)
            if self.cache.full and self.state == "on":
                self._fill()
            self._changed.notify_all()

    def _fill(self) -> None:
        """The limit is reached."""
        self.state = "full"
        logger.warning(
            "the cache at %s is full: it takes %d bytes of cache_bytes=%d. What is not in it is "
            "asked each time; raise cache_bytes, or remove what nobody needs",
            self.cache.folder.path,
            self.cache.budget.used,
            self.cache.budget.limit,
        )
