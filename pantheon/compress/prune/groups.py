"""Groups of channels that pruning chooses within, and what is removed with a choice."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from pantheon.compress.prune.coupling import Coupled, Rows
from pantheon.compress.prune.dependency import Dependencies
from pantheon.compress.select import SelectChannels
from pantheon.errors import ConfigError
from pantheon.quote import near

Chosen = Mapping[str, Collection[int]]
"""Units to remove, by the name of their group."""


@dataclass(frozen=True, slots=True)
class Group:
    """Units of channels, of which all may be removed but one.

    A unit is what can only go together: one channel of a convolution with what depends on it, the
    channels that a residual connection adds, one position of each group of a grouped convolution,
    a head of attention.

    Args:
        name: the path of the first layer whose outputs they are.
        units: how many.
        makers: the layers that make the channels.
        norms: the batch norms with a scale that they pass.
        roots: the channels that all others go with.
    """

    name: str
    units: int
    makers: tuple[Rows, ...]
    norms: tuple[Rows, ...]
    roots: tuple[Rows, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Structure:
    """The groups of a model.

    Args:
        dependencies: with a copy of the model.
        groups: by name, in the order of the model.
        excluded: why other layers lose no channels, by path.
        coupled: what goes with what.
    """

    dependencies: Dependencies
    groups: Mapping[str, Group]
    excluded: Mapping[str, str]
    coupled: Coupled = field(repr=False)

    def edit(self, chosen: Chosen) -> SelectChannels:
        """The edit that removes units.

        Raises:
            ConfigError: nothing to remove, no such group or unit, or all units of a group.
        """
        lost: dict[str, set[int]] = defaultdict(set)
        for name, units in chosen.items():
            self._require(name, units)
            for rows in self.groups[name].roots:
                pairs = zip(rows.indices, rows.units, strict=True)
                lost[rows.path].update(index for index, unit in pairs if unit in units)
        removed: dict[str, dict[Any, set[int]]] = defaultdict(dict)
        for root, channels in lost.items():
            for member in self.coupled.members[root]:
                pairs = zip(member.indices, member.channels, strict=True)
                if gone := {index for index, channel in pairs if channel in channels}:
                    removed[member.path].setdefault(member.side, set()).update(gone)
        edit = self.dependencies.edit(removed)
        return SelectChannels(edit.modules, edit.parameters, self._attributes(edit))

    def _attributes(self, edit: SelectChannels) -> dict[str, dict[str, int]]:
        """How many heads are left, where some go."""
        found = {}
        for attention, projections in self.coupled.projections:
            path = projections[0]
            kept = edit.modules.get(path, {}).get("out")
            new = attention.after(len(kept), self.dependencies.size(path)) if kept else {}
            if new:
                found[attention.path] = new
        return found

    def _require(self, name: str, units: Collection[int]) -> None:
        if name not in self.groups:
            raise ConfigError(f"there is no group {name!r}{near(name, self.groups)}")
        size = self.groups[name].units
        if not all(0 <= unit < size for unit in units) or len(set(units)) >= size:
            raise ConfigError(
                f"group {name!r} has the units 0 to {size - 1}, of which one must stay; found "
                f"{sorted(units)[:8]} to remove"
            )

    def pruned(self, chosen: Chosen) -> nn.Module:
        """A model without these units. Its other tensors are those of the traced copy."""
        model = sharing(self.dependencies.model)
        return self.edit(chosen).apply(model) if any(chosen.values()) else model


def sharing(model: nn.Module) -> nn.Module:
    """A copy of a model's modules with the same tensors, for edits that replace these.

    Example:
        >>> model = nn.Linear(2, 2)
        >>> sharing(model).weight is model.weight
        True
    """
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
