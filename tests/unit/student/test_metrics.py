"""Metrics show the numbers of stats, all of them, under names that Prometheus' parser reads."""

from __future__ import annotations

import math
from dataclasses import fields

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from pantheon.codec.api import compiled
from pantheon.codec.parts import PartsCheck
from pantheon.schema import FieldSpec, KnowledgeSchema
from pantheon.wire.messages import Welcome
from student_client.known import CODES, KnownTeacher
from student_client.metrics import LOADER, REPLICA, TEACHER, LoaderCollector, Table, health
from student_client.stats import LoaderStats, ReplicaStats, TeacherStats

APART = {"model", "revision", "refused", "refusals", "cache", "by_replica"}
"""Of a teacher: in families with labels of their own."""


def scraped(stats: LoaderStats) -> dict[tuple[str, ...], float]:
    """What Prometheus' own parser reads: by name and the values of the labels, sorted by name."""
    registry = CollectorRegistry()
    registry.register(LoaderCollector(lambda: stats))
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {(s.name, *s.labels.values()): s.value for f in families for s in f.samples}


def shown(*tables: Table) -> set[str]:
    """The attributes that tables show."""
    return {key for table in tables for _, key, _ in table.values()}


def test_every_number_of_the_stats_is_a_metric() -> None:
    assert shown(LOADER) | {"teachers"} == {f.name for f in fields(LoaderStats)}
    assert shown(TEACHER) | APART == {f.name for f in fields(TeacherStats)}
    assert shown(REPLICA) == {f.name for f in fields(ReplicaStats)}


def test_metrics_say_what_the_stats_say() -> None:
    replica = ReplicaStats(True, in_flight=3, requests=5, losses=1, failures=2, retry=0.5)
    teacher = TeacherStats(
        model="m",
        revision="r",
        requests=5,
        seconds=2.5,
        wait=1.25,
        refusals={"error": 2, "busy": 1},
        disagreement=math.inf,
        cached=7,
        cache="full",
        by_replica={"tcp://a:1": replica},
    )
    found = scraped(
        LoaderStats(samples=11, waiting=0.75, teachers={"t": teacher, "u": TeacherStats()})
    )
    student, of = "pantheon_student_", "pantheon_student_teacher_"
    assert found[student + "samples_total",] == 11
    assert found[student + "waiting_seconds",] == 0.75
    assert found[of + "answers_total", "t"] == 5
    assert found[of + "answer_seconds_total", "t"] == 2.5
    assert found[of + "wait_seconds_total", "t"] == 1.25
    assert found[of + "refusals_total", "error", "t"] == 2
    assert found[of + "disagreement_max", "t"] == math.inf
    assert found[of + "cached_samples_total", "t"] == 7
    assert found[of + "cache", "full", "t"] == 1
    assert found[of + "cache", "on", "t"] == 0
    assert (of + "cache", "on", "u") not in found
    assert found[student + "replica_retry_seconds", "tcp://a:1", "t"] == 0.5
    assert any(key[:4] == (of + "info", "m", "r", "t") for key in found)


def test_a_teacher_cannot_make_up_series_by_making_up_codes() -> None:
    schema = KnowledgeSchema((FieldSpec("y", "float32", ()),))
    teacher = KnownTeacher("t", Welcome("m", "r", schema), compiled(schema), PartsCheck(schema))
    for number in range(10_000):
        teacher.refuse(f"code {number}")
    teacher.refuse("busy")
    assert teacher.refusals == {"other": 10_000, "busy": 1}
    assert len(CODES) < 20


def test_a_student_that_goes_on_without_a_teacher_is_ready() -> None:
    gone = {"t": TeacherStats(replicas=1), "u": TeacherStats(replicas=0)}
    assert not health(LoaderStats(teachers=gone), 60.0).ready
    without = gone | {"u": TeacherStats(replicas=0, absent=True)}
    assert health(LoaderStats(teachers=without), 60.0).ready


def test_a_student_whose_wait_does_not_end_is_not_ready_and_then_not_alive() -> None:
    teachers = {"t": TeacherStats(replicas=1)}
    found = [health(LoaderStats(teachers=teachers, waiting=w), 60.0) for w in (59.0, 61.0, 181.0)]
    assert [(h.alive, h.ready) for h in found] == [(True, True), (True, False), (False, False)]
