"""Hugging Face's and Lightning's trainers: killed anywhere, resumed, the same bits; bad input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset
from transformers import TrainingArguments

from pantheon.errors import ConfigError, ResumeMismatch, StoreError
from pantheon.integrations.huggingface import (
    INCOMPLETE,
    SEAL,
    DistillationTrainer,
    check,
    last_checkpoint,
    seal,
)
from pantheon.integrations.lightning import AtomicCheckpointIO, Batches, ExactResume, _every_rank
from pantheon.ranks import Ranks
from tests.chaos.lessons import teacher
from tests.integration.programs import ROOT, torchrun
from tests.integration.trainers import (
    ACCUMULATE,
    BATCH,
    ENDED,
    EPOCHS,
    SIZE,
    TRAINERS,
    Ended,
    loader_of,
)

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
    way: str = "steps"

    def live(self, *killed: list[int], timeout: float = 50) -> list[dict[str, Any]]:
        """One student for each list of points that it is killed at."""
        told = json.dumps(
            {
                "trainer": self.trainer,
                "address": self.address,
                "folder": str(self.folder),
                "way": self.way,
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


ENDS = {
    "epochs": [[14], [20, 7]],
    "limited": [[9], [15]],
    "cycled": [[18], [27]],
    "shortest": [[9], [15]],
    "padded": [[18], [27]],
    "validated": [[9], [27]],
    "raised": [[14], [29], [28, 3], [30]],
}
"""How Lightning's epochs end, and where it is killed, or ended by an exception."""


@pytest.mark.parametrize("way", ENDS)
def test_lightning_goes_on_with_what_was_left_however_its_epochs_end(
    way: str, address: str, tmp_path: Path
) -> None:
    calm, *others = Student("lightning", address, tmp_path, way).live([], *ENDS[way])
    assert calm["codes"] == [0]
    for life in others:
        assert life["codes"] == [ENDED if way == "raised" else -9] * (len(life["codes"]) - 1) + [0]
        same(life, calm)


def test_a_student_told_to_end_ends_with_the_same_bits(address: str, tmp_path: Path) -> None:
    student = Student("huggingface", address, tmp_path, "sigterm")
    calm, *others = student.live([], [1], [2], [22], [8, 3])
    assert calm["codes"] == [0]
    for life in others:
        assert life["codes"] == [ENDED] * (len(life["codes"]) - 1) + [0]
        same(life, calm)
        assert sum(map(len, life["ids"].values())) == sum(map(len, calm["ids"].values()))


EVERY = [*((trainer, "steps") for trainer in TRAINERS), *(("lightning", way) for way in ENDS)]


@pytest.mark.chaos
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("trainer", "way"), [*EVERY, ("huggingface", "sigterm")])
def test_a_student_killed_at_every_point_ends_with_the_same_bits(
    trainer: str, way: str, address: str, tmp_path: Path
) -> None:
    student = Student(trainer, address, tmp_path, way)
    (calm,) = student.live([])
    every = [[point] for point in range(calm["points"])]
    for life in student.live(*every, timeout=280):
        assert life["codes"][-1] == 0
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


