"""The files of docker-compose.yml work together, here as processes and not as containers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pantheon.demo.teach import teach
from tests.examples.readme import ROOT

PANTHEON = [sys.executable, "-m", "pantheon"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The cluster's configuration, with this folder in place of its volumes."""
    for file in (ROOT / "examples" / "compose").glob("*.yaml"):
        text = file.read_text(encoding="utf-8").replace("epochs: 600", "epochs: 2")
        for volume in ("weights", "knowledge", "keys", "out"):
            text = text.replace(f" /{volume}/", f" {tmp_path}/{volume}/")
        (tmp_path / file.name).write_text(text)
    return tmp_path


def pantheon(folder: Path, *arguments: str, **environment: str) -> str:
    """Run the command line in a folder, to its end; what it said."""
    done = subprocess.run(
        [*PANTHEON, *arguments],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_start_trains_the_same_teachers_once(tmp_path: Path) -> None:
    first = teach(tmp_path / "first", epochs=1)
    written = [path.read_bytes() for path in first]
    assert [path.read_bytes() for path in teach(tmp_path / "second", epochs=1)] == written
    first[0].write_bytes(b"kept")
    assert teach(tmp_path / "first", epochs=1)[0].read_bytes() == b"kept"


def test_a_student_learns_over_curve_and_from_the_dump(folder: Path) -> None:
    teach(folder / "weights", epochs=1)
    pantheon(folder, "keygen", "keys/student", "--client", "student")
    pantheon(folder, "dump", "teacher-b.yaml", "knowledge/b")
    serve = [*PANTHEON, "serve", "teacher-a.yaml", "--keys", "keys/student", "--json"]
    command = [*serve, "--bind", "tcp://127.0.0.1:0"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        port = json.loads(server.stdout.readline())["addresses"][0].rpartition(":")[2]
        student = folder / "student.yaml"
        student.write_text(student.read_text().replace("teacher:5557", f"127.0.0.1:{port}"))
        pantheon(folder, "distill", "student.yaml")
        server.terminate()
        assert server.wait(10) == 0
    report = json.loads((folder / "out" / "report.json").read_text())
    assert report["epochs"][-1]["samples"] == 1347
    assert set(report["stream"]["teachers"]) == {"a", "b"}


def test_a_search_learns_from_the_dump_in_a_database_that_the_environment_names(
    folder: Path,
) -> None:
    teach(folder / "weights", epochs=1)
    pantheon(folder, "dump", "teacher-b.yaml", "knowledge/b")
    file = folder / "search.yaml"
    text = file.read_text().replace("epochs: 20", "epochs: 1")
    file.write_text(text.replace("/tmp/search", str(folder / "own")))
    url = f"sqlite:///{folder}/shared.db"
    said = pantheon(folder, "search", "search.yaml", "--trials", "2", PANTHEON_SEARCH_STORAGE=url)
    assert said.count(" scored  accuracy ") == 2
    status = ["search", "status", "search.yaml", "--json"]
    told = json.loads(pantheon(folder, *status, PANTHEON_SEARCH_STORAGE=url))
    assert told["told"] == 2
    assert told["best"][0]["costs"]["parameters"] <= 2000
    assert not (folder / "own" / "search.db").exists()
