"""What a training needs to go on after a kill, saved together: weights, optimizer, place."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.parallel import DataParallel, DistributedDataParallel

from pantheon.errors import ConfigError, PantheonError, ResumeMismatch, StoreError
from pantheon.ranks import Ranks, current
from pantheon.saving import chance, checkpoint, copies

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Found:
    """A file that was read: how many saves ago it was written, its checksum and its content."""

    age: int
    label: str
    state: dict[Any, Any]


class Checkpoint:
    """The parts of a training in one file, written atomically and restored together.

    The loader's place and the weights that have learned up to there cannot come apart, so every
    sample affects the training exactly once relative to the checkpoint. The random states of torch
    (CPU and GPUs), Python and numpy are saved with them, for every rank.

    Args:
        path: the file; all ranks must see it.
        keep: files kept, the newest at `path`, those before at ``PATH.1`` and so on. With more
            than one, a file that is found damaged is passed over, with a warning in the log.
        every: steps between two saves of `step`; None saves only when `save` is called.
        ranks: the processes that train together; torch.distributed's by default.
        parts: what to save, by name: model, optimizers, schedulers, scaler, loader; anything with
            `state_dict` and `load_state_dict`. None stands for nothing. A model that is compiled or
            in `DistributedDataParallel` is saved as if it were not.

    Attributes:
        steps: how often `step` was called in this training, earlier lives included.
        random_restored: whether `resume` has restored this rank's random states.

    Raises:
        ConfigError: a part without `state_dict`, a URL as the path, or a number below 1.

    Example:
        >>> import tempfile
        >>> from student_client import KnowledgeLoader
        >>> from teacher_server import Teacher
        >>> samples = torch.randn(40, 3)
        >>> teacher = Teacher(torch.nn.Linear(3, 2), samples, {"logits": "float32"})
        >>> path = os.path.join(tempfile.mkdtemp(), "run.safetensors")
        >>> def train(steps):
        ...     model = torch.nn.Linear(3, 2)
        ...     optimizer = torch.optim.SGD(model.parameters(), 0.1)
        ...     loader = KnowledgeLoader(samples, 10, shuffle=True, teachers={"t": teacher})
        ...     saved = Checkpoint(path, every=1, model=model, optimizer=optimizer, loader=loader)
        ...     print("goes on" if saved.resume() else "begins", "after", saved.steps, "steps")
        ...     for epoch in range(loader.epoch, 2):
        ...         for batch in loader:
        ...             if saved.steps == steps:
        ...                 return
        ...             wanted = batch.knowledge["logits"]
        ...             optimizer.zero_grad()
        ...             torch.nn.functional.mse_loss(model(batch.inputs), wanted).backward()
        ...             optimizer.step()
        ...             saved.step()
        >>> train(steps=3)
        begins after 0 steps
        >>> train(steps=100)
        goes on after 3 steps
        >>> train(steps=100)
        goes on after 8 steps
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        keep: int = 2,
        every: int | None = None,
        ranks: Ranks | None = None,
        **parts: Any,
    ) -> None:
        if keep < 1 or (every is not None and every < 1):
            raise ConfigError(f"keep is {keep!r}, every is {every!r}; expected numbers from 1")
        for name, part in parts.items():
            if part is not None and not hasattr(part, "load_state_dict"):
                raise ConfigError(
                    f"{name} is a {type(part).__name__}, which has no load_state_dict; expected a "
                    "model, optimizer, scheduler, scaler, loader or the like"
                )
        self.path, self.keep, self.every, self.steps = checkpoint.aim(path), keep, every, 0
        self.random_restored = False
        self._ranks = ranks
        self._parts = {n: _bare(part) for n, part in parts.items() if part is not None}
        self._begun, self._swept = False, False
        self._whole, self._seen = False, ""

    @property
    def ranks(self) -> Ranks:
        """The processes that train together."""
        return self._ranks or current()

    def step(self) -> None:
        """Count a step that has been learned from; save where it is the turn of one."""
        self.steps += 1
        if self.every and self.steps % self.every == 0:
            self.save()

    def save(self) -> None:
        """Write all parts; every rank calls it, after the same step, and the first one writes.

        Raises:
            StoreError: a part's state holds what a checkpoint cannot, the disk refuses, or the file
                is another run's: one that this run has not resumed from, or that writes meanwhile.
            DiskFullError: no space left; the file before is still there.
        """
        ranks = self.ranks
        state = {
            "steps": self.steps,
            "kinds": self._kinds(),
            "parts": {name: part.state_dict() for name, part in self._parts.items()},
            "random": {name: ranks.gather(state) for name, state in chance.states().items()},
        }
        if not ranks.first:
            return
        self._check_ours()
        if not self._swept:
            checkpoint.sweep(self.path)
        # Only a file that is known to be whole is worth keeping in the place of one before it.
        keep = self.keep if self._whole else 1
        try:
            self._seen = checkpoint.save(self.path, state, keep=keep)
        except StoreError:  # The new file may be there all the same.
            self._seen = checkpoint.label(self.path) or ""
            raise
        self._begun = self._swept = self._whole = True
        checkpoint.forget(self.path, self.keep)

    def _check_ours(self) -> None:
        """Write over nothing but what this run has read or written."""
        for age in range(1, self.keep):
            file = copies.older(self.path, age)
            if checkpoint.theirs(file, self.path):
                raise StoreError(
                    f"{file}, where an older file of {self.path} belongs, is another run's "
                    "checkpoint; give one of them another path"
                )
        if not self._begun and checkpoint.ages(self.path):
            raise StoreError(
                f"there is a checkpoint at {self.path} already, and this run has not begun from "
                "it; call resume() before training to go on from it, or discard() to start anew"
            )
        found = checkpoint.label(self.path)
        if found not in (None, self._seen):
            raise StoreError(
                f"{self.path} was written by another process since this run has read or written "
                "it; two runs cannot share a checkpoint: give one of them another path"
            )
        self._whole = self._whole and found is not None

    def discard(self) -> None:
        """Remove all files of this checkpoint, so that training starts anew; all ranks call it."""
        if self.ranks.first:
            checkpoint.forget(self.path, 0)
        self._begun, self._whole, self._seen, self.steps = True, False, "", 0

    def resume(self) -> bool:
        """Restore all parts from the newest whole file; False where there is none.

        All ranks call it. Random states are restored per rank where the number of ranks is that of
        the save; else the first one's goes to the first rank, and the others keep their own.

        Raises:
            StoreError: there are files, and none of them can be read.
            ResumeMismatch: the file is of another model, optimizer or loader, or the ranks do not
                see the same file.
        """
        ranks = self.ranks
        found = self._newest()
        self._agree(ranks, found)
        self._begun, self._whole = True, found is not None and found.age == 0
        if found is None:
            return False
        self._seen = found.label if self._whole else checkpoint.label(self.path) or ""
        file = copies.older(self.path, found.age)
        self._restore(str(file), found.state, ranks)
        log.info("resumed from %s after %d steps", file, self.steps)
        return True

    def _newest(self) -> _Found | None:
        """The newest file that is whole."""
        refused: StoreError | None = None
        for age in checkpoint.ages(self.path):
            file = copies.older(self.path, age)
            try:
                state, label = checkpoint.load_labelled(file)
            except StoreError as error:
                refused = refused or error
                continue
            if age:
                why = refused or f"there is no {self.path}"
                log.warning("%s; going on from %s, which was saved before it", why, file)
            return _Found(age, label, state)
        if refused:
            raise refused
        return None

    def _agree(self, ranks: Ranks, found: _Found | None) -> None:
        """Make sure that all ranks have read the same file."""
        mine = [found.age, int(found.label, 16) >> 1] if found else [-1, -1]
        every = ranks.gather(torch.tensor(mine))
        if (every != every[0]).any():
            raise ResumeMismatch(
                f"the ranks found different files at {self.path}: their (age, content) are "
                f"{every.tolist()}; put the checkpoint on a file system that all of them share"
            )

    def _restore(self, file: str, state: dict[Any, Any], ranks: Ranks) -> None:
        try:
            self._check_parts(file, state)
            for name, part in self._parts.items():
                part.load_state_dict(state["parts"][name])
                _check_kept(f"{name} of the checkpoint {file}", state["parts"][name], part)
            self.steps = int(state["steps"])
            self.random_restored = _restore_random(state["random"], ranks)
        except PantheonError:
            raise
        except (LookupError, RuntimeError, ValueError, TypeError, AttributeError) as error:
            raise ResumeMismatch(
                f"the checkpoint {file} does not fit this run: {error}; resume with the "
                "model and optimizer that it was saved with, or start with another checkpoint"
            ) from error

    def _kinds(self) -> dict[str, str]:
        """The types of the optimizers, which take over another one's state without a word."""
        return {
            name: type(part).__name__
            for name, part in self._parts.items()
            if isinstance(part, torch.optim.Optimizer)
        }

    def _check_parts(self, file: str, state: dict[Any, Any]) -> None:
        theirs, ours = sorted(state["parts"]), sorted(self._parts)
        if theirs != ours:
            raise ResumeMismatch(
                f"the checkpoint {file} holds {', '.join(theirs)}, this run has {', '.join(ours)}; "
                "resume with the same parts, or start with another checkpoint"
            )
        for name, kind in self._kinds().items():
            saved = state["kinds"].get(name)
            if saved != kind:
                raise ResumeMismatch(
                    f"the checkpoint {file} was saved with the {name} {saved}, this run has "
                    f"{kind}; resume with {saved}, or start with another checkpoint"
                )


