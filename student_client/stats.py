"""How a loader is doing, in numbers: what `KnowledgeLoader.stats` answers and metrics show."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from pantheon.delivery.counters import Counters


@dataclass(frozen=True, slots=True)
class ReplicaStats:
    """One replica of a teacher.

    Args:
        up: whether it may be asked now.
        in_flight: requests it was asked and has not answered.
        requests: of which its answer was the first.
        losses: how often it was up and went away.
        failures: of these, in a row and without an answer since.
        retry: seconds until it is greeted again, where that was put off; 0 otherwise.
    """

    up: bool
    in_flight: int
    requests: int
    losses: int
    failures: int
    retry: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherStats:
    """One teacher of a loader.

    Args:
        model, revision: what its replicas say they serve.
        asked: requests sent, those sent again included.
        requests, seconds: answers taken in, and how long all of them took together.
        samples, bytes: taken in, with their coded bytes, from replicas or a cache.
        wait: seconds in which it had not answered what the student was waiting for. Where several
            teachers are late at once, it counts for each of them.
        lag: rows it is behind the teacher that is furthest, in the epoch at hand.
        in_flight: requests it was asked and has not answered.
        oldest: seconds since the oldest of them was asked.
        replicas: replicas that may be asked now.
        absent: given up, and gone on without until it is back.
        joins, losses: how often a replica came up, and how often one went away.
        late: answers nobody waited for any more.
        refused: requests it did not answer.
        refusals: the same by code; see `pantheon.wire.messages.Refused`.
        corrupt: answers with a wrong checksum.
        missed: rows that were gone on without, as it could not be reached.
        verified, unverified: requests that two replicas answered, and that were chosen for it but
            were not answered twice.
        disagreements: of those verified, the ones answered differently.
        disagreement: the largest absolute difference among them.
        cached, cached_bytes: samples and coded bytes read from its cache; they count in `samples`
            and `bytes`.
        uncached: samples it answered although it has a cache, as they were not there.
        stored, stored_bytes: samples written to its cache, and bytes of their shards.
        cache: ``"on"``; ``"full"`` when the limit is reached; ``"off"`` after an error, such as a
            full disk; empty where it has none.
        by_replica: its replicas by address.
    """

    model: str = ""
    revision: str = ""
    asked: int = 0
    requests: int = 0
    seconds: float = 0.0
    samples: int = 0
    bytes: int = 0
    wait: float = 0.0
    lag: int = 0
    in_flight: int = 0
    oldest: float = 0.0
    replicas: int = 0
    absent: bool = False
    joins: int = 0
    losses: int = 0
    late: int = 0
    refused: int = 0
    refusals: dict[str, int] = field(default_factory=dict)
    corrupt: int = 0
    missed: int = 0
    verified: int = 0
    unverified: int = 0
    disagreements: int = 0
    disagreement: float = 0.0
    cached: int = 0
    cached_bytes: int = 0
    uncached: int = 0
    stored: int = 0
    stored_bytes: int = 0
    cache: str = ""
    by_replica: dict[str, ReplicaStats] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderStats:
    """A loader since it was made.

    Args:
        epoch: the one at hand, or the next.
        ready: whole batches that could be yielded without waiting.
        batches, samples: yielded; padding is no sample.
        wait: seconds spent waiting for teachers.
        waiting: of these, how long the wait at hand lasts already; 0 for none.
        bytes: coded bytes taken in, of all teachers.
        duplicates: answers nobody waited for any more, most of them a second one.
        requeued: requests put back because a replica went away, was silent or refused.
        suspected: of these, those of silent replicas.
        expired: requests put back because nobody was heard of in time.
        teachers: one by one.

    Example:
        >>> LoaderStats(batches=7, wait=0.5).as_dict()["wait"]
        0.5
    """

    epoch: int = 0
    ready: int = 0
    batches: int = 0
    samples: int = 0
    wait: float = 0.0
    waiting: float = 0.0
    bytes: int = 0
    duplicates: int = 0
    requeued: int = 0
    suspected: int = 0
    expired: int = 0
    teachers: dict[str, TeacherStats] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


@dataclass(slots=True)
class Totals:
    """What a loader counts over all its epochs.

    Attributes:
        counters: what happened to its requests.
        since: when the wait at hand began; None while nobody waits.
        next_lease: the number of the next request.

    Example:
        >>> totals = Totals()
        >>> with totals.waiting(lambda: 5.0):
        ...     totals.since
        5.0
    """

    batches: int = 0
    samples: int = 0
    wait: float = 0.0
    counters: Counters = field(default_factory=Counters)
    since: float | None = None
    next_lease: int = 1

    @contextmanager
    def waiting(self, clock: Callable[[], float]) -> Iterator[None]:
        """Somebody waits for teachers meanwhile."""
        self.since = clock()
        try:
            yield
        finally:
            self.since = None
