"""A student killed at any step, and at any point within one, becomes what it would have been.

Students are forked from one warm process (`tests.chaos.doomed`), so that a life costs what its
training costs; their teachers are two real replicas over tcp, in deterministic mode. Every step has
a dozen points to be killed at: after its batch came, before and after the optimizer's step, and
before every change of the checkpoint's folder, halves of a write included.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.doomed import FULL
from tests.chaos.processes import Crew, Doomed, Nursery
from tests.chaos.pupil import FILE, SIZE, STEPS


@dataclass
class Life:
    """What the ranks of one life said.

    Args:
        begins: steps that its checkpoint counts.
        ids: of all ranks, for each step that was begun.
        saved: steps of the last checkpoint that was certainly written.
        last: what was said at the end of the last epoch, by rank.
    """

    begins: int = -1
    ids: dict[int, list[int]] = field(default_factory=dict)
    saved: int = 0
    flying: int = 0
    last: list[dict[str, Any]] = field(default_factory=list)

    def hear(self, line: dict[str, Any]) -> None:
        """Take in a line."""
        self.begins = line.get("begins", self.begins)
        self.saved = line.get("saved", self.saved)
        if "ids" in line:
            self.ids.setdefault(line["learns"], []).extend(line["ids"])
            self.flying = line["flying"]
        if "digest" in line:
            self.last.append(line)


class Student:
    """One student's lives, one after another.

    Args:
        doomed: forks them.
        folder: an empty one.
    """

    def __init__(self, doomed: Doomed, folder: Path, addresses: list[str]) -> None:
        folder.mkdir(exist_ok=True)
        self.doomed, self.folder, self.addresses = doomed, folder, addresses
        self.kept = folder / "kept"
        self.lives: list[Life] = []
        self._number = 0

    def start(self, at: int = -1, how: str = "kill", world: int = 1, victim: int = 0) -> list[int]:
        """Start the ranks of a life, one of which meets its fate; their process ids."""
        self._number += 1
        order: dict[str, Any] = {"addresses": self.addresses, "world": world}
        order["meeting"] = str(self.folder / f"meeting-{self._number}")
        return [
            self.doomed.start(
                self.kept, at if rank == victim else -1, how, rank=rank, said=said, **order
            )
            for rank, said in enumerate(self._said(world))
        ]

    def _said(self, world: int) -> list[str]:
        return [str(self.folder / f"said-{self._number}-{rank}") for rank in range(world)]

    def live(self, at: int = -1, how: str = "kill", world: int = 1, victim: int = 0) -> str | int:
        """One life; how its victim ended. Other ranks are killed when it was, as torchrun does."""
        pids = self.start(at, how, world, victim)
        return self.end(pids, victim)

    def end(self, pids: list[int], victim: int = 0) -> str | int:
        """Wait for a life to be over."""
        ended = self.doomed.wait(pids.pop(victim))
        for pid in pids:
            if ended != 0:
                os.kill(pid, signal.SIGKILL)
            self.doomed.wait(pid)
        self.hear(len(pids) + 1)
        return ended

    def hear(self, world: int) -> None:
        """Read what the last life has said."""
        life = Life()
        for said in self._said(world):
            for line in Path(said).read_text().splitlines() if Path(said).exists() else ():
                life.hear(json.loads(line))
        if life.begins >= 0:  # Else it was killed before it looked for its checkpoint.
            self.lives.append(life)

    def sequence(self, lost: int = 1) -> list[list[int]]:
        """The ids that the weights have learned from, step by step.

        Each life goes on from the last checkpoint that was certainly written, or a later one, and
        repeats at most `lost` steps.
        """
        ids: list[list[int]] = []
        before = 0
        for life in self.lives:
            assert life.begins >= before
            assert len(ids) - lost <= life.begins <= len(ids)
            ids[life.begins :] = [life.ids[step] for step in sorted(life.ids)]
            assert sorted(life.ids) == list(range(life.begins, len(ids)))
            before = max(before, life.saved)
        return ids

    @property
    def digests(self) -> list[str]:
        """Of every rank's end."""
        return [line["digest"] for line in self.lives[-1].last]


@pytest.fixture(scope="module")
def doomed() -> Iterator[Doomed]:
    made = Doomed("tests.chaos.pupil")
    yield made
    made.close()


@pytest.fixture(scope="module")
def addresses(nursery: Nursery) -> Iterator[list[str]]:
    """Of two replicas."""
    with Crew(nursery, 2) as crew:
        crew.start()
        yield crew.addresses


@dataclass
class Calm:
    """What a student becomes that nothing disturbs.

    Args:
        ids: of each step.
        digests: of each rank.
        points: at which it can be killed.
    """

    ids: list[list[int]]
    digests: list[str]
    points: int


