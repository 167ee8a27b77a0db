"""The space of what a model can be pruned to: how much of each group of channels is left."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pantheon.compress.artifact import Artifact
from pantheon.compress.prune.groups import Structure
from pantheon.compress.prune.ranking import Ranking, chosen, digest
from pantheon.compress.search.space import Choice, Point, check_choices, highest
from pantheon.errors import ConfigError


@dataclass(frozen=True)
class PruningSpace:
    """Cuts of one model: automatic pruning (He et al., "AMC", 2018, search with an agent).

    There is a choice for each group of channels that go together, named by the path of the first
    layer that makes them. Its values are the fractions of the group that are left; the units that
    score least go first. Weights are those of the model.

    Args:
        base: the model, which stays as it is.
        structure: its groups.
        rankings: of each group.
        left: fractions that may be left, above 0 and at most 1.

    Raises:
        ConfigError: no group, fractions that cannot be, or of which no group can make anything.

    Example:
        >>> import torch
        >>> from pantheon.compress.prune.cutting import Ranked
        >>> base = Artifact.make("torch.nn:Sequential")
        >>> _ = base.model.extend([torch.nn.Linear(2, 4), torch.nn.Linear(4, 1)])
        >>> ranked = Ranked.by("l1")
        >>> structure = ranked.structure(base.model, torch.zeros(1, 2))
        >>> space = PruningSpace(base, structure, ranked.rankings(structure, base.model, None, 0))
        >>> [choice.name for choice in space.choices], space.choices[0].values
        (['0'], (0.25, 0.5, 0.75, 1.0))
    """

    base: Artifact
    structure: Structure = field(repr=False)
    rankings: Mapping[str, Ranking] = field(repr=False)
    left: Sequence[float] = tuple(round(0.1 * i, 1) for i in range(1, 11))

    def __post_init__(self) -> None:
        if wrong := [each for each in self.left if not 0 < each <= 1]:
            raise ConfigError(
                f"left has {wrong[0]}; expected fractions above 0, of which 1 is the whole group"
            )
        check_choices(self.choices)

    @cached_property
    def _counts(self) -> dict[str, dict[float, int]]:
        """What each group loses by what is left of it; of fractions that lose as much, one."""
        found: dict[str, dict[float, int]] = {}
        for name, ranking in self.rankings.items():
            lost = {ranking.allowed((1 - each) * ranking.units) for each in self.left}
            # Told by what is left in fact, in rising order.
            found[name] = {
                round(1 - count / ranking.units, 4): count for count in sorted(lost, reverse=True)
            }
        return found

    @cached_property
    def choices(self) -> Sequence[Choice]:
        """One for each group, in the order of the model."""
        return tuple(Choice(name, tuple(counts)) for name, counts in self._counts.items())

    @property
    def told(self) -> Mapping[str, Any]:
        """The model, and in which order its channels go."""
        return {"prune": self.base.digest(), "order": digest(self.rankings)}

    @property
    def start(self) -> Point:
        """The largest point."""
        return highest(self.choices)

    def canonical(self, point: Point) -> Point:
        """The point itself: no two lose the same channels."""
        return point

    def artifact(self, point: Point) -> Artifact:
        """The model without the channels that are not left; its batch norms measured before."""
        made = copy.deepcopy(self.base)
        counts = {
            choice.name: self._counts[choice.name][choice.values[point[choice.name]]]
            for choice in self.choices
        }
        gone = chosen(self.rankings, counts)
        if gone:
            made.edit(self.structure.edit(gone))
        return made
