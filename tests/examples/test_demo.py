"""The demo, shortened, with real teachers, processes and files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "pantheon", "demo", "--seeds", "1", "--epochs", "12", "--out"]


@pytest.mark.timeout(170)
def test_a_shortened_demo_runs_twice_and_a_student_learns(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    done = subprocess.run([*COMMAND, str(out)], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    for line in ("teacher B: 1347 digits dumped", "from both, mixed", "Learning from both adds"):
        assert line in done.stdout
    first = json.loads((out / "report.json").read_text())
    assert min(first["teachers"].values()) > 0.95
    assert first["students"]["both"]["mean"] > 0.8
    assert first["streams"]["both"]["samples"] == 12 * 1347
    for picture in ("learning-curves.png", "accuracy.png"):
        assert (out / picture).read_bytes().startswith(b"\x89PNG")

    again = subprocess.run(
        [*COMMAND, str(out), "--json"], capture_output=True, text=True, timeout=60
    )
    assert again.returncode == 0, again.stderr
    report = json.loads(again.stdout)
    assert report["students"] == first["students"]
    assert report["teachers"] == first["teachers"]
