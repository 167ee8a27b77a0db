"""Scoring a point: a short training on the stream, and the metric on a frozen slice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pantheon.compress.artifact import Artifact
from pantheon.compress.distil import Distil
from pantheon.compress.prune.recalibrating import recalibrate
from pantheon.compress.search.space import Point, Space
from pantheon.compress.search.task import Report
from pantheon.compress.stage import Work
from pantheon.compress.watcher import Watcher
from pantheon.stream import BatchStream
from pantheon.training.history import Epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortTraining:
    """Trains a point's model for a short while, and measures it.

    Every model learns from the same samples in the same order, from teachers or targets or both.
    Afterwards batch norms measure their statistics anew.

    Args:
        space: of the points.
        stage: the training; None where there is none.
        work: the streams, of which the training part is read from `start`, the metric, the seed of
            all that is random in a training, the device, and a folder for what a training leaves,
            which is removed afterwards.
        by: which of the metric's names tells how a training comes on.
        start: where the training part is read from.
        recalibrating: samples that batch norms measure; None where they do not.
    """

    space: Space
    stage: Distil | None
    work: Work
    by: str
    start: Mapping[str, Any]
    recalibrating: BatchStream | None = None

    def __call__(self, point: Point, report: Report) -> Mapping[str, float]:
        """The metric of a point's model on the validation part.

        Raises:
            DivergedError: losses or metrics are not finite.
        """
        return self.work.validate(self.trained(point, report).model)

    def trained(self, point: Point, report: Report) -> Artifact:
        """A point's model after its training."""
        artifact = self.space.artifact(point)
        artifact.model.to(self.work.device)
        if self.stage is not None:
            artifact = self._learned(self.stage, artifact, report)
        if self.recalibrating is not None:
            recalibrate(artifact.model, self.recalibrating, self.work.device)
        return artifact

    def _learned(self, stage: Distil, artifact: Artifact, report: Report) -> Artifact:
        self.work.parts.train.load_state_dict(self.start)
        self.work.folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=self.work.folder) as own:
            watcher = _Reporting(report, self.by, stage.epochs)
            return stage.run(
                artifact, replace(self.work, folder=Path(own), watcher=watcher)
            ).artifact


class _Reporting(Watcher):
    """Reports the metric of each epoch but the last, after which nothing can be saved."""

    def __init__(self, report: Report, by: str, epochs: int) -> None:
        self._report, self._by, self._epochs = report, by, epochs

    def epoch(self, epoch: Epoch) -> None:
        """Report an epoch's metric, which may end the training."""
        if self._by in epoch.metrics and epoch.epoch + 1 < self._epochs:
            self._report(epoch.epoch, epoch.metrics[self._by])
