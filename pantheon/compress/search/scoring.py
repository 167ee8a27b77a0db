"""Scoring a point: a short training on the stream, and the metric on a frozen slice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pantheon.compress.artifact import Artifact
from pantheon.compress.distil import Distil
from pantheon.compress.prune.recalibrating import recalibrate
from pantheon.compress.search.space import Point, Space
from pantheon.compress.search.task import Report
from pantheon.compress.stage import Metric, Work
from pantheon.compress.together import SEED
from pantheon.compress.watcher import Watcher
from pantheon.stream import Parts
from pantheon.training.history import Epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortTraining:
    """Trains a point's model for a short while, and measures it.

    Every model learns from the same samples in the same order, from teachers or targets or both.
    Afterwards batch norms measure their statistics anew.

    Args:
        space: of the points.
        stage: the training.
        parts: the streams. The training part is read from where it stands now.
        metric: called with a model and samples; answers numbers by name.
        by: which of these tells how a training comes on.
        folder: for what a training leaves, which is removed afterwards.
        seed: of all that is random in a training.
        device: where to compute.
        recalibrated: samples of the training part that batch norms measure.
    """

    space: Space
    stage: Distil
    parts: Parts
    metric: Metric
    by: str
    folder: Path
    start: Mapping[str, Any]
    seed: int = 0
    device: str = "cpu"
    recalibrated: int = 1024

    def __call__(self, point: Point, report: Report) -> Mapping[str, float]:
        """The metric of a point's model on the validation part.

        Raises:
            DivergedError: losses or metrics are not finite.
        """
        return self.trained(point, report)[1]

    def trained(self, point: Point, report: Report) -> tuple[Artifact, Mapping[str, float]]:
        """A point's model after its training, and the metric."""
        artifact = self.space.artifact(point)
        artifact.model.to(self.device)
        self.parts.train.load_state_dict(self.start)
        self.folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=self.folder) as own:
            work = Work(
                folder=Path(own),
                parts=self.parts,
                metric=self.metric,
                seed=self.seed,
                device=self.device,
                watcher=_Reporting(report, self.by, self.stage.epochs),
            )
            artifact = self.stage.run(artifact, work).artifact
        stream = self.parts.train.excerpt(self.recalibrated, SEED).samples()
        recalibrate(artifact.model, stream, self.device)
        return artifact, work.validate(artifact.model)


class _Reporting(Watcher):
    """Reports the metric of each epoch but the last, after which nothing can be saved."""

    def __init__(self, report: Report, by: str, epochs: int) -> None:
        self._report, self._by, self._epochs = report, by, epochs

    def epoch(self, epoch: Epoch) -> None:
        """Report an epoch's metric, which may end the training."""
        if self._by in epoch.metrics and epoch.epoch + 1 < self._epochs:
            self._report(epoch.epoch, epoch.metrics[self._by])
