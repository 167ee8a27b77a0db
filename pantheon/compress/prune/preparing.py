"""What every stage of pruning begins with: a model's groups, and its units in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from pantheon.compress.prune.cutting import Ranked
from pantheon.compress.prune.gradients import gradients
from pantheon.compress.prune.groups import Structure
from pantheon.compress.prune.ranking import Ranking
from pantheon.compress.stage import Work
from pantheon.compress.together import SEED, one_input
from pantheon.training.objective import Term


@dataclass(frozen=True, slots=True)
class Prepared:
    """A model, ready to be cut.

    Args:
        structure: its groups.
        rankings: of each group.
        samples: how many were read for it.
    """

    structure: Structure
    rankings: dict[str, Ranking]
    samples: int


def prepare(
    model: nn.Module, ranked: Ranked, losses: Sequence[Term], samples: int, work: Work
) -> Prepared:
    """Find the groups of a model and rank their units.

    Args:
        ranked: by what.
        losses: what gradients are taken of, where the criterion looks at them.
        samples: of the training part, for these, at most.
    """
    structure = ranked.structure(model, one_input(work))
    if not ranked.criterion.gradients:
        return Prepared(structure, ranked.rankings(structure, model, None, work.seed), 0)
    stream = work.parts.train.excerpt(samples, SEED)
    found = gradients(model, structure.groups, losses, stream, work.device)
    rankings = ranked.rankings(structure, model, found, work.seed)
    return Prepared(structure, rankings, found.samples)
