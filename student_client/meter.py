"""Reading a loader's numbers from any thread, while its own thread goes on counting.

It holds nothing whose end means anything, so that a look from another thread can neither keep an
abandoned epoch going nor close a socket that is not its own.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Mapping

from pantheon.sampling.position import Position
from student_client.epoch import Epoch
from student_client.fleet import Fleet
from student_client.known import KnownTeacher
from student_client.replica import Replica
from student_client.stats import LoaderStats, ReplicaStats, TeacherStats, Totals


class Meter:
    """The numbers of one loader.

    Args:
        fleet: its replicas.
        totals: what it counts.
        position: where it is.

    Attributes:
        teachers: what is known of each, once all have answered.
    """

    def __init__(self, fleet: Fleet, totals: Totals, position: Position) -> None:
        self._fleet, self._totals, self._position = fleet, totals, position
        self._epoch: weakref.ref[Epoch] | None = None
        self.teachers: Mapping[str, KnownTeacher] = {}

    def follow(self, epoch: Epoch) -> None:
        """Read this epoch's numbers until it is over."""
        self._epoch = weakref.ref(epoch)

    def read(self) -> LoaderStats:
        """The numbers now; never waits."""
        epoch = self._epoch() if self._epoch else None
        if epoch is not None and epoch.delivery.closed:
            epoch = None
        totals, teachers, now = self._totals, self.teachers, self._fleet.clock()
        since, counters = totals.since, totals.counters
        return LoaderStats(
            epoch=self._position.epoch,
            ready=epoch.ready() if epoch else 0,
            batches=totals.batches,
            samples=totals.samples,
            wait=totals.wait,
            waiting=0.0 if since is None else max(0.0, now - since),
            bytes=sum(t.bytes for t in teachers.values()),
            duplicates=sum(t.late for t in teachers.values()),
            requeued=counters.requeued,
            suspected=counters.suspected,
            expired=counters.expired,
            teachers=self._teachers(epoch, now),
        )

    def _teachers(self, epoch: Epoch | None, now: float) -> dict[str, TeacherStats]:
        rows = {t: epoch.delivery.ledger.answered(t) if epoch else 0 for t in self.teachers}
        furthest = max(rows.values(), default=0)
        held: Counter[Replica] = Counter()
        oldest: dict[str, float] = {}
        # Copied at once, as the loader's thread goes on asking.
        for asked in (epoch.delivery.outbox.asked.copy() if epoch else {}).values():
            held[asked.replica] += 1
            teacher = asked.replica.teacher
            oldest[teacher] = min(oldest.get(teacher, now), asked.at)
        return {
            name: self._teacher(known, furthest - rows[name], held, now - oldest.get(name, now))
            for name, known in self.teachers.items()
        }

    def _teacher(
        self, known: KnownTeacher, lag: int, held: Counter[Replica], oldest: float
    ) -> TeacherStats:
        mine = [r for r in self._fleet.replicas if r.teacher == known.name]
        cache, refusals = known.cache, dict(known.refusals)
        return TeacherStats(
            model=known.welcome.model,
            revision=known.welcome.revision,
            asked=known.asked,
            requests=known.requests,
            seconds=known.seconds,
            samples=known.samples,
            bytes=known.bytes,
            wait=known.wait,
            lag=lag,
            in_flight=sum(held[r] for r in mine),
            oldest=max(0.0, oldest),
            replicas=sum(r.up for r in mine),
            absent=known.name in self._fleet.absent,
            joins=self._fleet.joins[known.name],
            losses=self._fleet.losses[known.name],
            late=known.late,
            refused=sum(refusals.values()),
            refusals=refusals,
            corrupt=known.corrupt,
            missed=known.missed,
            verified=known.verified,
            unverified=known.unverified,
            disagreements=known.disagreements,
            disagreement=known.disagreement,
            cached=known.cached,
            cached_bytes=known.cached_bytes,
            uncached=known.uncached,
            stored=cache.written if cache else 0,
            stored_bytes=cache.cache.published if cache else 0,
            cache=cache.state if cache else "",
            by_replica={r.address: self._replica(r, held[r]) for r in mine},
        )

    def _replica(self, replica: Replica, in_flight: int) -> ReplicaStats:
        retry = replica.retry_at
        return ReplicaStats(
            up=replica.up,
            in_flight=in_flight,
            requests=replica.answers,
            losses=replica.losses,
            failures=replica.failures,
            retry=0.0 if retry is None else max(0.0, retry - self._fleet.clock()),
        )
