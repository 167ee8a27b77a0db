"""One cut: from a model and what is asked for to the channels that go."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from pantheon.compress.prune.choosing import fixed_ratios
from pantheon.compress.prune.criteria import CRITERIA, Criterion, Score, bn_scale, scores
from pantheon.compress.prune.dependency import MAKERS
from pantheon.compress.prune.evidence import Gradients, evidence_of
from pantheon.compress.prune.grouping import structure_of
from pantheon.compress.prune.groups import Structure
from pantheon.compress.prune.ranking import Counts, Level, Ranking, chosen, rank
from pantheon.compress.prune.reaching import HALVINGS, Reached, reach
from pantheon.errors import ConfigError
from pantheon.paths import paths_matching
from pantheon.quote import near


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """By what units are ranked, and which layers take part.

    Args:
        criterion: how units are scored.
        name: of the criterion.
        only, keep: patterns of layers that may lose channels (all, if none is named), and of those
            that may not.
        align: numbers of channels that are left are to be multiples of it.
        most: the largest fraction of a layer's units that may go.
        seconds: the longest that the search for what depends on one layer may take.
    """

    criterion: Criterion
    name: str
    only: Sequence[str] = ()
    keep: Sequence[str] = ()
    align: int = 1
    most: float = 0.95
    seconds: float = 60.0

    @classmethod
    def by(cls, criterion: str | Score, *, gradients: bool = False, **settings: Any) -> Ranked:
        """Units ranked by one of our criteria, by name, or by a function.

        Args:
            criterion: a name of `CRITERIA`, or a function that is called with an `Evidence` and
                answers scores ``[units]``.
            gradients: whether the function looks at gradients.
            settings: the other fields.

        Raises:
            ConfigError: no criterion has the name.

        Example:
            >>> Ranked.by("l1", keep=["stem.*"]).name
            'l1'
        """
        if not isinstance(criterion, str):
            name = getattr(criterion, "__qualname__", type(criterion).__name__)
            return cls(criterion=Criterion(criterion, gradients), name=name, **settings)
        if criterion not in CRITERIA:
            raise ConfigError(
                f"there is no criterion {criterion!r}{near(criterion, CRITERIA)}; there are "
                f"{', '.join(CRITERIA)}, or a function of yours"
            )
        return cls(criterion=CRITERIA[criterion], name=criterion, **settings)

    def check(self, model: nn.Module, stage: str, ratios: Collection[str] = ()) -> None:
        """Make sure that all patterns match layers of a model that was not run yet.

        Raises:
            ConfigError: one matches none; names the stage and the nearest paths.
        """
        try:
            kept, _ = self._named(model)
            paths = [path for path in _makers(model) if path not in kept]
            paths_matching(ratios, paths, "ratios")
        except ConfigError as error:
            raise ConfigError(f"stage {stage!r}, {error}") from error

    def structure(self, model: nn.Module, inputs: Any) -> Structure:
        """The groups of the layers that take part.

        Raises:
            ConfigError: a pattern that matches nothing, or all layers are kept out.
        """
        kept, wanted = self._named(model)
        found = structure_of(model, inputs, keep=kept, only=wanted, seconds=self.seconds)
        if self.criterion.score is not bn_scale:
            return found
        unscaled = {name: group for name, group in found.groups.items() if not group.norms}
        why = "no batch norm with a scale follows, which bn_scale goes by"
        if len(unscaled) == len(found.groups):
            raise ConfigError(f"no layer may lose channels: {why}; choose another criterion")
        excluded = {rows.path: why for group in unscaled.values() for rows in group.makers}
        groups = {name: group for name, group in found.groups.items() if name not in unscaled}
        return replace(found, groups=groups, excluded={**found.excluded, **excluded})

    def _named(self, model: nn.Module) -> tuple[set[str], set[str] | None]:
        """The layers that `keep` and `only` name; None where all may lose channels."""
        kept = paths_matching(self.keep, _makers(model), "keep")
        wanted = paths_matching(self.only, _makers(model), "only") if self.only else None
        if both := sorted(kept & (wanted or set())):
            raise ConfigError(f"{both[0]!r} is named by only and by keep; leave it out of one")
        return kept, wanted

    def rankings(
        self, structure: Structure, model: nn.Module, gradients: Gradients | None, seed: int
    ) -> dict[str, Ranking]:
        """The order of each group's units."""
        found = {}
        for name, group in structure.groups.items():
            scored = scores(self.criterion, evidence_of(model, group, gradients, seed))
            channels = len(group.makers[0].indices)
            found[name] = rank(scored, channels, self.align, self.most)
        return found


def _makers(model: nn.Module) -> list[str]:
    """The layers that make channels, by path."""
    return [path for path, layer in model.named_modules() if isinstance(layer, MAKERS)]


def cut(
    structure: Structure,
    rankings: Mapping[str, Ranking],
    level: Level,
    cost: Callable[[nn.Module], float],
    left: float | None,
    ratios: Mapping[str, float],
    halvings: int = HALVINGS,
) -> Reached:
    """How many units each group loses.

    Args:
        level: how many at which level, of the groups without a ratio of their own.
        cost: which fraction of the whole model's cost another one has.
        left: the fraction of the cost that is to be left; None where `ratios` say everything.
        ratios: by pattern, what layers lose whatever the target.
        halvings: see `reach`.

    Raises:
        ConfigError: a target that cannot be reached, or that the ratios alone go beyond.
    """
    fixed = {
        name: rankings[name].allowed(ratio * rankings[name].units, rankings[name].units - 1)
        for name, ratio in fixed_ratios(ratios, structure.groups).items()
    }

    def at(value: float) -> Counts:
        return level(value) | fixed

    def costs(counts: Counts) -> float:
        return cost(structure.pruned(chosen(rankings, counts)))

    least = dict.fromkeys(rankings, 0) | fixed
    if left is None:
        return Reached(least, costs(least), 1)
    if fixed and costs(least) < left:
        raise ConfigError(
            f"the ratios alone leave {costs(least):.1%}, and {left:.1%} are to be left: they "
            "contradict each other; remove more, or lower the ratios"
        )
    return reach(at, rankings, costs, left, halvings)
