"""Whose request is scored next: round robin among the sessions of one model. Pure."""

from __future__ import annotations

import contextlib
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable

from teacher_server.jobs import Job, PeerKey, Session


class Schedule:
    """Requests that wait, a queue per session, taken in turns.

    Example:
        >>> from pantheon.wire.messages import Score
        >>> a, b = Session((0, "a"), "m"), Session((0, "b"), "m")
        >>> schedule = Schedule()
        >>> for session, request in ((a, 1), (a, 2), (b, 3)):
        ...     schedule.add(Job(session, Score(request), rows=8))
        >>> [schedule.take(8)[0].score.request for _ in range(3)]
        [1, 3, 2]
    """

    def __init__(self) -> None:
        self._queues: OrderedDict[PeerKey, deque[Job]] = OrderedDict()
        self._first: deque[Job] = deque()
        self.nbytes = 0

    def __len__(self) -> int:
        # A list, as other threads may ask while the loop changes it.
        return len(self._first) + sum(len(q) for q in list(self._queues.values()))

    def __bool__(self) -> bool:
        return bool(self._queues or self._first)

    def add(self, job: Job) -> None:
        """Queue a request behind its session's others."""
        self._queues.setdefault(job.session.key, deque()).append(job)
        self.nbytes += job.nbytes

    @property
    def suspects(self) -> bool:
        """Whether the next request may have killed a worker."""
        return bool(self._first)

    def arrivals(self) -> list[float]:
        """When the first request of each queue was accepted; may be asked from any thread."""
        found = []
        for jobs in (self._first, *list(self._queues.values())):
            with contextlib.suppress(IndexError):
                found.append(jobs[0].since)
        return found

    def put_back(self, jobs: Iterable[Job]) -> None:
        """Requests of a worker that died: they come before all others."""
        for job in jobs:
            self._first.append(job)
            self.nbytes += job.nbytes

    def remove(self, job: Job) -> None:
        """Forget a request that waits; nothing happens if it does not."""
        for queue in (self._queues.get(job.session.key), self._first):
            if queue and job in queue:
                queue.remove(job)
                self.nbytes -= job.nbytes
        if not self._queues.get(job.session.key, True):
            del self._queues[job.session.key]

    def drop(self, session: Session) -> None:
        """Forget all requests of a session."""
        for job in list(session.jobs.values()):
            self.remove(job)

    def clear(self) -> list[Job]:
        """Take everything that waits."""
        jobs = [*self._first, *(job for queue in self._queues.values() for job in queue)]
        self._first.clear()
        self._queues.clear()
        self.nbytes = 0
        return jobs

    def take(self, rows: int, ready: Callable[[PeerKey], bool] = lambda key: True) -> list[Job]:
        """The next request, joined by others of its kind while they fit into ``rows`` together.

        A session's request is not joined by a larger one of its own: students begin an epoch with
        small requests so that the first answers come soon.

        Args:
            rows: samples of one device batch. A larger request is taken alone.
            ready: whether a session may be answered now.

        Returns:
            At least one request, or none when no session that waits may be answered.
        """
        if self._first:
            return [self._count(self._first.popleft())]
        turn = [key for key in self._queues if ready(key)]
        if not turn:
            return []
        taken = [self._pop(turn[0])]
        left = rows - taken[0].rows
        last = {turn[0]: taken[0].rows}
        position = 1
        while left > 0 and turn:
            key = turn[position % len(turn)]
            queue = self._queues.get(key)
            most = min(left, last.get(key, left))
            if queue and queue[0].kind == taken[0].kind and queue[0].rows <= most:
                taken.append(self._pop(key))
                last[key] = taken[-1].rows
                left -= last[key]
                position += 1
            else:
                turn.remove(key)
        return taken

    def _pop(self, key: PeerKey) -> Job:
        """A session's oldest request; its turn then comes last."""
        queue = self._queues[key]
        job = queue.popleft()
        if queue:
            self._queues.move_to_end(key)
        else:
            del self._queues[key]
        return self._count(job)

    def _count(self, job: Job) -> Job:
        self.nbytes -= job.nbytes
        return job
