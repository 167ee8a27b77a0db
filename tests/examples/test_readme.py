"""What the README and the guides show runs as written, in processes of its own."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.examples.readme import blocks, finish, start

TEACHER, STUDENT, *REST = blocks("README.md")


def test_the_readmes_teacher_teaches_its_student(tmp_path: Path) -> None:
    teacher = start(TEACHER, tmp_path, "teacher.py")
    try:
        out = finish(start(STUDENT, tmp_path, "student.py"), timeout=50)
        assert teacher.poll() is None, teacher.communicate()[1]
    finally:
        teacher.send_signal(signal.SIGTERM)
        teacher.communicate(timeout=10)
    losses = [float(line.split()[1]) for line in out.splitlines()]
    assert len(losses) == 5
    assert losses[-1] < losses[0]
    assert teacher.returncode == 0


@pytest.mark.parametrize("code", REST, ids=range(len(REST)))
def test_the_readmes_other_examples_run(tmp_path: Path, code: str) -> None:
    finish(start(code, tmp_path, "example.py"), timeout=50)


@pytest.mark.parametrize("code", blocks("docs/coming-from-paddleslim.md"))
def test_the_predecessors_toy_runs(tmp_path: Path, code: str) -> None:
    finish(start(code, tmp_path, "toy.py"), timeout=50)


@pytest.mark.parametrize("code", blocks("docs/integrations.md"), ids=["huggingface", "lightning"])
def test_other_libraries_trainers_learn_and_go_on(tmp_path: Path, code: str) -> None:
    finish(start(code, tmp_path, "example.py"), timeout=50)
    finish(start(code, tmp_path, "example.py"), timeout=50)


def test_the_first_screen_is_short() -> None:
    for code in (TEACHER, STUDENT):
        assert len([line for line in code.splitlines() if line and line[0] != "#"]) <= 14
