"""The pruning stage: channels go until a target is reached, at once or in cycles of training."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from torch import nn

from pantheon.compress.artifact import Artifact
from pantheon.compress.distil import Distil, check_layers
from pantheon.compress.prune.building import losses_from, ranked_from, scan_from
from pantheon.compress.prune.config import PruneConfig
from pantheon.compress.prune.costs import SLOW, Of, cost_of
from pantheon.compress.prune.curves import Sensitivity, by_sensitivity
from pantheon.compress.prune.cutting import Ranked, cut
from pantheon.compress.prune.groups import Structure
from pantheon.compress.prune.preparing import prepare
from pantheon.compress.prune.ranking import Level, Ranking, chosen, energy, everywhere, uniform
from pantheon.compress.prune.reaching import HALVINGS, Reached
from pantheon.compress.prune.recalibrating import recalibrate
from pantheon.compress.prune.scanning import Scan
from pantheon.compress.run_folder import read_json, write_json
from pantheon.compress.stage import Cost, Outcome, Phase, Work
from pantheon.compress.together import SEED, first_alone, one_input
from pantheon.errors import CompressionError
from pantheon.training.history import Epoch
from pantheon.training.objective import Term

CUT = "cut.json"
"""What was removed, written when what is left of the model is there, in ``cut``."""

FEW = 8
"""Halvings of the level where a cost takes long to measure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prune:
    """Removes channels and all that depends on them.

    Args:
        ranked: by what units are ranked, and which layers take part.
        strategy: how a cut is shared out: ``"uniform"``, the same fraction of every group;
            ``"global"``, the lowest scores of all; ``"energy"``, what holds the same fraction of
            each group's squared scores; ``"sensitivity"``, what costs the same loss.
        remove: the fraction of `of` that goes; None where `ratios` say everything.
        of: of what.
        ratios: by pattern, fractions of the channels of some layers that go whatever the target.
        losses: what criteria take gradients of.
        samples: of the training part, for gradients and for batch norms, at most.
        recalibrated: whether batch norms measure their statistics anew after a cut.
        scan: how sensitivity is measured.
        cycles: in how many cuts.
        distil: trained after each cut; None to cut only.
        name: of the stage.
    """

    ranked: Ranked
    strategy: str = "uniform"
    remove: float | None = None
    of: Of = "macs"
    ratios: Mapping[str, float] = field(default_factory=dict)
    losses: Sequence[Term] = ()
    samples: int = 1024
    recalibrated: bool = True
    scan: Scan = field(default_factory=Scan)
    cycles: int = 1
    distil: Distil | None = None
    name: str = "prune"

    phase: Phase = field(default="prune", init=False)
    changes: bool = field(default=True, init=False)

    @classmethod
    def from_config(cls, config: PruneConfig) -> Prune:
        """The stage that a configuration describes."""
        ranked = ranked_from(config)
        losses = losses_from(config, ranked)
        return cls(
            ranked=ranked,
            strategy=config.strategy,
            remove=config.remove,
            of=config.of,
            ratios=config.ratios,
            losses=losses,
            samples=config.samples,
            recalibrated=config.recalibrate,
            scan=scan_from(config.sensitivity),
            cycles=config.cycles or config.fewest,
            distil=None if config.distil is None else Distil.from_learning(config.distil),
            name=config.name or "prune",
        )

    def cost(self, samples: int) -> Cost:
        """Its training's, once for each cut, and what gradients and batch norms read."""
        read = min(self.samples, samples) * (self.recalibrated + bool(self.losses)) * self.cycles
        if self.distil is None:
            return Cost(samples=read, copies=2)
        once = self.distil.cost(samples)
        return Cost(self.cycles * once.epochs, self.cycles * once.samples + read, once.copies + 1)

    def check(self, model: nn.Module) -> None:
        """Make sure that patterns match modules of the model."""
        self.ranked.check(model, self.name, self.ratios)
        self.scan.check(self.name)
        check_layers(model, self.losses, self.name)
        if self.distil is not None:
            self.distil.check(model)

    def run(self, artifact: Artifact, work: Work) -> Outcome:
        """Cut, and train after each cut; what is done is not done again."""
        start = work.parts.train.state_dict()
        whole = copy.deepcopy(artifact.model)
        cycles: list[dict[str, Any]] = []
        history: list[Epoch] = []
        for number in range(1, self.cycles + 1):
            if self.cycles > 1:
                work.watcher.say(f"cycle {number} of {self.cycles}")
            here = replace(
                work, folder=work.folder / f"cycle-{number}", seed=work.seed + 1000 * number
            )
            left = None if self.remove is None else (1 - self.remove) ** (number / self.cycles)
            asked = self if number == 1 else self._further()
            first_alone(here, CUT, partial(asked._cut, artifact, here, whole, left))
            told = read_json(here.folder / CUT)
            artifact = Artifact.load(here.folder / "cut", work.device)
            if self.distil is not None:
                # Each cycle reads as the stage began, whether those before it ran just now.
                work.parts.train.load_state_dict(start)
                trained = self.distil.run(artifact, here)
                told["samples"] += trained.samples
                history += trained.history
            cycles.append(told)
        return Outcome(
            artifact,
            samples=sum(cycle["samples"] for cycle in cycles),
            history=tuple(history),
            figures={
                "pruning": {
                    "criterion": self.ranked.name,
                    "strategy": self.strategy,
                    "remove": self.remove,
                    "of": self.of,
                    "cycles": cycles,
                }
            },
        )

    def _further(self) -> Prune:
        """The stage in its later cycles, whose model no other worker has measured."""
        return replace(self, scan=replace(self.scan, tables=()))

    def _cut(self, artifact: Artifact, work: Work, whole: nn.Module, left: float | None) -> None:
        """Cut once, and write down what is left and what was removed."""
        rows = work.timing.batch if self.of == "latency" else 1
        cost = cost_of(self.of, whole, one_input(work, rows), work.timing)
        ready = prepare(artifact.model, self.ranked, self.losses, self.samples, work)
        structure, rankings = ready.structure, ready.rankings
        table = None
        if self.strategy == "sensitivity":
            table = self.scan.measure(work, artifact, structure, rankings, self.ranked.name)
        halvings = FEW if self.of in SLOW else HALVINGS
        level = self._level(rankings, table)
        # In all cycles together a ratio is what was asked for.
        ratios = {p: 1 - (1 - r) ** (1 / self.cycles) for p, r in self.ratios.items()}
        reached = cut(structure, rankings, level, cost, left, ratios, halvings)
        gone = chosen(rankings, reached.counts)
        if not gone:
            raise CompressionError(
                f"stage {self.name!r} found no channel to remove: the target is nearer to the "
                "whole model than to the smallest cut; remove more, or align to fewer channels"
            )
        artifact.edit(structure.edit(gone))
        read = 0
        if self.recalibrated:
            stream = work.parts.train.excerpt(self.samples, SEED).samples()
            read = recalibrate(artifact.model, stream, work.device)
        artifact.save(work.folder / "cut")
        told = {
            "left": reached.left,
            "samples": read + ready.samples,
            "recalibrated": read,
            "widths": _widths(structure, reached, rankings),
            "excluded": dict(structure.excluded),
            "sensitivity": table and table.to_json(),
        }
        write_json(work.folder / CUT, told)
        work.watcher.say(f"{reached.left:.1%} of {self.of} are left")

    def _level(self, rankings: Mapping[str, Ranking], table: Sensitivity | None) -> Level:
        if table is not None:
            return by_sensitivity(rankings, table)
        if self.strategy == "global":
            return everywhere(rankings, self.ranked.criterion.across)
        return energy(rankings) if self.strategy == "energy" else uniform(rankings)


def _widths(
    structure: Structure, reached: Reached, rankings: Mapping[str, Ranking]
) -> dict[str, list[int]]:
    """Channels of each layer before and after."""
    found: dict[str, list[int]] = {}
    for name, group in structure.groups.items():
        for rows in group.makers:
            size = structure.dependencies.size(rows.path)
            lost = set(rankings[name].order[: reached.counts[name]])
            gone = sum(unit in lost for unit in rows.units)
            before, after = found.get(rows.path, [size, size])
            found[rows.path] = [before, after - gone]
    return found
