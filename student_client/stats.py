"""How a loader is doing, in numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from student_client.epoch import Epoch
    from student_client.fleet import Fleet
    from student_client.known import KnownTeacher


@dataclass(frozen=True, slots=True)
class TeacherStats:
    """One teacher of a loader.

    Args:
        bytes: coded bytes taken in.
        lag: rows it is behind the teacher that is furthest, in the epoch at hand.
        in_flight: requests it was asked and has not answered.
        replicas: replicas that may be asked now.
        losses: how often a replica went away.
        late: answers nobody waited for any more.
        refused: requests it did not answer.
        corrupt: answers with a wrong checksum.
        missed: rows that were gone on without, as it could not be reached.
        verified, unverified: requests that two replicas answered, and that were chosen for it but
            could not be asked twice.
        disagreements: of those verified, the ones answered differently.
        disagreement: the largest absolute difference among them.
        cached, cached_bytes: samples and coded bytes read from its cache; they count in `bytes`.
        stored: samples written to its cache.
        cache: ``"on"``; ``"full"`` when the limit is reached; ``"off"`` after an error, such as a
            full disk; empty where it has none.
    """

    bytes: int
    lag: int
    in_flight: int
    replicas: int
    losses: int
    late: int
    refused: int
    corrupt: int
    missed: int = 0
    verified: int = 0
    unverified: int = 0
    disagreements: int = 0
    disagreement: float = 0.0
    cached: int = 0
    cached_bytes: int = 0
    stored: int = 0
    cache: str = ""


@dataclass(frozen=True, slots=True)
class LoaderStats:
    """A loader since it was made.

    Args:
        ready: whole batches that could be yielded without waiting.
        batches: batches yielded.
        wait: seconds spent waiting for teachers.
        bytes: coded bytes taken in, of all teachers.
        duplicates: answers nobody waited for any more, most of them a second one.
        requeued: requests put back because a replica went away or refused.
        expired: requests put back because nobody was heard of in time.
        teachers: one by one.

    Example:
        >>> LoaderStats(3, 7, 0.5, 100, 0, 0, 0, {}).as_dict()["wait"]
        0.5
    """

    ready: int
    batches: int
    wait: float
    bytes: int
    duplicates: int
    requeued: int
    expired: int
    teachers: dict[str, TeacherStats]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


@dataclass(slots=True)
class Totals:
    """What a loader has counted over the epochs that are over."""

    batches: int = 0
    wait: float = 0.0
    requeued: int = 0
    expired: int = 0
    next_lease: int = 1


def loader_stats(
    totals: Totals, fleet: Fleet, teachers: Mapping[str, KnownTeacher], epoch: Epoch | None
) -> LoaderStats:
    """A loader's numbers at this moment."""
    counted = epoch.delivery.counted() if epoch else totals
    rows = {name: epoch.delivery.ledger.answered(name) if epoch else 0 for name in teachers}
    furthest = max(rows.values(), default=0)
    each = {
        name: TeacherStats(
            bytes=t.bytes,
            lag=furthest - rows[name],
            in_flight=epoch.delivery.outbox.in_flight(name) if epoch else 0,
            replicas=len(fleet.up(name)),
            losses=fleet.losses[name],
            late=t.late,
            refused=t.refused,
            corrupt=t.corrupt,
            missed=t.missed,
            verified=t.verified,
            unverified=t.unverified,
            disagreements=t.disagreements,
            disagreement=t.disagreement,
            cached=t.cached,
            cached_bytes=t.cached_bytes,
            stored=t.cache.written if t.cache else 0,
            cache=t.cache.state if t.cache else "",
        )
        for name, t in teachers.items()
    }
    return LoaderStats(
        ready=epoch.ready() if epoch else 0,
        batches=totals.batches,
        wait=totals.wait,
        bytes=sum(t.bytes for t in teachers.values()),
        duplicates=sum(t.late for t in teachers.values()),
        requeued=counted.requeued,
        expired=counted.expired,
        teachers=each,
    )
