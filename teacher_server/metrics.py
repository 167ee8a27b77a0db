"""A server's numbers for Prometheus, read when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from teacher_server.stats import Histogram, ServerStats

PREFIX = "pantheon_teacher_"

SERVER = {
    "sessions": (GaugeMetricFamily, "sessions", "Students connected now."),
    "unsent_bytes": (GaugeMetricFamily, "unsent", "Bytes of replies not taken by students yet."),
    "cancelled": (CounterMetricFamily, "cancelled", "Requests nobody waited for any more."),
    "malformed": (CounterMetricFamily, "malformed", "Messages that could not be read."),
    "draining": (GaugeMetricFamily, "draining", "1 while it takes no new work and is to end."),
    "uptime_seconds": (GaugeMetricFamily, "uptime", "Seconds since the start."),
    "loop_turned_seconds": (GaugeMetricFamily, "turned", "Seconds since the loop last turned."),
}
"""By metric: its kind, the attribute of `ServerStats`, its help."""

MODEL = {
    "requests": (CounterMetricFamily, "requests", "Requests answered."),
    "samples": (CounterMetricFamily, "rows", "Samples answered."),
    "bytes": (CounterMetricFamily, "bytes", "Payload bytes of answers."),
    "queued_requests": (GaugeMetricFamily, "queued", "Requests that wait."),
    "scoring_requests": (GaugeMetricFamily, "scoring", "Requests being scored."),
    "oldest_queued_seconds": (GaugeMetricFamily, "oldest_queued", "Age of the oldest that waits."),
    "oldest_scoring_seconds": (
        GaugeMetricFamily,
        "oldest_scoring",
        "Age of the oldest being scored, since it arrived.",
    ),
    "worker_restarts": (CounterMetricFamily, "restarts", "Worker processes started again."),
    "stalled": (GaugeMetricFamily, "stalled", "1 while none of its workers can answer."),
}
"""By metric: its kind, the attribute of `ModelStats`, its help."""

HISTOGRAMS = {
    "batch_samples": ("batches", "Samples handed to a worker at once.", 0, 16),
    "request_seconds": ("seconds", "From a request's arrival to its answer.", -10, 9),
}
"""By metric: the attribute of `ModelStats`, its help, the powers of two it is shown between."""


class TeacherCollector(Collector):
    """The metrics of one server.

    Args:
        stats: the counters now; called from any thread.
        revisions: by model, once they are known.

    Example:
        >>> collector = TeacherCollector(ServerStats, dict)
        >>> [metric.name for metric in collector.collect()][:2]
        ['pantheon_teacher', 'pantheon_teacher_sessions']
    """

    def __init__(
        self, stats: Callable[[], ServerStats], revisions: Callable[[], Mapping[str, str]]
    ) -> None:
        self._stats, self._revisions = stats, revisions

    def collect(self) -> Iterator[Metric]:
        """All metrics as they are now."""
        stats = self._stats()
        yield self._info()
        for name, (kind, key, text) in SERVER.items():
            yield kind(PREFIX + name, text, value=float(getattr(stats, key)))
        refused = CounterMetricFamily(PREFIX + "refusals", "Refused, by code.", labels=["code"])
        for code, count in stats.refusals.items():
            refused.add_metric([code], count)
        yield refused
        for name, (kind, key, text) in MODEL.items():
            metric = kind(PREFIX + name, text, labels=["model"])
            for model, counts in stats.models.items():
                metric.add_metric([model], float(getattr(counts, key)))
            yield metric
        for name, (key, text, low, high) in HISTOGRAMS.items():
            family = HistogramMetricFamily(PREFIX + name, text, labels=["model"])
            for model, counts in stats.models.items():
                found: Histogram = getattr(counts, key)
                family.add_metric([model], buckets(found, low, high), found.total)
            yield family

    def _info(self) -> Metric:
        info = InfoMetricFamily(
            PREFIX.rstrip("_"), "Model, revision and version.", labels=["model"]
        )
        for model, revision in self._revisions().items():
            info.add_metric([model], {"revision": revision, "version": version("pantheon-kd")})
        return info


def buckets(found: Histogram, low: int, high: int) -> list[tuple[str, float]]:
    """Cumulative buckets, from 2^low to 2^high and beyond.

    Example:
        >>> from collections import Counter
        >>> buckets(Histogram(Counter({-9: 1, 0: 2, 2: 1, 9: 1})), 0, 2)
        [('1.0', 3.0), ('2.0', 3.0), ('4.0', 4.0), ('+Inf', 5.0)]
    """
    total = sum(count for key, count in found.counts.items() if key < low)
    made = []
    for key in range(low, high + 1):
        total += found.counts[key]
        made.append((f"{2.0**key}", float(total)))
    return [*made, ("+Inf", float(found.counts.total()))]
