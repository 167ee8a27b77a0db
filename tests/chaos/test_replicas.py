"""Replicas that die, freeze, come and go: a student becomes what it would have become anyway."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from pantheon.errors import RevisionMismatch, TeacherUnavailable
from tests.chaos.lessons import STEPS, Lesson, Student, learn
from tests.chaos.processes import Crew, Nursery
from tests.chaos.script import at, every, later
from tests.integration.programs import ROOT

PACE_S = 0.02
"""What a forward takes at least, so that a run outlasts what is done to it."""


@pytest.fixture
def crew(nursery: Nursery) -> Iterator[Crew]:
    """Three replicas that run."""
    with Crew(nursery, 3, pace=PACE_S) as made:
        made.start()
        yield made


def same(lesson: Lesson, calm: Lesson) -> None:
    """Fail unless a student saw the same ids in the same order and has the same weights."""
    assert lesson.ids == calm.ids
    assert lesson.weights == calm.weights


def test_replicas_killed_in_turn_change_nothing(crew: Crew, calm: Lesson) -> None:
    acts: dict[int, Any] = {20 + 60 * i: r.kill for i, r in enumerate(crew.replicas)}
    acts |= {50 + 60 * i: r.start for i, r in enumerate(crew.replicas)}
    lesson = learn(crew.addresses, 2, at(acts))
    same(lesson, calm)
    assert lesson.stats["requeued"] > 0
    assert lesson.stats["teachers"]["expert"]["losses"] == 3


@pytest.mark.parametrize(
    ("seed", "seconds", "pace"),
    [(0, 0.4, PACE_S)]
    + [pytest.param(s, 1.0, 10 * PACE_S, marks=pytest.mark.chaos) for s in range(4)],
)
def test_replicas_killed_at_random_change_nothing(
    nursery: Nursery, calm: Lesson, seed: int, seconds: float, pace: float
) -> None:
    draw = random.Random(seed)

    def strike() -> None:
        replica = draw.choice(crew.replicas)
        replica.kill()
        replica.start()

    with Crew(nursery, 3, pace=pace) as crew:
        crew.start()
        with every(seconds, strike):
            lesson = learn(crew.addresses, 2)
        assert sum(r.starts for r in crew.replicas) >= 8
    same(lesson, calm)
    assert lesson.stats["requeued"] > 0


def test_a_frozen_replica_changes_nothing(crew: Crew, calm: Lesson) -> None:
    first = crew.replicas[0]
    lesson = learn(crew.addresses, 2, at({30: first.stop, 60: first.go_on}))
    same(lesson, calm)
    assert lesson.stats["requeued"] > 0


def test_all_replicas_may_be_dead_for_a_while(crew: Crew, calm: Lesson) -> None:
    with later() as put_off:

        def kill_all() -> None:
            for replica in crew.replicas:
                replica.kill()
            put_off(1.0, crew.start)

        lesson = learn(crew.addresses, 2, at({50: kill_all}), patience=20)
    same(lesson, calm)
    assert lesson.stats["teachers"]["expert"]["losses"] == 3


def test_dead_for_longer_than_the_patience_is_said(crew: Crew) -> None:
    def kill_all() -> None:
        for replica in crew.replicas:
            replica.kill()

    with pytest.raises(TeacherUnavailable, match=r"no replica of teacher 'expert'.*patience="):
        learn(crew.addresses, 1, at({10: kill_all}), patience=0.5)


def test_one_replica_may_become_four_and_one_again(nursery: Nursery, calm: Lesson) -> None:
    up: list[int] = []
    with Crew(nursery, 4, pace=PACE_S) as crew:
        crew.start(0)

        def during(student: Student, lesson: Lesson) -> None:
            match len(lesson.ids):
                case 20:
                    crew.start(1, 2, 3)
                case 150:
                    for replica in crew.replicas[:3]:
                        replica.end()
                case 19 | 149 | 239:
                    up.append(student.loader.stats().teachers["expert"].replicas)

        lesson = learn(crew.addresses, 2, during)
    same(lesson, calm)
    assert up == [1, 4, 1]


def test_other_weights_are_refused_and_the_right_ones_continue(crew: Crew, calm: Lesson) -> None:
    first = Lesson()
    states: list[Any] = []

    def replace(student: Student, lesson: Lesson) -> None:
        nonlocal first
        first = lesson
        if len(lesson.ids) == 130:
            crew.replicas[1].kill()
            crew.replicas[1].start(weights=1)

    with pytest.raises(RevisionMismatch, match="replicas of a teacher must be identical"):
        learn(crew.addresses, 2, replace, kept=states)
    crew.replicas[1].kill()
    crew.replicas[1].start()
    rest = learn(crew.addresses, 2, state=states[-1])
    assert 130 <= len(states) < 2 * STEPS
    assert first.ids[: len(states)] + rest.ids == calm.ids
    assert rest.weights == calm.weights


def test_a_student_that_was_frozen_blames_no_teacher(crew: Crew, calm: Lesson) -> None:
    order = {"addresses": crew.addresses, "epochs": 2, "patience": 1.0, "lease": 1.0}
    command = [sys.executable, "-m", "tests.chaos.lessons", json.dumps(order)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as student:
        time.sleep(3.0)
        for _ in range(2):
            student.send_signal(signal.SIGSTOP)
            time.sleep(4.0)
            student.send_signal(signal.SIGCONT)
            time.sleep(0.5)
        said = json.loads(student.communicate(timeout=40)[0])
    assert (said["ids"], said["weights"]) == (calm.ids, calm.weights)
    assert said["stats"]["expired"] == 0