def _check_kept(what: str, saved: Any, part: Any) -> None:
    """Make sure that a model or gradient scaler took over what torch would convert or pass over."""
    if isinstance(part, torch.amp.GradScaler) and saved and not part.is_enabled():
        raise ResumeMismatch(
            f"the {what} was enabled, this run's is not; construct it with enabled=True, or start "
            "with another checkpoint"
        )
    if not isinstance(part, torch.nn.Module):
        return
    for name, tensor in part.state_dict().items():
        before = getattr(saved.get(name), "dtype", None)
        now = getattr(tensor, "dtype", None)
        if before != now:
            raise ResumeMismatch(
                f"{name} in the {what} is of {before}, in this run's of {now}; convert it to the "
                "saved dtype before resume(), or start with another checkpoint"
            )


def _bare(part: Any) -> Any:
    """A model out of its wrappers, so that its names depend neither on ranks nor on a compiler."""
    while True:
        if isinstance(part, DataParallel | DistributedDataParallel):
            part = part.module
        elif isinstance(part, torch.nn.Module) and hasattr(part, "_orig_mod"):
            part = part._orig_mod
        else:
            return part


def _restore_random(saved: dict[str, Any], ranks: Ranks) -> bool:
    """Take up this rank's random states; False where they were saved by another number of ranks."""
    if len(saved["torch"]) != ranks.world and not ranks.first:
        return False
    chance.restore({name: states[ranks.rank] for name, states in saved.items()})
    return True
