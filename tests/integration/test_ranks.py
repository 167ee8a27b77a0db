"""`pantheon distill` under torchrun: several processes train one student."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from teacher_server import Teacher
from tests.integration.partly_labelled import Rows, teacher
from tests.integration.programs import ROOT, torchrun

STUDENT = """\
model: tests.integration.partly_labelled:Student
model_args: {{dropout: {dropout}}}
dataset: tests.integration.partly_labelled:Rows
batch_size: {batch}
epochs: 3
threads: 1
teachers: {{t: {dump}}}
losses:
  - {{loss: kl, field: logits, temperature: 2}}
  - {{loss: cross_entropy, weight: 0.5}}
optimizer: {{name: adamw, lr: 0.05, weight_decay: 0.1, schedule: cosine}}
evaluate: tests.integration.partly_labelled:evaluate
checkpoint: {{path: {out}/state.safetensors, every: 2}}
output: {out}/weights.safetensors
report: {out}/report.json
curves: {out}/curves.png
"""

SETTINGS = """\
accumulate: 2
ema: {decay: 0.75}
precision: bfloat16
channels_last: true
"""


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dump of the teacher."""
    path = tmp_path_factory.mktemp("ranks") / "dump"
    Teacher(teacher(), Rows(), schema={"logits": "float32"}).dump(str(path))
    return path


def student(out: Path, dump: Path, *, batch: int, dropout: float = 0.0, settings: str = "") -> str:
    """Write a student's file; answers its path."""
    out.mkdir()
    file = out / "student.yaml"
    text = STUDENT.format(out=out, dump=dump, batch=batch, dropout=dropout)
    if settings:
        text = text.replace("schedule: cosine", "schedule: cosine, warmup_steps: 2, clip_norm: 0.1")
    file.write_text(text + settings)
    return str(file)


def report(out: Path) -> Any:
    return json.loads((out / "report.json").read_text())


@pytest.mark.timeout(200)  # Processes that start torch, one after another.
@pytest.mark.parametrize("settings", ["", SETTINGS.replace("bfloat16", "float32")])
def test_two_ranks_learn_what_one_learns_from_batches_twice_as_large(
    dump: Path, tmp_path: Path, settings: str
) -> None:
    """The last batch of an epoch is padded for two, and the labels are not spread evenly."""
    one, two = tmp_path / "one", tmp_path / "two"
    command = [
        sys.executable,
        "-m",
        "pantheon",
        "distill",
        student(one, dump, batch=16, settings=settings),
    ]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    torchrun(2, "pantheon", "distill", student(two, dump, batch=8, settings=settings))
    alone, together = report(one), report(two)
    assert (alone["ranks"], together["ranks"]) == (1, 2)
    assert together["ids_sha256"] == alone["ids_sha256"]
    for mine, theirs in zip(alone["epochs"], together["epochs"], strict=True):
        assert theirs["samples"] == mine["samples"] == len(Rows())
        assert theirs["losses"] == pytest.approx(mine["losses"], rel=1e-4)
    expected, found = (load_file(out / "weights.safetensors") for out in (one, two))
    assert all(found[k].allclose(expected[k], atol=1e-5) for k in expected)
    assert (two / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.timeout(200)  # Processes that start torch, one after another.
@pytest.mark.parametrize("settings", ["", SETTINGS])
def test_ranks_that_are_killed_and_started_again_end_with_the_same_bits(
    dump: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: str
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    torchrun(
        2, "pantheon", "distill", student(whole, dump, batch=8, dropout=0.5, settings=settings)
    )
    file = student(killed, dump, batch=8, dropout=0.5, settings=settings)
    monkeypatch.setenv("DIE_ONCE", str(killed / "died"))
    with pytest.raises(AssertionError):
        torchrun(2, "pantheon", "distill", file)
    assert (killed / "died").exists()
    assert not (killed / "report.json").exists()
    torchrun(2, "pantheon", "distill", file)
    for key in ("weights_sha256", "ids_sha256"):
        assert report(killed)[key] == report(whole)[key]
