"""Measuring sensitivity: one group loses channels at a time, and all points are kept as found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from torch import nn

from pantheon.compress.artifact import Artifact
from pantheon.compress.prune.curves import RATIOS, Sensitivity, points_to_measure
from pantheon.compress.prune.groups import Structure
from pantheon.compress.prune.ranking import Ranking, chosen, digest
from pantheon.compress.run_folder import read_json, write_json
from pantheon.compress.stage import Work
from pantheon.compress.worth import KL, Worth, worth_of
from pantheon.errors import ConfigError

FILE = "sensitivity.json"

GAIN = 0.1
"""Fraction of a metric that no layer gains by losing channels, where it is read the right way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """How sensitivity is measured.

    Args:
        by: a metric's name, ``"kl"``, or None for the first that the metric answers, else kl.
        ratios: fractions of a group's units.
        samples: of the validation part; None for all.
        tables: files that other workers have measured.
        part: ``(i, n)``: this is worker i of n, from 0.
        lower: whether less of the metric is better.
    """

    by: str | None = None
    ratios: Sequence[float] = RATIOS
    samples: int | None = None
    tables: Sequence[Path] = ()
    part: tuple[int, int] = (0, 1)
    lower: bool = False

    def measure(
        self,
        work: Work,
        artifact: Artifact,
        structure: Structure,
        rankings: Mapping[str, Ranking],
        ranked: str,
    ) -> Sensitivity:
        """The table of a model, from the stage's folder as far as it is there.

        A point is written as soon as it is measured, so that none is measured twice.

        Args:
            ranked: the criterion's name.

        Raises:
            ResumeMismatch: a table that is there is of another measurement.
            ConfigError: see `worth_of`; a worker's table lacks points that are needed.
        """
        worth = worth_of(work, artifact.model, self.by, self.samples, self.lower)
        told = (artifact.digest(), worth.by, ranked, digest(rankings), worth.samples)
        table = _begun(work.folder / FILE, told, worth, artifact.model)
        for path in self.tables:
            other = Sensitivity.from_json(read_json(path))
            table.merge(other)
        missing = points_to_measure(table, rankings, self.ratios, self.part)
        for number, (name, ratio) in enumerate(missing, 1):
            counts = {name: rankings[name].allowed(ratio * rankings[name].units)}
            found = worth.measure(structure.pruned(chosen(rankings, counts)))
            table.add(name, ratio, worth.lost(table.base, found))
            write_json(work.folder / FILE, table.to_json())
            work.watcher.say(
                f"sensitivity {number} of {len(missing)}: {name} without {ratio:.0%} of its "
                f"channels: {worth.by} {found:.4g}"
            )
        self._require_losses(table)
        return table

    def check(self, stage: str) -> None:
        """Make sure that other workers' tables are there.

        Raises:
            ConfigError: one is not.
        """
        for path in self.tables:
            if not path.exists():
                raise ConfigError(f"stage {stage!r}: there is no table {path}; measure it first")

    def _require_losses(self, table: Sensitivity) -> None:
        """Make sure that a metric is not taken for one of the other direction.

        Raises:
            ConfigError: layers gain much from losing most of their channels.
        """
        last = [points[-1][1] for points in table.points.values() if points[-1][0] >= 0.5]
        if last and median(last) < -GAIN:
            other = "false" if self.lower else "true"
            raise ConfigError(
                f"without most of their channels, layers have a {table.by} that is better by "
                f"{-median(last):.0%} in the median; is it the other way round? then say "
                f"lower_is_better: {other}"
            )


def _begun(
    path: Path, told: tuple[str, str, str, str, int], worth: Worth, model: nn.Module
) -> Sensitivity:
    """The table that is there, or one with the whole model's metric alone."""
    if path.exists():
        table = Sensitivity.from_json(read_json(path))
        table.require(*told)
        return table
    table = Sensitivity(*told, base=0.0 if worth.by == KL else worth.measure(model))
    write_json(path, table.to_json())
    return table
