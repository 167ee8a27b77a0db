"""A loader's numbers for Prometheus, and its health, read when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from pantheon.probes import Health
from student_client.stats import LoaderStats, TeacherStats

PREFIX = "pantheon_student_"

COUNTER, GAUGE = CounterMetricFamily, GaugeMetricFamily

Table = Mapping[str, tuple[Any, str, str]]
"""By metric: its kind, the attribute it shows, its help."""

LOADER: Table = {
    "epoch": (GAUGE, "epoch", "The epoch at hand, or the next, from 0."),
    "ready_batches": (GAUGE, "ready", "Batches that could be yielded without waiting."),
    "batches": (COUNTER, "batches", "Batches yielded."),
    "samples": (COUNTER, "samples", "Samples yielded, without padding."),
    "bytes": (COUNTER, "bytes", "Coded bytes of knowledge taken in."),
    "wait_seconds": (COUNTER, "wait", "Seconds spent waiting for teachers."),
    "waiting_seconds": (GAUGE, "waiting", "How long the wait at hand lasts."),
    "duplicates": (COUNTER, "duplicates", "Answers nobody waited for any more."),
    "requeued": (COUNTER, "requeued", "Requests put back to be asked again."),
    "suspected": (COUNTER, "suspected", "Of these, those of silent replicas."),
    "expired": (COUNTER, "expired", "Requests whose lease ran out."),
}

TEACHER: Table = {
    "requests": (COUNTER, "asked", "Requests sent, those sent again included."),
    "answers": (COUNTER, "requests", "Answers taken in."),
    "answer_seconds": (COUNTER, "seconds", "Seconds from request to answer, summed."),
    "samples": (COUNTER, "samples", "Samples taken in, from replicas or a cache."),
    "bytes": (COUNTER, "bytes", "Coded bytes taken in, from replicas or a cache."),
    "wait_seconds": (COUNTER, "wait", "Seconds in which the student waited for it."),
    "lag_samples": (GAUGE, "lag", "Samples it is behind the teacher that is furthest."),
    "in_flight_requests": (GAUGE, "in_flight", "Requests asked and not answered."),
    "oldest_lease_seconds": (GAUGE, "oldest", "Age of the oldest of them."),
    "replicas": (GAUGE, "replicas", "Replicas that may be asked."),
    "absent": (GAUGE, "absent", "1 while it is gone on without."),
    "joins": (COUNTER, "joins", "How often a replica came up."),
    "losses": (COUNTER, "losses", "How often a replica went away."),
    "late": (COUNTER, "late", "Answers nobody waited for any more."),
    "corrupt": (COUNTER, "corrupt", "Answers with a wrong checksum."),
    "missed_samples": (COUNTER, "missed", "Samples gone on without."),
    "verified": (COUNTER, "verified", "Requests that two replicas answered."),
    "unverified": (COUNTER, "unverified", "Requests chosen for it that were not answered twice."),
    "disagreements": (COUNTER, "disagreements", "Verified requests answered differently."),
    "disagreement_max": (GAUGE, "disagreement", "Largest absolute difference among them."),
    "cached_samples": (COUNTER, "cached", "Samples read from the cache."),
    "cached_bytes": (COUNTER, "cached_bytes", "Coded bytes read from the cache."),
    "uncached_samples": (COUNTER, "uncached", "Samples asked for, as the cache had them not."),
    "stored_samples": (COUNTER, "stored", "Samples written to the cache."),
    "stored_bytes": (COUNTER, "stored_bytes", "Bytes of their shards."),
}

REPLICA: Table = {
    "up": (GAUGE, "up", "1 while it may be asked."),
    "in_flight_requests": (GAUGE, "in_flight", "Requests asked and not answered."),
    "answers": (COUNTER, "requests", "Answers taken in."),
    "losses": (COUNTER, "losses", "How often it went away."),
    "failures": (GAUGE, "failures", "Losses in a row without an answer since."),
    "retry_seconds": (GAUGE, "retry", "Seconds until it is greeted again."),
}


class LoaderCollector(Collector):
    """The metrics of one loader, for a registry of your own.

    `KnowledgeLoader(http=...)` serves them by itself.

    Args:
        stats: the loader's `stats`; called from any thread.

    Example:
        >>> from prometheus_client import CollectorRegistry, generate_latest
        >>> registry = CollectorRegistry()
        >>> registry.register(LoaderCollector(lambda: LoaderStats(samples=7)))
        >>> registry.get_sample_value("pantheon_student_samples_total")
        7.0
    """

    def __init__(self, stats: Callable[[], LoaderStats]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        """All metrics as they are now."""
        stats = self._stats()
        teachers = stats.teachers
        yield _info(teachers)
        yield from _families("", LOADER, (), {(): stats})
        named = {(name,): teacher for name, teacher in teachers.items()}
        yield from _families("teacher_", TEACHER, ("teacher",), named)
        yield _refusals(teachers)
        yield _caches(teachers)
        replicas = {
            (name, address): replica
            for name, teacher in teachers.items()
            for address, replica in teacher.by_replica.items()
        }
        yield from _families("replica_", REPLICA, ("teacher", "replica"), replicas)


def _families(
    prefix: str, table: Table, labels: tuple[str, ...], found: Mapping[Any, Any]
) -> Iterator[Metric]:
    for name, (kind, key, text) in table.items():
        family = kind(PREFIX + prefix + name, text, labels=labels)
        for values, stats in found.items():
            family.add_metric(values, float(getattr(stats, key)))
        yield family


def _info(teachers: Mapping[str, TeacherStats]) -> Metric:
    family = InfoMetricFamily(
        PREFIX + "teacher", "Model, revision and our version.", labels=["teacher"]
    )
    for name, teacher in teachers.items():
        known = {"model": teacher.model, "revision": teacher.revision}
        family.add_metric([name], known | {"version": version("pantheon-kd")})
    return family


def _refusals(teachers: Mapping[str, TeacherStats]) -> Metric:
    family = COUNTER(
        PREFIX + "teacher_refusals", "Requests not answered, by code.", labels=["teacher", "code"]
    )
    for name, teacher in teachers.items():
        for code, count in teacher.refusals.items():
            family.add_metric([name, code], count)
    return family


def _caches(teachers: Mapping[str, TeacherStats]) -> Metric:
    text = "1 for the state its cache is in: on, full or off."
    family = GAUGE(PREFIX + "teacher_cache", text, labels=["teacher", "state"])
    for name, teacher in teachers.items():
        for state in ("on", "full", "off") if teacher.cache else ():
            family.add_metric([name, state], float(state == teacher.cache))
    return family


def health(stats: LoaderStats, patience: float) -> Health:
    """How a loader is: alive while no wait outlasts the patience by far, ready while it is fed.

    That is: every teacher can be asked or is gone on without, and no wait has lasted longer than
    the patience.

    Args:
        patience: seconds after which the loader itself gives a teacher up.

    Example:
        >>> health(LoaderStats(), 60.0).facts["state"], health(LoaderStats(), 60.0).ready
        ('has not heard of every teacher yet', False)
    """
    away = [n for n, t in stats.teachers.items() if not t.replicas and not t.absent]
    state = "reading"
    if not stats.teachers:
        state = "has not heard of every teacher yet"
    elif away:
        state = f"waits for {', '.join(away)}"
    elif stats.waiting > patience:
        state = "waits for an answer"
    alive = stats.waiting <= 2 * patience + 60
    facts = {"state": state, "epoch": stats.epoch, "waiting": round(stats.waiting, 3)}
    return Health(alive, state == "reading", facts)
