"""The one training loop, over any `BatchStream`."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from pantheon import copies
from pantheon.errors import ConfigError, ResumeMismatch
from pantheon.objective import call_student
from pantheon.ranks import Ranks
from pantheon.resuming import Checkpoint
from pantheon.sequence import NOTHING, extend
from pantheon.stream import Batch, BatchStream

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Step:
    """Where a run stands after a step.

    Args:
        epoch, step: both from 0; `step` counts within the epoch.
        epochs, steps: how many there are.
        done: steps since the run began or was resumed.
        samples: real rows since then.
        seconds, wait: since then, in all and waiting for the stream.
        loss: the step's loss on this rank, a scalar on the model's device.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    done: int
    samples: int
    seconds: float
    wait: float
    loss: Tensor

    @property
    def remaining(self) -> float:
        """Seconds until the end at the mean pace so far."""
        left = (self.epochs - self.epoch) * self.steps - self.step - 1
        return self.seconds / self.done * left


@dataclass(frozen=True, slots=True)
class Epoch:
    """What an epoch came to.

    Args:
        epoch: from 0.
        losses: mean over the epoch's steps, by term.
        metrics: what `evaluate` answered.
        seconds: of training, waiting included.
        wait: seconds waited for the stream.
        samples: real rows seen.
    """

    epoch: int
    losses: dict[str, float]
    metrics: dict[str, float]
    seconds: float
    wait: float
    samples: int


@dataclass(slots=True)
class _Running:
    """Sums over the epoch at hand, saved with a checkpoint in its middle."""

    steps: int = 0
    samples: int = 0
    seconds: float = 0.0
    wait: float = 0.0
    losses: dict[str, Tensor] = field(default_factory=dict)


