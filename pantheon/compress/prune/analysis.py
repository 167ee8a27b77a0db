"""The stage that measures sensitivity and leaves the model as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from torch import nn

from pantheon.compress.artifact import Artifact
from pantheon.compress.distil import check_layers
from pantheon.compress.prune.building import losses_from, ranked_from, scan_from
from pantheon.compress.prune.config import SensitivityConfig
from pantheon.compress.prune.cutting import Ranked
from pantheon.compress.prune.preparing import prepare
from pantheon.compress.prune.scanning import FILE, Scan
from pantheon.compress.run_folder import read_json, write_json
from pantheon.compress.stage import Cost, Outcome, Phase, Work
from pantheon.compress.together import first_alone
from pantheon.training.objective import Term

TOLD = "measured.json"
"""What the report says, written when all is measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalyseSensitivity:
    """Measures what a model loses when one group loses channels, for each group.

    Args:
        ranked: by what units are ranked, and which layers take part.
        scan: how it is measured.
        losses, samples: for criteria that look at gradients.
        name: of the stage.
    """

    ranked: Ranked
    scan: Scan = field(default_factory=Scan)
    losses: Sequence[Term] = ()
    samples: int = 1024
    name: str = "sensitivity"

    phase: Phase = field(default="analyse", init=False)
    changes: bool = field(default=False, init=False)

    @classmethod
    def from_config(cls, config: SensitivityConfig) -> AnalyseSensitivity:
        """The stage that a configuration describes."""
        ranked = ranked_from(config)
        return cls(
            ranked=ranked,
            scan=scan_from(config, config.part),
            losses=losses_from(config, ranked),
            samples=config.samples,
            name=config.name or "sensitivity",
        )

    def cost(self, samples: int) -> Cost:
        """What gradients read; of the validation part is read far more."""
        return Cost(samples=min(self.samples, samples) if self.ranked.criterion.gradients else 0)

    def check(self, model: nn.Module) -> None:
        """Make sure that patterns match modules of the model."""
        self.ranked.check(model, self.name)
        self.scan.check(self.name)
        check_layers(model, self.losses, self.name)

    def run(self, artifact: Artifact, work: Work) -> Outcome:
        """Measure what the stage's folder does not hold yet."""
        first_alone(work, TOLD, partial(self._measure, artifact, work))
        told = read_json(work.folder / TOLD)
        return Outcome(
            artifact,
            samples=told.pop("samples"),
            figures={"pruning": told},
            files={"table": FILE},
        )

    def _measure(self, artifact: Artifact, work: Work) -> None:
        ready = prepare(artifact.model, self.ranked, self.losses, self.samples, work)
        table = self.scan.measure(work, artifact, ready.structure, ready.rankings, self.ranked.name)
        told = {
            "sensitivity": table.to_json(),
            "excluded": dict(ready.structure.excluded),
            "samples": ready.samples,
        }
        write_json(work.folder / TOLD, told)
