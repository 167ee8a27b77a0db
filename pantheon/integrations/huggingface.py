"""Hugging Face's Trainer on a stream of knowledge, resumed exactly after a kill.

A `checkpoint-N` folder is many files, which `Trainer` writes one after the other. Here a last file
is written after them, ``pantheon.safetensors``: the loader's place, and the names, sizes and
checksums of all others. A folder without it, or with other bytes, was torn and is not resumed from.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import rotate_checkpoints

from pantheon.errors import ConfigError, ResumeMismatch, StoreError
from pantheon.integrations.batches import Batches
from pantheon.integrations.disk import flush
from pantheon.saving import checkpoint
from pantheon.stream import Batch, BatchStream
from pantheon.training.objective import call_student

log = logging.getLogger(__name__)

SEAL = "pantheon.safetensors"
"""The file that is written last."""

BATCH = "batch"
"""The name of a `Batch` among the inputs that `compute_loss` is given."""

INCOMPLETE = "checkpoint-is-incomplete.txt"
"""A file that `enable_jit_checkpoint` has in a folder only until it is written."""

CHUNK = 1 << 22

Objective = Callable[[Any, Batch], Tensor | Mapping[str, Tensor]]


class DistillationTrainer(Trainer):  # type: ignore[misc]  # transformers is not looked into
    """`transformers.Trainer` that learns from a loader's batches.

    Everything else is `Trainer`'s: its arguments, callbacks, evaluation, logging, DDP through
    torchrun. Every rank is given a loader of its own rank. Each save holds the loader's place at
    exactly the batches that were learned from, with gradient accumulation too; `train` with
    ``resume_from_checkpoint`` goes on after them without reading a batch twice.

    Args:
        model: the student.
        args: `transformers.TrainingArguments`.
        loader: the batches, such as a `student_client.KnowledgeLoader`.
        objective: called with the student's outputs and the batch; answers the loss, or losses by
            name which are added up, such as `pantheon.Objective`.
        options: further arguments of `Trainer`; no ``train_dataset``.

    Raises:
        ConfigError: arguments that cannot be used with a stream.

    Example:
        ::

            loader = KnowledgeLoader(tokens, 32, shuffle=True, teachers={"t": "tcp://teacher:5557"})
            trainer = DistillationTrainer(
                student, TrainingArguments("runs/student"), loader=loader, objective=objective
            )
            trainer.train(resume_from_checkpoint=last_checkpoint("runs/student"))
    """

    loss_is_scaled_for_ga = False
    """Losses are means over a batch; `Trainer` divides them by the accumulation steps."""

    def __init__(
        self,
        model: torch.nn.Module,
        args: Any,
        *,
        loader: BatchStream,
        objective: Objective,
        **options: Any,
    ) -> None:
        _check_arguments(args)
        if options.get("train_dataset") is not None:
            raise ConfigError("a train_dataset was given beside the loader; give it to the loader")
        super().__init__(model, args, **options)
        self.loader, self.objective = loader, objective
        self._source = _Source(loader)
        self._fetched: tuple[int, dict[str, Any]] = (-1, {})
        if _saves_on_sigterm(args):
            from transformers.trainer_jit_checkpoint import JITCheckpointCallback

            self.add_callback(_BetweenSteps(self.pop_callback(JITCheckpointCallback)))

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The loader's batches, as `Trainer` wants them."""
        return DataLoader(self._source, batch_size=None)

    def get_batch_samples(self, *args: Any, **options: Any) -> Any:
        """The next step's batches; the place before them is that of a save within the step."""
        self._fetched = (self.state.global_step, self.loader.state_dict())
        return super().get_batch_samples(*args, **options)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The objective on a batch of the loader; `Trainer`'s own loss on any other inputs."""
        if not (isinstance(inputs, Mapping) and BATCH in inputs):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        batch = inputs[BATCH].to(self.args.device)
        outputs = call_student(model, batch.inputs)
        found = self.objective(outputs, batch)
        loss = torch.stack(tuple(found.values())).sum() if isinstance(found, Mapping) else found
        return (loss, outputs) if return_outputs else loss

    def floating_point_ops(self, inputs: Any) -> int:
        """`Trainer`'s estimate, for inputs it understands."""
        inner = inputs[BATCH].inputs if BATCH in inputs else inputs
        return int(super().floating_point_ops(inner)) if isinstance(inner, Mapping) else 0

    def train(self, resume_from_checkpoint: str | bool | None = None, **options: Any) -> Any:
        """Train; see `Trainer.train`.

        Args:
            resume_from_checkpoint: a folder, or True for the newest whole one of the output folder.

        Raises:
            StoreError: the folder was torn or altered, or there is none.
            ResumeMismatch: its loader had another sequence of ids, or its steps other sizes.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_checkpoint(self.args.output_dir)
            if resume_from_checkpoint is None:
                raise StoreError(
                    f"no whole checkpoint in {self.args.output_dir}; train without "
                    "resume_from_checkpoint, or with last_checkpoint(...), which is None then"
                )
        if resume_from_checkpoint:
            state = check(resume_from_checkpoint)
            _check_accumulation(resume_from_checkpoint, state, self.args)
            self._source.batches.load_state_dict(state["loader"])
            self._source.resumed = self._learned
        return super().train(resume_from_checkpoint or None, **options)

    def _learned(self) -> int:
        """Batches of the epoch at hand that were learned from before; `Trainer` counts them too."""
        size: int = self.args.gradient_accumulation_steps
        step: int = self.state.global_step
        return step % -(-len(self.loader) // size) * size

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a folder, seal it, and only then remove older ones."""
        run = self._get_output_dir(trial=trial)
        folder = Path(run) / f"checkpoint-{self.state.global_step}"
        if self.is_world_process_zero():
            (folder / SEAL).unlink(missing_ok=True)
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        step, before = self._fetched
        place = before if step == self.state.global_step else self.loader.state_dict()
        self.accelerator.wait_for_everyone()  # Every rank writes its random state.
        if self.is_world_process_zero():
            seal(folder, place, accumulation=self.args.gradient_accumulation_steps)
            rotate_checkpoints(
                output_dir=run,
                save_total_limit=limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=True,
            )


