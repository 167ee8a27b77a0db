"""Students that learn from each other as well as from their losses."""

from __future__ import annotations

import torch
from torch import Tensor

from pantheon.errors import ConfigError
from pantheon.losses import MutualLearning
from pantheon.stream import Batch
from pantheon.training.learner import Outputs
from pantheon.training.objective import Objective, pick_output
from pantheon.training.ramp import Ramp


class Mutual:
    """An objective for a student and its peers, each of which also learns from the others.

    Deep mutual learning (Zhang et al., 2018): every student has the losses of `objective`, summed
    under their names, and as the addend ``"mutual"`` the mean divergence from the others, whose
    logits are held fixed for it.

    Args:
        objective: what each of them learns from alone.
        weight: factor of ``"mutual"``.
        temperature: of the softened outputs that are compared.
        output: which output of students that return a mapping.
    """

    def __init__(
        self,
        objective: Objective,
        weight: float | Ramp = 1.0,
        temperature: float = 1.0,
        output: str = "logits",
    ) -> None:
        if any(term.name == "mutual" for term in objective.terms):
            raise ConfigError("a loss is named 'mutual', as the peers' own loss is; rename it")
        self.objective, self.weight, self.output = objective, weight, output
        self.loss, self.epoch = MutualLearning(temperature), 0.0

    def __call__(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """The sums over all students, by name."""
        self.objective.epoch = self.epoch
        every = (outputs, *outputs.peers)
        losses = [self.objective(each, batch) for each in every]
        found = {name: torch.stack([one[name] for one in losses]).sum() for name in losses[0]}
        logits = [pick_output(each.output, self.output) for each in every]
        weight = self.weight.at(self.epoch) if isinstance(self.weight, Ramp) else self.weight
        found["mutual"] = weight * torch.stack(list(self.loss(logits, mask=batch.mask))).sum()
        return found

    def rows(self, batch: Batch) -> dict[str, int]:
        """How many rows each addend's mean is over, by name."""
        return self.objective.rows(batch) | {"mutual": int(batch.mask.sum())}