class Training:
    """A student, a stream and an optimizer, run for some epochs.

    Args:
        model: the student; trained where its parameters are.
        stream: the batches. Its state is saved and restored with the model's.
        objective: named addends of the loss from the student's output and the batch, see
            `pantheon.objective.Objective`.
        optimizer: over the model's parameters.
        epochs: how many epochs there are in all.
        scheduler: stepped after every step, with `state_dict` and `load_state_dict`.
        evaluate: called after each epoch with the model in eval and inference mode.
        path: a checkpoint file, written after every epoch and every `every` steps.
        keep: how many checkpoint files are kept, see `pantheon.Checkpoint`.
        on_step, on_epoch: told of progress.
        ranks: the processes that train this student together, each with its part of every batch.
            A loss is the mean over the rows of all of them; the first rank evaluates and saves.

    Attributes:
        ids: a digest of the sequence of ids that the student has learned from, see
            `pantheon.sequence`.

    Raises:
        ConfigError: the path is a URL; from `run`, when the loss of an epoch is not finite.
        ResumeMismatch: from `run`, when the ranks stand at different steps.
    """

    def __init__(
        self,
        model: nn.Module,
        stream: BatchStream,
        objective: Callable[[Any, Batch], Mapping[str, Tensor]],
        optimizer: torch.optim.Optimizer,
        *,
        epochs: int,
        scheduler: Any = None,
        evaluate: Callable[[nn.Module], Mapping[str, float]] | None = None,
        path: str | os.PathLike[str] | None = None,
        every: int | None = None,
        keep: int = 2,
        on_step: Callable[[Step], None] | None = None,
        on_epoch: Callable[[Epoch], None] | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        self.ranks, self.ids, self._resumed = ranks or Ranks(), NOTHING, False
        self.model, self.stream, self.objective = model, stream, objective
        self.optimizer, self.scheduler = optimizer, scheduler
        self.epochs, self.evaluate = epochs, evaluate
        self.path, self.every = None if path is None else copies.local(path), every
        self.keep = keep
        self._checkpoint: Checkpoint | None = None
        self.on_step, self.on_epoch = on_step, on_epoch
        self.history: list[Epoch] = []
        self.device = next((p.device for p in model.parameters()), torch.device("cpu"))
        self._running = _Running()
        self._samples, self._done, self._wait, self._began = 0, 0, 0.0, 0.0

    def run(self) -> list[Epoch]:
        """Train to the last epoch's end; answers what every epoch came to."""
        self._start_together()
        self._began = time.perf_counter()
        while len(self.history) < self.epochs:
            self._epoch()
            if self.path:
                self.save()
        return self.history

    def _start_together(self) -> None:
        """Begin with the same weights at the same step, and with random numbers of its own."""
        at = self.ranks.gather(torch.tensor([len(self.history), self._running.steps]))
        if (at != at[0]).any():
            raise ResumeMismatch(
                f"the ranks stand at different (epoch, step): {at.tolist()}; the checkpoint "
                f"{self.path} must be on a file system that all of them share"
            )
        self.ranks.align(self.model)
        if not self._resumed and not self.ranks.first:
            torch.manual_seed(torch.initial_seed() + self.ranks.rank)

    def _epoch(self) -> None:
        self.model.train()
        for batch in self._timed(iter(self.stream)):
            self._step(batch)
            if self.path and self.every and self._running.steps % self.every == 0:
                self.save()
        self._close_epoch()

    def _timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches, counting the time until each arrives and until it is done with."""
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            waited = time.perf_counter() - asked
            self._wait += waited
            self._running.wait += waited
            if batch is None:
                return
            yield batch
            self._running.seconds += time.perf_counter() - asked

    def _step(self, batch: Batch) -> None:
        here = batch.ids.masked_fill(~batch.mask, -1)
        batch = batch.to(self.device) if self.device.type != "cpu" else batch
        if hasattr(self.objective, "epoch"):
            self.objective.epoch = len(self.history) + self._running.steps / len(self.stream)
        losses = self.objective(call_student(self.model, batch.inputs), batch)
        loss = torch.stack(tuple(losses.values())).sum()
        ids, parts = self._together(here.cpu(), losses, batch)
        self.optimizer.zero_grad(set_to_none=True)
        part = torch.stack(tuple(parts.values())).sum()
        part.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
        self.ranks.sum_gradients(self.model.parameters())
        self.optimizer.step()
        if self.scheduler is not None:
            self.scheduler.step()
        self._count(parts, ids)
        if self.on_step:
            self.on_step(self._progress(loss.detach()))

    def _together(
        self, here: Tensor, losses: Mapping[str, Tensor], batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The ids of all ranks, and this rank's part of each term's mean over all their rows."""
        if self.ranks.world == 1:
            return here[here >= 0], dict(losses)
        counted = getattr(self.objective, "rows", None)
        rows = counted(batch) if counted else dict.fromkeys(losses, int((here >= 0).sum()))
        mine = torch.tensor([rows[name] for name in losses])
        every = self.ranks.gather(torch.cat([mine, here]))
        counts, ids = every[:, : len(mine)], every[:, len(mine) :].flatten()
        shares = (mine / counts.sum(dim=0).clamp(min=1)).tolist()
        return ids[ids >= 0], {
            name: loss * share for (name, loss), share in zip(losses.items(), shares, strict=True)
        }

    def _count(self, losses: Mapping[str, Tensor], ids: Tensor) -> None:
        sums, samples = self._running.losses, len(ids)
        self.ids = extend(self.ids, ids)
        for name, value in losses.items():
            sums[name] = sums.get(name, torch.zeros((), device=value.device)) + value.detach()
        self._running.steps += 1
        self._running.samples += samples
        self._samples += samples
        self._done += 1

    def _progress(self, loss: Tensor) -> Step:
        return Step(
            epoch=len(self.history),
            epochs=self.epochs,
            step=self._running.steps - 1,
            steps=len(self.stream),
            done=self._done,
            samples=self._samples,
            seconds=time.perf_counter() - self._began,
            wait=self._wait,
            loss=loss,
        )

    def _close_epoch(self) -> None:
        running, self._running = self._running, _Running()
        sums = self._sums(running)
        losses = {name: float(s) / max(running.steps, 1) for name, s in sums.items()}
        number = len(self.history)
        if not all(map(math.isfinite, losses.values())):
            raise ConfigError(
                f"the loss of epoch {number} is not finite: {losses}; expected finite losses: "
                "lower the learning rate, or look at the inputs"
            )
        epoch = Epoch(
            number, losses, self._metrics(), running.seconds, running.wait, running.samples
        )
        self.history.append(epoch)
        if self.on_epoch:
            self.on_epoch(epoch)

    def _sums(self, running: _Running) -> dict[str, Tensor]:
        """Each term's sum over the ranks."""
        if self.ranks.world == 1 or not running.losses:
            return running.losses
        mine = torch.stack([value.cpu() for value in running.losses.values()])
        return dict(zip(running.losses, self.ranks.gather(mine).sum(dim=0), strict=True))

    def _metrics(self) -> dict[str, float]:
        if self.evaluate is None or not self.ranks.first:
            return {}
        self.model.eval()
        with torch.inference_mode():
            return {name: float(value) for name, value in self.evaluate(self.model).items()}

    def save(self) -> None:
        """Write model, optimizer, scheduler, stream and random state to `path`, atomically.

        All ranks call it, and the first one writes.
        """
        kept = self._kept()
        kept.steps = len(self.history) * len(self.stream) + self._running.steps
        kept.save()

    def resume(self) -> bool:
        """Continue from the checkpoint at `path`; False when there is none.

        Raises:
            StoreError: the file cannot be read.
            ResumeMismatch: the checkpoint is of another model, optimizer or stream.
        """
        if self.path is None or not self._kept().resume():
            return False
        self._resumed = self._kept().random_restored
        if not self.ranks.first:  # the first rank goes on with the sums of all
            self._running.losses = {k: torch.zeros_like(v) for k, v in self._running.losses.items()}
        log.info("%d epochs are done", len(self.history))
        return True

    def discard(self) -> None:
        """Remove the checkpoint at `path`, if there is one, to start anew; all ranks call it."""
        if self.path is not None:
            self._kept().discard()

    def _kept(self) -> Checkpoint:
        """The checkpoint, made when it is first used."""
        if self.path is None:
            raise ConfigError("this training has no path for its checkpoint; give it one")
        if self._checkpoint is None:
            self._checkpoint = Checkpoint(
                self.path,
                keep=self.keep,
                ranks=self.ranks,
                model=self.model,
                optimizer=self.optimizer,
                scheduler=self.scheduler,
                stream=self.stream,
                progress=_Progress(self),
            )
        return self._checkpoint


class _Progress:
    """How far a training is, as a part of its checkpoint."""

    def __init__(self, training: Training) -> None:
        self._training = training

    def state_dict(self) -> dict[str, Any]:
        run = self._training
        running = replace(run._running, losses=run._sums(run._running))
        return {
            "ids": run.ids,
            "history": [asdict(epoch) for epoch in run.history],
            "running": {name: getattr(running, name) for name in _Running.__slots__},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        run = self._training
        run.ids, run._running = state["ids"], _Running(**state["running"])
        run.history = [Epoch(**epoch) for epoch in state["history"]]