def calm_of(doomed: Doomed, folder: Path, addresses: list[str], world: int) -> Calm:
    student = Student(doomed, folder, addresses)
    assert student.live(at=10**9, world=world) == 0
    ids = student.sequence()
    for epoch in (ids[: STEPS // 2], ids[STEPS // 2 :]):
        assert sorted(i for step in epoch for i in step) == list(range(SIZE))
    assert len(student.digests) == world
    return Calm(ids, student.digests, student.lives[0].last[0]["taken"])


@pytest.fixture(scope="module")
def alone(doomed: Doomed, addresses: list[str], tmp_path_factory: pytest.TempPathFactory) -> Calm:
    """One process, undisturbed."""
    return calm_of(doomed, tmp_path_factory.mktemp("alone"), addresses, 1)


@pytest.fixture(scope="module")
def pair(doomed: Doomed, addresses: list[str], tmp_path_factory: pytest.TempPathFactory) -> Calm:
    """Two ranks, undisturbed."""
    return calm_of(doomed, tmp_path_factory.mktemp("pair"), addresses, 2)


def some(stride: int) -> Any:
    """Some points in every run of the tests, all in the long one."""
    every = pytest.param(1, marks=pytest.mark.chaos)
    return pytest.mark.parametrize("stride", [stride, every])


@some(5)
def test_killed_at_any_point_it_goes_on_to_the_same_ids_and_bits(
    tmp_path: Path, doomed: Doomed, addresses: list[str], alone: Calm, stride: int
) -> None:
    assert alone.points > 12 * STEPS
    begins = set()
    for at in range(0, alone.points, stride):
        student = Student(doomed, tmp_path / str(at), addresses)
        assert student.live(at) == "killed"
        assert student.live() == 0
        assert student.sequence() == alone.ids, at
        assert student.digests == alone.digests, at
        begins.add(student.lives[-1].begins)
    assert begins == set(range(STEPS + 1))  # It went on after every step there is.


@some(6)
def test_killed_again_and_again_it_gets_done(
    tmp_path: Path, doomed: Doomed, addresses: list[str], alone: Calm, stride: int
) -> None:
    # It goes on by whole steps, and a life may begin with one that was lost.
    step = alone.points // STEPS
    for at in range(step, 4 * step, stride):
        student = Student(doomed, tmp_path / str(at), addresses)
        while student.live(at) == "killed":
            assert len(student.lives) <= 2 * STEPS
        assert len(student.lives) > 2
        assert student.sequence() == alone.ids, at
        assert student.digests == alone.digests, at


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(s, marks=pytest.mark.chaos) for s in range(1, 10))]
)
def test_killed_at_random_moments_again_and_again_it_gets_done(
    tmp_path: Path, doomed: Doomed, addresses: list[str], alone: Calm, seed: int
) -> None:
    """Moments of the clock: at the teachers' answers, inside Rust, or before anything is there."""
    chance = random.Random(seed)
    for run in range(5):
        student = Student(doomed, tmp_path / str(run), addresses)
        for _ in range(6):
            (pid,) = student.start()
            time.sleep(chance.uniform(0, 0.07))
            os.kill(pid, signal.SIGKILL)
            student.end([pid])
        assert student.live() == 0
        assert student.sequence() == alone.ids
        assert student.digests == alone.digests


def test_killed_while_its_teachers_answer_it_loses_and_doubles_nothing(
    tmp_path: Path, nursery: Nursery, doomed: Doomed, alone: Calm
) -> None:
    with Crew(nursery, 2, pace=0.01) as crew:
        crew.start()
        student, flew = Student(doomed, tmp_path / "student", crew.addresses), []
        while student.live(at=30) == "killed":
            flew.append(student.lives[-1].flying)
            assert len(student.lives) <= STEPS
    assert sum(flying > 0 for flying in flew) >= 3, flew
    assert student.sequence() == alone.ids
    assert student.digests == alone.digests
    counted = student.lives[-1].last[0]["counted"]
    assert counted["duplicates"] == counted["requeued"] == 0


@some(9)
def test_a_disk_full_at_any_point_leaves_a_whole_checkpoint(
    tmp_path: Path, doomed: Doomed, addresses: list[str], alone: Calm, stride: int
) -> None:
    ends = set()
    for at in range(0, alone.points, stride):
        student = Student(doomed, tmp_path / str(at), addresses)
        ends.add(student.live(at, "full"))
        names = {file.name for file in student.kept.glob("*")}
        assert names <= {FILE, f"{FILE}.1"}  # Nothing half-written is left.
        assert student.live() == 0
        assert student.sequence() == alone.ids, at
        assert student.digests == alone.digests, at
    assert ends <= {FULL, 0}


@some(29)
def test_a_torn_checkpoint_costs_one_step_more(
    tmp_path: Path, doomed: Doomed, addresses: list[str], alone: Calm, stride: int
) -> None:
    """As after a power failure on a disk that does not do as it says."""
    for at in range(3 * alone.points // STEPS, alone.points, stride):
        student = Student(doomed, tmp_path / str(at), addresses)
        assert student.live(at) == "killed"
        file = student.kept / FILE
        file.write_bytes(file.read_bytes()[:-100])
        student.lives[-1].saved -= 1
        assert student.live() == 0
        assert student.sequence(lost=2) == alone.ids, at
        assert student.digests == alone.digests, at


@some(17)
def test_two_ranks_of_which_one_is_killed_go_on_to_the_same_ids_and_bits(
    tmp_path: Path, doomed: Doomed, addresses: list[str], pair: Calm, stride: int
) -> None:
    fates = [(0, at) for at in range(0, pair.points, stride)]
    fates += [(1, at) for at in range(0, 3 * STEPS, stride)]  # It writes nothing.
    for victim, at in fates:
        student = Student(doomed, tmp_path / f"{victim}-{at}", addresses)
        assert student.live(at, world=2, victim=victim) == "killed"
        assert student.live(world=2) == 0
        # The other rank may have its next batch while the first one saves.
        assert student.sequence(lost=2) == pair.ids, (victim, at)
        assert student.digests == pair.digests, (victim, at)


@some(17)
def test_another_number_of_ranks_goes_on_with_the_same_ids(
    tmp_path: Path, doomed: Doomed, addresses: list[str], alone: Calm, pair: Calm, stride: int
) -> None:
    assert pair.ids == alone.ids
    for at in range(alone.points // STEPS, alone.points // 3, stride):
        student = Student(doomed, tmp_path / str(at), addresses)
        for world in (2, 1):
            assert student.live(at, world=world) == "killed"
        assert student.live(world=2) == 0
        assert [len(life.last) for life in student.lives] == [0, 0, 2]
        assert student.sequence(lost=2) == alone.ids, at
