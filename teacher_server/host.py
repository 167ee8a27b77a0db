"""One model of a server: what it says to students, the requests that wait, and who scores them."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace

from pantheon.sampling.reading import name_ids
from pantheon.scoring.scorer import Scorer
from pantheon.wire.messages import Limits, Refused, Welcome
from teacher_server.jobs import Job, PeerKey
from teacher_server.schedule import Schedule
from teacher_server.sessions import least_row_bytes
from teacher_server.stats import ModelStats
from teacher_server.workers import Reply, Worker

HEARTBEAT_S = 1.0

DEADLY = 2
"""Worker processes a request may kill before it is refused."""


def describe(name: str, scorer: Scorer, limits: Limits) -> Welcome:
    """What a model says to a student that asks for everything."""
    return Welcome(
        model=name,
        revision=scorer.revision,
        schema=scorer.schema,
        dataset=scorer.dataset_fingerprint,
        size=scorer.size,
        views=scorer.views,
        accepts_ids=scorer.size is not None,
        heartbeat=HEARTBEAT_S,
        limits=limits,
        instance=secrets.token_hex(8),
    )


class Host:
    """Gives a model's requests to its workers: least outstanding work first.

    Args:
        own: what the model says to students.
        workers: one per device.
        batch_rows: samples of one device batch.
    """

    def __init__(self, own: Welcome, workers: Sequence[Worker], batch_rows: int) -> None:
        self.own = own
        self.workers = list(workers)
        self.schedule = Schedule()
        self.row_bytes = least_row_bytes(own.schema)
        self._batch_rows = batch_rows
        self.counts = ModelStats()

    def dispatch(self, ready: Callable[[PeerKey], bool]) -> None:
        """Hand out requests while a worker is free and a session may be answered."""
        while self.schedule:
            # What may have killed a worker goes to an idle one, so that it harms no other.
            alone = self.schedule.suspects
            free = [w for w in self.workers if w.free and not (alone and w.rows)]
            if not free:
                return
            jobs = self.schedule.take(self._batch_rows, ready)
            if not jobs:
                return
            self.counts.batches.add(sum([job.rows for job in jobs]))
            min(free, key=lambda w: w.rows).submit(jobs)

    def collect(self, now: float) -> list[tuple[Job, Reply]]:
        """Answers that have come from the workers."""
        found = [answer for worker in self.workers for answer in worker.collect(now)]
        for worker in self.workers:
            found += self._rescue(worker.lost())
        if self.schedule and self.stalled:
            found += [(job, _no_worker(job)) for job in self.schedule.clear()]
        return found

    def _rescue(self, lost: Sequence[Job]) -> list[tuple[Job, Reply]]:
        """Put requests of a dead worker back, and refuse those that killed two."""
        for job in lost:
            job.crashes += 1
        self.schedule.put_back(j for j in lost if not j.cancelled and j.crashes < DEADLY)
        return [(job, self._deadly(job)) for job in lost if job.crashes >= DEADLY]

    def _deadly(self, job: Job) -> Refused:
        return Refused(
            job.score.request,
            "error",
            f"{job.crashes} worker processes died while they scored ids {name_ids(job.score.ids)}; "
            "look at the server's log and at these samples",
        )

    def working(self) -> list[Job]:
        """Requests that workers have."""
        return [job for worker in self.workers for job in worker.jobs()]

    @property
    def stalled(self) -> bool:
        """Whether no worker can answer any more, or for now; may be asked from any thread."""
        return all(worker.hopeless for worker in self.workers)

    def stats(self, now: float) -> ModelStats:
        """The counters now; may be asked from any thread."""
        working = self.working()
        return replace(
            self.counts,
            batches=self.counts.batches.copy(),
            seconds=self.counts.seconds.copy(),
            queued=len(self.schedule),
            scoring=len(working),
            oldest_queued=now - min(self.schedule.arrivals(), default=now),
            oldest_scoring=now - min([job.since for job in working], default=now),
            restarts=sum(worker.restarts for worker in self.workers),
            stalled=self.stalled,
        )

    def stop(self) -> None:
        """Stop the workers."""
        for worker in self.workers:
            worker.stop()


def _no_worker(job: Job) -> Refused:
    return Refused(
        job.score.request,
        "busy",
        "no worker of this teacher can answer now; its log says why",
    )
