"""Teachers behind a slow link that loses packets: the student becomes what it always does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.chaos.lessons import Lesson
from tests.chaos.processes import Crew, Nursery
from tests.chaos.script import every
from tests.chaos.strait import ADDRESSES, strait
from tests.chaos.test_replicas import same
from tests.integration.programs import ROOT


@pytest.fixture
def sides() -> Iterator[dict[str, list[str]]]:
    """Both sides of a link that loses 5 % of the packets and takes 50 ms each way."""
    with ExitStack() as stack:
        try:
            made = stack.enter_context(strait(loss=0.05, delay=0.05))
        except OSError as error:
            pytest.skip(f"no network namespaces here: {error}")
        yield made


def learn_there(within: list[str], addresses: list[str]) -> Lesson:
    """A student in a process of its own, on its side of the link."""
    order = json.dumps({"addresses": addresses, "epochs": 2})
    program = [*within, sys.executable, "-m", "tests.chaos.lessons", order]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr[-4000:]
    return Lesson(**json.loads(done.stdout))


@pytest.fixture
def far_crew(sides: dict[str, list[str]]) -> Iterator[Crew]:
    """Three replicas on the other side."""
    nursery = Nursery(sides["teacher"])
    try:
        with Crew(nursery, 3, ADDRESSES["teacher"]) as crew:
            crew.start()
            yield crew
    finally:
        nursery.close()


def test_lost_and_late_packets_change_nothing(
    sides: dict[str, list[str]], far_crew: Crew, calm: Lesson
) -> None:
    same(learn_there(sides["student"], far_crew.addresses), calm)


@pytest.mark.chaos
def test_lost_packets_and_killed_replicas_change_nothing(
    sides: dict[str, list[str]], far_crew: Crew, calm: Lesson
) -> None:
    turn = iter(range(1000))

    def strike() -> None:
        replica = far_crew.replicas[next(turn) % 3]
        replica.kill()
        replica.start()

    with every(1.0, strike):
        same(learn_there(sides["student"], far_crew.addresses), calm)