def test_what_a_stream_cannot_be_used_with_is_refused(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="ignore_data_skip is True"):
        trainer_in(tmp_path, address, ignore_data_skip=True)
    with pytest.raises(ConfigError, match="save_only_model is True"):
        trainer_in(tmp_path, address, save_only_model=True)
    monkeypatch.setattr(TrainingArguments, "world_size", 2)
    with pytest.raises(ConfigError, match="enable_jit_checkpoint is True with 2 ranks"):
        trainer_in(tmp_path, address, enable_jit_checkpoint=True)
    monkeypatch.undo()
    trainer = trainer_in(tmp_path, address)
    with pytest.raises(StoreError, match="no whole checkpoint in"):
        trainer.train(resume_from_checkpoint=True)
    (tmp_path / "checkpoint-1").mkdir()
    with pytest.raises(StoreError, match="not written to its end"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    trainer.loader.close()  # type: ignore[attr-defined]


def test_another_size_of_steps_than_the_saved_one_is_refused(address: str, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-2"
    folder.mkdir()
    seal(folder, {"epoch": 0}, accumulation=2)
    trainer = trainer_in(tmp_path, address, gradient_accumulation_steps=3)
    with pytest.raises(ResumeMismatch, match=r"gradient_accumulation_steps=2, .* has 3"):
        trainer.train(resume_from_checkpoint=True)
    trainer.loader.close()  # type: ignore[attr-defined]


def test_a_seal_does_not_list_what_is_removed_after_it(tmp_path: Path) -> None:
    sealed(tmp_path / "checkpoint-2")
    (tmp_path / "checkpoint-2" / INCOMPLETE).touch()
    seal(tmp_path / "checkpoint-2", {"epoch": 0})
    (tmp_path / "checkpoint-2" / INCOMPLETE).unlink()
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2")


class Four:
    """A stream of four batches for Lightning's own example of a model."""

    def __init__(self) -> None:
        self.epoch, self.done, self.following = 0, 0, 0

    def __len__(self) -> int:
        return 4

    def __iter__(self) -> Iterator[Any]:
        self.epoch, self.following = self.following, self.following + 1
        for done in range(self.done, 4):
            self.done = done + 1
            yield torch.ones(1, 32)
        self.epoch, self.done = self.following, 0

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "done": self.done}

    def load_state_dict(self, state: Any) -> None:
        self.epoch, self.done, self.following = state["epoch"], state["done"], state["epoch"]


def fit(data: Any, *callbacks: Any, resumed: Path | None = None, **options: Any) -> None:
    """Train Lightning's example of a model."""
    import lightning.pytorch as pl
    from lightning.pytorch.demos.boring_classes import BoringModel

    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=[ExactResume(), *callbacks],
        **options,
    )
    trainer.fit(BoringModel(), data, ckpt_path=resumed)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # Lightning's own.
def test_lightning_is_not_given_a_loader_whose_epochs_may_be_empty() -> None:
    for data in (Four(), [Four()], {"a": Batches(Four()), "b": Four()}):
        with pytest.raises(ConfigError, match=r"give it pantheon.integrations.lightning.Batches"):
            fit(data)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:.*num_workers:UserWarning")
def test_lightning_is_not_given_a_loader_that_it_would_read_ahead() -> None:
    class Endless(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            return iter(torch.ones(9, 32))

    with pytest.raises(ConfigError, match="without a length beside one in Batches"):
        fit({"a": Batches(Four()), "b": DataLoader(Endless())})


@pytest.mark.filterwarnings("ignore::FutureWarning")  # Lightning's own.
def test_a_file_of_an_exception_within_a_step_is_not_gone_on_from(tmp_path: Path) -> None:
    from lightning.pytorch.callbacks import Callback

    file = tmp_path / "a.ckpt"

    class Fails(Callback):  # type: ignore[misc]
        def on_after_backward(self, trainer: Any, module: Any) -> None:
            if trainer.fit_loop.batch_idx == 1:
                raise Ended

        def on_exception(self, trainer: Any, module: Any, exception: BaseException) -> None:
            trainer.save_checkpoint(file)

    with pytest.raises(Ended):
        fit(Batches(Four()), Fails(), accumulate_grad_batches=2)
    with pytest.raises(ResumeMismatch, match="within a backward pass"):
        fit(Batches(Four()), resumed=file, accumulate_grad_batches=2)


def test_machines_with_different_numbers_of_gpus_keep_their_random_states() -> None:
    class Two(Ranks):
        """The first of two ranks; the other one has a GPU more."""

        def gather(self, values: Tensor) -> Tensor:
            other = values + 1 if values.dtype == torch.int64 else values
            return torch.stack([values, other])

    states = {"torch": torch.zeros(5), "cuda": torch.ones(2, 16, dtype=torch.uint8)}
    found = _every_rank(states, Two(0, 2))
    assert [len(cuda) for cuda in found["cuda"]] == [2, 3]
    assert found["cuda"][0].equal(torch.ones(2, 16, dtype=torch.uint8))
    assert found["torch"].shape == (2, 5)


def test_an_older_checkpoint_is_removed_only_when_the_new_name_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[str] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        flushed.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    AtomicCheckpointIO().save_checkpoint({"step": 1}, tmp_path / "a.ckpt")
    assert flushed == [str(tmp_path / ".a.ckpt.partial"), str(tmp_path)]
    flushed.clear()
    sealed(tmp_path / "runs" / "checkpoint-2")
    assert flushed[-2:] == [str(tmp_path / "runs" / "checkpoint-2"), str(tmp_path / "runs")]


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
