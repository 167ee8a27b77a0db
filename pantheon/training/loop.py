"""The one training loop, over any `BatchStream`."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from pantheon.errors import ConfigError, DivergedError, ResumeMismatch
from pantheon.ranks import Ranks
from pantheon.sampling.sequence import NOTHING, extend
from pantheon.saving import copies
from pantheon.saving.resuming import Checkpoint
from pantheon.stream import Batch, BatchStream
from pantheon.training.average import Average
from pantheon.training.history import Epoch as Epoch
from pantheon.training.history import Running
from pantheon.training.history import Step as Step
from pantheon.training.learner import student_of
from pantheon.training.numerics import Numerics
from pantheon.training.settings import TrainingSettings
from pantheon.training.weighing import weigh

log = logging.getLogger(__name__)


class Training:
    """A student, a stream and an optimizer, run for some epochs.

    Args:
        model: the student; trained where its parameters are.
        stream: the batches. Its state is saved and restored with the model's.
        objective: named addends of the loss from the student's output and the batch, see
            `pantheon.training.objective.Objective`.
        optimizer: over the model's parameters.
        epochs: how many epochs there are in all.
        scheduler: stepped after every step, with `state_dict` and `load_state_dict`.
        settings: how steps are computed, see `TrainingSettings`.
        evaluate: called after each epoch with `final_model` in eval and inference mode.
        path: a checkpoint file, written after every epoch and every `every` steps.
        keep: how many checkpoint files are kept, see `pantheon.Checkpoint`.
        on_step, on_epoch: told of progress.
        ranks: the processes that train this student together, each with its part of every batch.
            A loss is the mean over the rows of all of them; the first rank evaluates and saves.

    Attributes:
        ids: a digest of the sequence of ids that the student has learned from, see
            `pantheon.sampling.sequence`.
        average: of the student's weights, see `TrainingSettings.ema`; None without one.

    Raises:
        ConfigError: the path is a URL, or settings that do not fit the model or its device; from
            `run`, when the loss of an epoch is not finite.
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
        settings: TrainingSettings = TrainingSettings(),  # noqa: B008  # it is frozen
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
        self.settings, self._numerics = settings, Numerics(settings, model, self.device)
        self.average = None if settings.ema is None else Average(student_of(model), settings.ema)
        self._running = Running()
        self._samples, self._done, self._wait, self._began = 0, 0, 0.0, 0.0

    @property
    def final_model(self) -> nn.Module:
        """What is trained in the end: the student without what learns at its side, or its average.

        See `pantheon.training.learner.Learner` and `TrainingSettings.ema`.
        """
        return student_of(self.model) if self.average is None else self.average.module

    @property
    def steps(self) -> int:
        """The steps of an epoch."""
        return self.settings.steps(len(self.stream))

    def run(self) -> list[Epoch]:
        """Train to the last epoch's end; answers what every epoch came to."""
        self._start_together()
        self._began = time.perf_counter()
        while len(self.history) < self.epochs:
            self._epoch()
            if self.path:
                self.save()
        self._numerics.finish(self.model, self.final_model)
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
        for group in self._timed(iter(self.stream)):
            self._step(*group)
            # Fewer batches mean that the stream stands at the next epoch, which this one is not.
            whole = len(group) == self.settings.accumulate
            if self.path and self.every and whole and self._running.steps % self.every == 0:
                self.save()
        self._close_epoch()

    def _timed(self, batches: Iterator[Batch]) -> Iterator[list[Batch]]:
        """The batches of each step, counting the time until they arrive and are done with."""
        while True:
            asked = time.perf_counter()
            group = list(islice(batches, self.settings.accumulate))
            waited = time.perf_counter() - asked
            self._wait += waited
            self._running.wait += waited
            if not group:
                return
            yield group
            self._running.seconds += time.perf_counter() - asked

    def _step(self, *group: Batch) -> None:
        if hasattr(self.objective, "epoch"):
            self.objective.epoch = len(self.history) + self._running.steps / self.steps
        ids, shares = weigh(group, self.objective, self.ranks)
        self.optimizer.zero_grad(set_to_none=True)
        found = [self._learn(batch, shares[i] if shares else None) for i, batch in enumerate(group)]
        self.ranks.sum_gradients(self.model.parameters())
        self._numerics.update(self.optimizer)
        if self.scheduler is not None:
            self.scheduler.step()
        if self.average is not None:
            self.average.update_parameters(student_of(self.model))
        self._count([parts for _, parts in found], ids)
        if self.on_step:
            self.on_step(self._progress([loss for loss, _ in found]))

    def _learn(
        self, batch: Batch, shares: Mapping[str, float] | None
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Add a batch's gradients; its loss, and its part of each term's mean over the step."""
        batch = batch.to(self.device) if self.device.type != "cpu" else batch
        losses = self.objective(self._numerics.forward(self.model, batch.inputs), batch)
        parts = losses
        if shares is not None:
            parts = {name: loss * shares[name] for name, loss in losses.items()}
        self._numerics.backward(_sum(parts))
        with torch.no_grad():
            return _sum(losses), {name: part.detach() for name, part in parts.items()}

    def _count(self, every: Sequence[Mapping[str, Tensor]], ids: Tensor) -> None:
        sums, samples = self._running.losses, len(ids)
        self.ids = extend(self.ids, ids)
        for losses in every:
            for name, value in losses.items():
                sums[name] = sums.get(name, torch.zeros((), device=value.device)) + value
        self._running.steps += 1
        self._running.samples += samples
        self._samples += samples
        self._done += 1

    def _progress(self, losses: Sequence[Tensor]) -> Step:
        return Step(
            epoch=len(self.history),
            epochs=self.epochs,
            step=self._running.steps - 1,
            steps=self.steps,
            done=self._done,
            samples=self._samples,
            seconds=time.perf_counter() - self._began,
            wait=self._wait,
            loss=torch.stack(tuple(losses)).mean(),
        )

    def _close_epoch(self) -> None:
        running, self._running = self._running, Running()
        sums = self._sums(running)
        losses = {name: float(s) / max(running.steps, 1) for name, s in sums.items()}
        number = len(self.history)
        if not all(map(math.isfinite, losses.values())):
            raise DivergedError(
                f"the loss of epoch {number} is not finite: {losses}; expected finite losses: "
                "lower the learning rate, or look at the inputs"
            )
        epoch = Epoch(
            number, losses, self._metrics(), running.seconds, running.wait, running.samples
        )
        self.history.append(epoch)
        if self.on_epoch:
            self.on_epoch(epoch)

    def _sums(self, running: Running) -> dict[str, Tensor]:
        """Each term's sum over the ranks."""
        if self.ranks.world == 1 or not running.losses:
            return running.losses
        mine = torch.stack([value.cpu() for value in running.losses.values()])
        return dict(zip(running.losses, self.ranks.gather(mine).sum(dim=0), strict=True))

    def _metrics(self) -> dict[str, float]:
        if self.evaluate is None or not self.ranks.first:
            return {}
        self.model.eval()
        model = self.final_model.eval()
        with torch.no_grad():  # What a module keeps from an inference could not be trained with.
            return {name: float(value) for name, value in self.evaluate(model).items()}

    def save(self) -> None:
        """Write model, optimizer, scheduler, stream and random state to `path`, atomically.

        All ranks call it, and the first one writes.
        """
        kept = self._kept()
        kept.steps = len(self.history) * self.steps + self._running.steps
        kept.save()

    def resume(self) -> bool:
        """Continue from the checkpoint at `path`; False when there is none.

        Raises:
            StoreError: the file cannot be read.
            ResumeMismatch: the checkpoint is of another model, optimizer or stream.
        """
        if self.path is None or not self._kept().resume():
            return False
        self._numerics.settle(self.optimizer)
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
                average=self.average,
                scaler=self._numerics.scaler,
                optimizer=self.optimizer,
                scheduler=self.scheduler,
                stream=self.stream,
                progress=_Progress(self),
            )
        return self._checkpoint


def _sum(losses: Mapping[str, Tensor]) -> Tensor:
    return torch.stack(tuple(losses.values())).sum()


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
            "running": {name: getattr(running, name) for name in Running.__slots__},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        run = self._training
        run.ids, run._running = state["ids"], Running(**state["running"])
        run.history = [Epoch(**epoch) for epoch in state["history"]]
