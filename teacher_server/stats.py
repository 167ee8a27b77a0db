"""What a server counts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version

from pantheon.wire.messages import Scored, Status

SMALL = -1074
"""The power of two that is the smallest number, where 0 is counted."""


@dataclass(slots=True)
class Histogram:
    """Values counted by powers of two.

    Args:
        counts: key k counts values above 2^(k-1), up to 2^k.
        total: the sum of all values.

    Example:
        >>> rows = Histogram()
        >>> for value in (1, 64, 65): rows.add(value)
        >>> sorted(rows.counts), rows.total
        ([0, 6, 7], 130.0)
    """

    counts: Counter[int] = field(default_factory=Counter)
    total: float = 0.0

    def add(self, value: float) -> None:
        """Count a value from 0."""
        mantissa, exponent = math.frexp(value)
        self.counts[exponent - (mantissa == 0.5) if value > 0 else SMALL] += 1
        self.total += value

    def copy(self) -> Histogram:
        """The counts now, for another thread."""
        return Histogram(self.counts.copy(), self.total)


@dataclass(slots=True)
class ModelStats:
    """One model of a server.

    Args:
        requests, rows, bytes: answered, and the payload bytes of the answers.
        batches: device batches by rows.
        seconds: answered requests by seconds from their arrival.
        queued, scoring: requests that wait, and that are being scored.
        oldest_queued, oldest_scoring: seconds since the oldest of them arrived.
        restarts: worker processes started again.
        stalled: all its workers die again and again, or have died for good: nothing can answer.
    """

    requests: int = 0
    rows: int = 0
    bytes: int = 0
    batches: Histogram = field(default_factory=Histogram)
    seconds: Histogram = field(default_factory=Histogram)
    queued: int = 0
    scoring: int = 0
    oldest_queued: float = 0.0
    oldest_scoring: float = 0.0
    restarts: int = 0
    stalled: bool = False

    def count(self, reply: Scored, seconds: float) -> None:
        """A request was answered."""
        self.requests += 1
        self.rows += reply.rows
        self.bytes += sum(memoryview(p.data).nbytes for p in reply.parts)
        self.seconds.add(seconds)


@dataclass(slots=True)
class ServerStats:
    """Counters since the server started, and how it stands now.

    Args:
        requests, rows, bytes: answered, and the payload bytes of the answers.
        refusals: requests and Hellos refused, by code.
        sessions: students connected now.
        queued, scoring: requests that wait, and that are being scored.
        unsent: bytes of replies that students have not taken yet.
        cancelled: requests that nobody waited for any more.
        restarts: worker processes started again.
        malformed: messages that could not be read.
        draining: it takes no new work and is about to end.
        uptime: seconds since it was started.
        turned: seconds since its loop last turned; it does at least every few seconds.
        models: one by one.
    """

    requests: int = 0
    rows: int = 0
    bytes: int = 0
    refusals: Counter[str] = field(default_factory=Counter)
    sessions: int = 0
    queued: int = 0
    scoring: int = 0
    unsent: int = 0
    cancelled: int = 0
    restarts: int = 0
    malformed: int = 0
    draining: bool = False
    uptime: float = 0.0
    turned: float = 0.0
    models: dict[str, ModelStats] = field(default_factory=dict)


def status(stats: ServerStats, models: Mapping[str, str]) -> Status:
    """What a server says of itself to whoever asks.

    Args:
        models: revisions by name.
    """
    return Status(
        version=version("pantheon-kd"),
        uptime=stats.uptime,
        draining=stats.draining,
        models=tuple(models.items()),
        requests=stats.requests,
        rows=stats.rows,
        bytes=stats.bytes,
        refused=stats.refusals.total(),
        cancelled=stats.cancelled,
        sessions=stats.sessions,
        queued=stats.queued,
        scoring=stats.scoring,
        unsent=stats.unsent,
        stalled=sum(model.stalled for model in stats.models.values()),
    )
