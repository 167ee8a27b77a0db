"""Several students on one teacher, in several ranks, continued from saved states."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.programs import ROOT, running, torchrun
from tests.integration.toy import SIZE

STUDENT = "tests.integration.student"
SMALL = 44
GLOBAL = 8
EPOCHS = 2


@pytest.fixture(scope="module")
def teacher() -> Iterator[str]:
    """The address of a teacher in a process of its own."""
    with running("tests.integration.toy", "tcp://127.0.0.1:0") as (_, addresses):
        yield f"{addresses[0]}/minus"


def order(teacher: str, out: Path, *, batch: int, size: int = SMALL, **more: Any) -> str:
    """The JSON for one student program."""
    out.mkdir(exist_ok=True)
    loader = {
        "batch_size": batch,
        "shuffle": True,
        "seed": more.pop("seed", 3),
        "teachers": {"t": teacher},
        "dataset_fingerprint": "toy",
    }
    return json.dumps(
        {"loader": loader, "size": size, "out": str(out), "epochs": EPOCHS}
        | {k: str(v) if isinstance(v, Path) else v for k, v in more.items()}
    )


def student(order: str) -> subprocess.Popen[str]:
    """Start one student in a process of its own."""
    command = [sys.executable, "-m", STUDENT, order]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> None:
    """Wait for a student; what it wrote to stderr is the message when it failed."""
    _, errors = process.communicate(timeout=50)
    assert process.returncode == 0, errors[-4000:]


def seen(out: Path, rank: int = 0, run: str = "run") -> list[dict[str, Any]]:
    """What one rank saw, step by step, each value checked against the teacher's line."""
    steps: list[dict[str, Any]] = json.loads((out / f"rank-{rank}.json").read_text())[run]
    for step in steps:
        assert step["inputs"] == step["ids"]
        assert step["knowledge"] == [2 * i - 1 for i in step["ids"]]
    return steps


def global_ids(out: Path, world: int, run: str = "run") -> list[list[int]]:
    """The ids of each global batch, ranks in order."""
    ranks = [seen(out, r, run) for r in range(world)]
    return [[i for step in steps for i in step["ids"]] for steps in zip(*ranks, strict=True)]


def test_two_students_with_different_seeds_share_one_teacher(teacher: str, tmp_path: Path) -> None:
    outs = [tmp_path / "a", tmp_path / "b"]
    orders = [order(teacher, o, batch=16, size=SIZE, seed=i) for i, o in enumerate(outs)]
    for process in [student(o) for o in orders]:
        finish(process)
    a, b = ([i for step in global_ids(o, 1) for i in step] for o in outs)
    assert sorted(a) == sorted(b) == sorted([*range(SIZE)] * EPOCHS)
    assert a != b


def test_two_ranks_see_every_id_once(teacher: str, tmp_path: Path) -> None:
    torchrun(2, STUDENT, order(teacher, tmp_path, batch=4, size=SIZE, epochs=1))
    ids = [i for batch in global_ids(tmp_path, 2) for i in batch]
    assert sorted(ids) == list(range(SIZE))
    assert len(seen(tmp_path, 0)) == len(seen(tmp_path, 1))


@pytest.fixture(scope="module")
def saved(teacher: str, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Undisturbed runs with the state after every step, in 1 and in 2 ranks."""
    folders = {}
    for world in (1, 2):
        folder = tmp_path_factory.mktemp(f"world-{world}")
        (folder / "states").mkdir()
        request = order(teacher, folder, batch=GLOBAL // world, save=folder / "states")
        torchrun(world, STUDENT, request)
        folders[world] = folder
    return folders


def test_another_world_size_keeps_the_sequence_of_ids(saved: dict[int, Path]) -> None:
    assert global_ids(saved[1], 1) == global_ids(saved[2], 2)


@pytest.mark.parametrize(("before", "after"), [(1, 1), (1, 2), (2, 1), (2, 2)])
def test_a_state_saved_after_any_step_continues_the_exact_sequence(
    teacher: str, saved: dict[int, Path], tmp_path: Path, before: int, after: int
) -> None:
    states = saved[before] / "states"
    torchrun(after, STUDENT, order(teacher, tmp_path, batch=GLOBAL // after, restore=states))
    undisturbed = global_ids(saved[before], before)
    names = sorted(p.name for p in states.iterdir())
    assert len(names) == len(undisturbed) == EPOCHS * -(-SMALL // GLOBAL)
    for done, name in enumerate(names, start=1):
        assert global_ids(tmp_path, after, name) == undisturbed[done:]