class _Source(IterableDataset[Any]):
    """A loader's batches; in a resumed epoch after placeholders for those it had before.

    `Trainer` skips as many as it has learned from, whatever they are.
    """

    def __init__(self, loader: BatchStream) -> None:
        self.batches = Batches(loader)
        self.resumed: Callable[[], int] | None = None

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        resumed, self.resumed = self.resumed, None
        for _ in range(0 if resumed is None else resumed()):
            yield None
        for batch in self.batches:
            yield {BATCH: batch}


class _BetweenSteps(TrainerCallback):  # type: ignore[misc]  # transformers is not looked into
    """Saves on SIGTERM when a step is done, and not within one.

    `JITCheckpointCallback` also does so after a step's backward passes, which have drawn random
    numbers and read batches that would be read once more.
    """

    def __init__(self, callback: TrainerCallback) -> None:
        self._callback = callback

    def on_step_end(self, *args: Any, **options: Any) -> None:
        """Save if it was asked for."""
        self._callback.on_step_end(*args, **options)

    def on_epoch_end(self, *args: Any, **options: Any) -> None:
        """Save if it was asked for."""
        self._callback.on_epoch_end(*args, **options)

    def on_train_end(self, *args: Any, **options: Any) -> None:
        """Give the signal back."""
        self._callback.on_train_end(*args, **options)


def _saves_on_sigterm(args: Any) -> bool:
    return bool(getattr(args, "enable_jit_checkpoint", False))


