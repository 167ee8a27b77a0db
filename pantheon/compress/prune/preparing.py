"""What every stage of pruning begins with: a model's groups, and its units in order."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pantheon.compress.prune.cutting import Ranked
from pantheon.compress.prune.gradients import gradients
from pantheon.compress.prune.groups import Structure
from pantheon.compress.prune.ranking import Ranking
from pantheon.compress.stage import Work
from pantheon.errors import CompressionError
from pantheon.sampling.reading import slice_rows
from pantheon.training.objective import Term
from pantheon.training.rehearsal import first_batch

SEED = 0
"""Of the samples that choices are made by: the same for all workers, stages and cycles."""


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


def one_input(work: Work, rows: int = 1) -> Any:
    """The inputs of a sample, or of several, on the stage's device."""
    stream = (work.parts.validation or work.parts.train).samples()
    return slice_rows(first_batch(stream).to(torch.device(work.device)).inputs, 0, rows)


def first_alone(work: Work, name: str, do: Callable[[], None]) -> None:
    """Have the first rank do what the others then read from the stage's folder.

    Only the first has the validation part, and the ranks read different samples: what is chosen by
    them is chosen once. The others wait as long as it takes.

    Args:
        name: of the file that is written last; where it is there, nothing is done.
        do: called with the folder made.

    Raises:
        CompressionError: on the other ranks, if the first one failed.
    """
    path, failed = work.folder / name, work.folder / f"{name}.failed"
    if work.ranks.first:
        work.folder.mkdir(parents=True, exist_ok=True)
        failed.unlink(missing_ok=True)
    work.ranks.gather(torch.zeros(1))
    if work.ranks.first:
        try:
            if not path.exists():
                do()
        except BaseException as error:
            if work.ranks.world > 1:
                failed.write_text(f"{type(error).__name__}: {error}")
            raise
    while not path.exists():
        if failed.exists():
            raise CompressionError(f"the first rank failed: {failed.read_text()}")
        time.sleep(0.1)
    work.ranks.gather(torch.zeros(1))
