"""The examples' YAML files work with the command line, as they stand but for the port."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from pantheon.demo.models import wide_mlp
from pantheon.store import describe
from tests.examples.readme import ROOT

PANTHEON = [sys.executable, "-m", "pantheon"]


def pantheon(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a folder, to its end."""
    return subprocess.run(
        [*PANTHEON, *arguments],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=50,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the examples and a teacher's weights."""
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    save_file(wide_mlp().state_dict(), tmp_path / "runs/demo/teacher-b.safetensors")
    for name in ("teacher.yaml", "student.yaml"):
        text = (ROOT / "examples" / name).read_text(encoding="utf-8")
        (tmp_path / name).write_text(text.replace("epochs: 20", "epochs: 2"))
    return tmp_path


@pytest.fixture
def address(folder: Path) -> Iterator[str]:
    """Where the example's teacher serves."""
    command = [*PANTHEON, "serve", "teacher.yaml", "--bind", "tcp://127.0.0.1:0", "--json"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["addresses"][0]
        process.terminate()
        assert process.wait(10) == 0


def test_a_student_is_distilled_online_and_goes_on_from_its_checkpoint(
    folder: Path, address: str
) -> None:
    student = folder / "student.yaml"
    student.write_text(student.read_text().replace("tcp://127.0.0.1:5557", address))
    done = pantheon(folder, "distill", "student.yaml")
    assert done.returncode == 0, done.stderr
    assert "epoch 2  kl " in done.stdout
    assert "accuracy" in done.stdout
    assert set(load_file(folder / "runs/student/weights.safetensors")) == {
        f"{layer}.{kind}" for layer in "02" for kind in ("weight", "bias")
    }

    text = student.read_text().replace("epochs: 2", "epochs: 3")
    student.write_text(f"{text}\ncache: runs/cache\ncache_bytes: 10000000\n")
    more = pantheon(folder, "distill", "student.yaml", "--json")
    assert more.returncode == 0, more.stderr
    lines = [json.loads(line) for line in more.stdout.splitlines()]
    assert [line["epoch"] for line in lines[:-1]] == [2]
    assert len(lines[-1]["epochs"]) == 3
    (cache,) = (folder / "runs/cache").glob("*/*")
    assert describe(cache)["ids"]["count"] == 1347


def test_a_dump_stands_in_for_the_address(folder: Path) -> None:
    done = pantheon(folder, "dump", "teacher.yaml", "runs/knowledge", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"] == 1347
    found = json.loads(pantheon(folder, "inspect", "runs/knowledge", "--json").stdout)
    assert found["ids"]["count"] == 1347
    student = folder / "student.yaml"
    student.write_text(student.read_text().replace("tcp://127.0.0.1:5557", "runs/knowledge"))
    trained = pantheon(folder, "distill", "student.yaml")
    assert trained.returncode == 0, trained.stderr
    anew = pantheon(folder, "distill", "student.yaml", "--fresh", "--json")
    assert anew.returncode == 0, anew.stderr
    assert [json.loads(line).get("epoch") for line in anew.stdout.splitlines()] == [0, 1, None]