def _check_arguments(args: Any) -> None:
    """Refuse what would resume elsewhere, or with less than was there."""
    if args.ignore_data_skip:
        raise ConfigError(
            "ignore_data_skip is True, which would lose count of the batches of an epoch; "
            "leave it False: the loader goes on at its place without reading them again"
        )
    if args.save_only_model:
        raise ConfigError(
            "save_only_model is True, which would leave out optimizer, schedule and random states, "
            "and a resumed run would begin them anew; leave it False, and save the final model "
            "with save_model()"
        )
    if _saves_on_sigterm(args) and args.world_size > 1:
        raise ConfigError(
            f"enable_jit_checkpoint is True with {args.world_size} ranks, and each would stop at a "
            "step of its own and wait for the others; leave it False, and set save_steps"
        )


def _check_accumulation(folder: Any, state: Mapping[str, Any], args: Any) -> None:
    """`Trainer` counts batches as steps times accumulation; with another it would skip some."""
    saved = state.get("accumulation", args.gradient_accumulation_steps)
    if saved != args.gradient_accumulation_steps:
        raise ResumeMismatch(
            f"{folder} was saved with gradient_accumulation_steps={saved}, and this run has "
            f"{args.gradient_accumulation_steps}: the batches learned from would be counted "
            f"wrongly; resume with gradient_accumulation_steps={saved}"
        )


def seal(
    folder: str | os.PathLike[str], place: Mapping[str, Any], *, accumulation: int = 1
) -> None:
    """Mark a folder as whole, once all its files are on the disk.

    Args:
        place: the state of the loader.
        accumulation: batches in a step.

    Raises:
        StoreError, DiskFullError: it cannot be written.
    """
    path = Path(folder)
    files = _files(path)
    named = {str(file.relative_to(path)): list(_sum(file)) for file in files}
    try:
        for written in (*files, *(p for p in path.rglob("*") if p.is_dir())):
            flush(written)
        state = {"loader": dict(place), "files": named, "accumulation": accumulation}
        checkpoint.save(path / SEAL, state)
        flush(path.parent)
    except OSError as error:
        raise StoreError(f"cannot flush the checkpoint {folder} to the disk: {error}") from error


def check(folder: str | os.PathLike[str]) -> dict[Any, Any]:
    """What `seal` wrote, if the folder holds exactly the files it was written with.

    Raises:
        StoreError: it was torn, altered or never sealed; says which file is not as it was.
    """
    path = Path(folder)
    if not (path / SEAL).exists():
        raise StoreError(
            f"{folder} has no {SEAL}: it was not written to its end, or not by a "
            "DistillationTrainer; resume from last_checkpoint(...)"
        )
    state = checkpoint.load(path / SEAL)
    if not isinstance(state.get("files"), dict) or "loader" not in state:
        raise ResumeMismatch(f"{path / SEAL} is another kind of checkpoint; expected a seal")
    for name, expected in state["files"].items():
        file = path / name
        found = list(_sum(file)) if file.is_file() else None
        if found != expected:
            raise StoreError(
                f"{file} is not as it was saved: expected (bytes, xxh3_64) {expected}, found "
                f"{found}; resume from an older folder"
            )
    return state


def last_checkpoint(folder: str | os.PathLike[str]) -> str | None:
    """The newest whole ``checkpoint-N`` of an output folder; None where there is none.

    Folders that were torn by a kill are passed over, with a warning in the log.

    Example:
        >>> import tempfile
        >>> last_checkpoint(tempfile.mkdtemp()) is None
        True
    """
    steps = {
        int(p.name[11:]): p for p in Path(folder).glob("checkpoint-*") if p.name[11:].isdigit()
    }
    for step in sorted(steps, reverse=True):
        try:
            check(steps[step])
        except StoreError as error:
            log.warning("%s", error)
        else:
            return str(steps[step])
    return None


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in (SEAL, INCOMPLETE))


def _sum(file: Path) -> tuple[int, str]:
    """Size and checksum of a file, read piece by piece."""
    state, size = xxhash.xxh3_64(), 0
    with file.open("rb") as content:
        while piece := content.read(CHUNK):
            state.update(piece)
            size += len(piece)
    return size, state.hexdigest()
