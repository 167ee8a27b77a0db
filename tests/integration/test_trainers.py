"""Hugging Face's and Lightning's trainers: killed anywhere, resumed, the same bits; bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainingArguments

from pantheon.errors import ConfigError, StoreError
from pantheon.integrations.huggingface import (
    SEAL,
    DistillationTrainer,
    check,
    last_checkpoint,
    seal,
)
from pantheon.integrations.lightning import AtomicCheckpointIO, ExactResume
from tests.chaos.lessons import teacher
from tests.integration.programs import ROOT, torchrun
from tests.integration.trainers import ACCUMULATE, BATCH, EPOCHS, SIZE, TRAINERS, loader_of

STEPS = EPOCHS * -(-SIZE // (BATCH * ACCUMULATE))


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A deterministic teacher."""
    with teacher().start("tcp://127.0.0.1:0") as server:
        yield server.addresses[0]


@dataclass
class Student:
    """One trainer's students, all of the same seed."""

    trainer: str
    address: str
    folder: Path

    def live(self, *killed: list[int], timeout: float = 50) -> list[dict[str, Any]]:
        """One student for each list of points that it is killed at."""
        told = json.dumps(
            {
                "trainer": self.trainer,
                "address": self.address,
                "folder": str(self.folder),
                "lives": killed,
            }
        )
        done = subprocess.run(
            [sys.executable, "-m", "tests.integration.trainers", told],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(params=TRAINERS)
def student(request: pytest.FixtureRequest, address: str, tmp_path: Path) -> Student:
    """One for each library."""
    return Student(request.param, address, tmp_path)


def same(life: dict[str, Any], calm: dict[str, Any]) -> None:
    """Fail unless every step was learned from the same samples, and the weights are the same."""
    assert life["digest"] == calm["digest"]
    assert life["ids"].keys() == calm["ids"].keys()
    for step, expected in calm["ids"].items():
        assert life["ids"][step][-len(expected) :] == expected


def test_a_student_killed_here_and_there_ends_with_the_same_bits(student: Student) -> None:
    calm, *others = student.live([], [1], [5], [12], [17], [23], [30], [14, 3, 9], [45])
    assert calm["codes"] == [0]
    assert len(calm["ids"]) == STEPS
    learned = [i for batches in calm["ids"].values() for ids in batches for i in ids]
    assert sorted(learned) == sorted([*range(SIZE)] * EPOCHS)
    for life in others:
        assert life["codes"] == [-9] * (len(life["codes"]) - 1) + [0]
        same(life, calm)


@pytest.mark.chaos
@pytest.mark.timeout(300)
def test_a_student_killed_at_every_point_ends_with_the_same_bits(student: Student) -> None:
    (calm,) = student.live([])
    every = [[point] for point in range(calm["points"])]
    for life in student.live(*every, timeout=280):
        assert life["codes"] == [-9, 0]
        same(life, calm)


@pytest.mark.parametrize("trainer", TRAINERS)
def test_two_ranks_share_every_batch_once(trainer: str, address: str, tmp_path: Path) -> None:
    told = {"trainer": trainer, "address": address, "folder": str(tmp_path), "ranks": 2}
    torchrun(2, "tests.integration.trainers", json.dumps(told))
    ranks = [json.loads((tmp_path / f"rank-{r}.json").read_text()) for r in range(2)]
    assert ranks[0]["digest"] == ranks[1]["digest"]
    learned = [i for rank in ranks for i in rank["ids"]]
    assert sorted(learned) == sorted([*range(SIZE)] * EPOCHS)


def sealed(folder: Path) -> Path:
    """A whole folder."""
    folder.mkdir(parents=True)
    (folder / "weights").write_bytes(b"w" * 1000)
    seal(folder, {"epoch": 0})
    return folder


@pytest.mark.parametrize("harm", ["cut", "altered", "removed", "seal"])
def test_a_folder_that_is_not_whole_is_passed_over(
    tmp_path: Path, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    older, newer = sealed(tmp_path / "checkpoint-2"), sealed(tmp_path / "checkpoint-10")
    assert last_checkpoint(tmp_path) == str(newer)
    assert check(newer)["loader"] == {"epoch": 0}
    weights = newer / "weights"
    match harm:
        case "cut":
            weights.write_bytes(b"w" * 999)
        case "altered":
            weights.write_bytes(b"w" * 999 + b"x")
        case "removed":
            weights.unlink()
        case "seal":
            (newer / SEAL).unlink()
    assert last_checkpoint(tmp_path) == str(older)
    assert str(newer) in caplog.text
    with pytest.raises(StoreError, match="resume from"):
        check(newer)


def trainer_in(folder: Path, address: str, **options: Any) -> DistillationTrainer:
    arguments = TrainingArguments(str(folder), report_to=[], use_cpu=True, **options)
    loader = loader_of(address)
    return DistillationTrainer(
        torch.nn.Linear(1, 1), arguments, loader=loader, objective=lambda outputs, batch: outputs
    )


def test_what_a_stream_cannot_be_used_with_is_refused(address: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ignore_data_skip is True"):
        trainer_in(tmp_path, address, ignore_data_skip=True)
    trainer = trainer_in(tmp_path, address)
    with pytest.raises(StoreError, match="no whole checkpoint in"):
        trainer.train(resume_from_checkpoint=True)
    (tmp_path / "checkpoint-1").mkdir()
    with pytest.raises(StoreError, match="not written to its end"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    trainer.loader.close()  # type: ignore[attr-defined]


@pytest.mark.filterwarnings("ignore::FutureWarning")  # Lightning's own.
def test_lightning_is_not_given_a_loader_whose_epochs_may_be_empty(address: str) -> None:
    import lightning.pytorch as pl
    from lightning.pytorch.demos.boring_classes import BoringModel

    loader = loader_of(address)
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[ExactResume()],
    )
    with pytest.raises(ConfigError, match=r"give it pantheon.integrations.lightning.Batches"):
        trainer.fit(BoringModel(), loader)
    loader.close()


def test_a_file_that_cannot_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    plugin, file = AtomicCheckpointIO(), tmp_path / "a.ckpt"
    plugin.save_checkpoint({"step": 1}, file)

    class Unpicklable:
        def __reduce__(self) -> Any:
            raise OSError(28, "No space left on device")

    with pytest.raises(StoreError, match="No space left"):
        plugin.save_checkpoint({"step": Unpicklable()}, file)
    assert plugin.load_checkpoint(file) == {"step": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.ckpt"]
