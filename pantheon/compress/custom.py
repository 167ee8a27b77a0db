"""A stage of the user's own, from a function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from pantheon.compress.artifact import Artifact
from pantheon.compress.config import RunConfig
from pantheon.compress.stage import Cost, Outcome, Phase, Work
from pantheon.errors import CompressionError
from pantheon.reference import resolve


@dataclass(frozen=True, slots=True, kw_only=True)
class Custom:
    """Calls a function with the artifact, the `Work` and its arguments.

    Args:
        function: answers an `Outcome`, or the artifact alone.
        args: further keyword arguments.
        name: of the stage.
        phase: what it does to a model, for the rules of order.

    Example:
        >>> Custom(function=lambda artifact, work: artifact, name="look", phase="analyse").changes
        False
    """

    function: Callable[..., Outcome | Artifact]
    args: Mapping[str, Any] = field(default_factory=dict)
    name: str = "run"
    phase: Phase = "train"

    @property
    def changes(self) -> bool:
        """Analyses and exports leave the model as it is."""
        return self.phase not in ("analyse", "export")

    @classmethod
    def from_config(cls, config: RunConfig) -> Custom:
        """The stage that a configuration describes."""
        function = resolve(config.run, config.where("run"))
        name = config.name or config.run.rpartition(":")[2].rpartition(".")[2]
        return cls(function=function, args=config.args, name=name, phase=config.phase)

    def cost(self, samples: int) -> Cost:
        """Unknown; counted as nothing but the artifact."""
        return Cost()

    def check(self, model: nn.Module) -> None:
        """The function finds out for itself."""

    def run(self, artifact: Artifact, work: Work) -> Outcome:
        """Call the function, with torch's random numbers fixed by the stage's seed."""
        torch.manual_seed(work.seed)
        made = self.function(artifact, work, **self.args)
        if isinstance(made, Artifact):
            return Outcome(made)
        if not isinstance(made, Outcome):
            raise CompressionError(
                f"stage {self.name!r} answered a {type(made).__name__}; expected an Outcome, or an "
                "Artifact"
            )
        return made
