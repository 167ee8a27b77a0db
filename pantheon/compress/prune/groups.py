"""The groups of channels that pruning chooses within, and what is removed with a choice."""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from pantheon.compress.prune.coupling import Channel, Coupled, coupled
from pantheon.compress.prune.dependency import Dependencies
from pantheon.compress.select import SelectChannels
from pantheon.errors import ConfigError
from pantheon.paths import near
from pantheon.training.evaluating import evaluating
from pantheon.training.objective import call_student

Chosen = Mapping[str, Collection[int]]
"""Units to remove, by the name of their group."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Where the channels of a group are in one layer.

    Args:
        path: of the layer.
        indices: ``[k]`` of its output channels.
        units: ``[k]``, the unit that each belongs to.
    """

    path: str
    indices: tuple[int, ...]
    units: tuple[int, ...]


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


def structure_of(
    model: nn.Module,
    example_inputs: Any,
    *,
    keep: Collection[str] = (),
    only: Collection[str] | None = None,
    seconds: float = 60.0,
) -> Structure:
    """The groups of a model's channels.

    Layers that make the model's answer keep their channels: it would have another shape without
    one. So do those whose channels cannot be selected, or without which the model does not run.

    Args:
        model, example_inputs, seconds: see `Dependencies`.
        keep: layers that are to keep their channels. What depends on them is not looked for.
        only: layers that may lose channels; all if left out.

    Raises:
        ConfigError: see `Dependencies`; or no layer can lose channels.
        CompressionError: torch-pruning cannot read the model or takes too long.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(16, 2))
        >>> found = structure_of(net, torch.ones(1, 3, 2, 2))
        >>> found.groups["0"].units, found.excluded
        (4, {'2': 'its answers would have another shape'})
    """
    dependencies = Dependencies(model, example_inputs, seconds)
    excluded = _left_out(dependencies.layers(), keep, only)
    found = coupled(dependencies, [p for p in dependencies.layers() if p not in excluded])
    every = {group.name: group for group in _groups(dependencies, found)}
    whole, groups = Structure(dependencies, every, {}, found), {}
    answer = _shapes(_answered(dependencies.model, example_inputs))
    for name, group in every.items():
        paths = [rows.path for rows in group.makers]
        kept = next((path for path in paths if path in keep), None)
        why = f"goes with {kept!r}, which is kept" if kept else _obstacle(whole, group, answer)
        if why:
            excluded.update({path: why for path in paths if path not in keep})
        else:
            groups[name] = group
    _require_some(groups, excluded, model)
    lost = {rows.path for group in groups.values() for rows in group.makers}
    left = {path: why for path, why in excluded.items() if path not in lost}
    return Structure(dependencies, groups, left, found)


def _left_out(
    paths: Iterable[str], keep: Collection[str], only: Collection[str] | None
) -> dict[str, str]:
    """Why some layers take no part, by path."""
    found = {}
    for path in paths:
        if path in keep:
            found[path] = "kept, as asked for"
        elif only is not None and path not in only:
            found[path] = "not among those that are to lose channels"
    return found


def _require_some(
    groups: Mapping[str, Group], excluded: Mapping[str, str], model: nn.Module
) -> None:
    if not groups:
        told = "; ".join(f"{path}: {why}" for path, why in list(excluded.items())[:8])
        raise ConfigError(
            f"no layer of the {type(model).__name__} is left that may lose channels "
            f"({told or 'it has none'}); keep fewer of them, or prune another model"
        )


def _groups(dependencies: Dependencies, found: Coupled) -> list[Group]:
    """Units that are removed from the same layers are a group; in the order of their first one."""
    touched: dict[Channel, set[tuple[str, str | int]]] = defaultdict(set)
    for root, members in found.members.items():
        for member in members:
            for channel in set(member.channels):
                touched[root, channel].add((member.path, member.side))
    alike: dict[frozenset[tuple[str, str | int]], list[Sequence[Channel]]] = defaultdict(list)
    for channels in found.sets:
        alike[frozenset().union(*(touched[c] for c in channels if c in touched))].append(channels)
    places = {path: place for place, path in enumerate(dependencies.layers())}
    begun: Counter[str] = Counter()
    groups = []
    for units in alike.values():
        group = _group(dependencies, found, units, places)
        begun[group.name] += 1
        number = begun[group.name]
        # Parts of one layer may go different ways.
        groups.append(replace(group, name=f"{group.name}#{number}") if number > 1 else group)
    return sorted(groups, key=lambda group: places[group.makers[0].path])


def _group(
    dependencies: Dependencies,
    found: Coupled,
    units: Sequence[Sequence[Channel]],
    places: Mapping[str, int],
) -> Group:
    ordered = sorted(units, key=lambda channels: min((places[p], i) for p, i in channels))
    unit_of = {channel: unit for unit, channels in enumerate(ordered) for channel in channels}
    made: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for (path, index), unit in unit_of.items():
        made[path].append((index, unit))
    paths = sorted(made, key=lambda path: places[path])
    makers = tuple(_rows(path, made[path]) for path in paths)
    roots = tuple(rows for rows in makers if rows.path in found.members)
    norms: dict[str, dict[int, int]] = defaultdict(dict)
    for root in roots:
        for member in found.members[root.path]:
            if not dependencies.is_batch_norm(member):
                continue
            for index, channel in zip(member.indices, member.channels, strict=True):
                if (root.path, channel) in unit_of:
                    norms[member.path][index] = unit_of[root.path, channel]
    passed = tuple(_rows(path, at.items()) for path, at in norms.items() if at)
    return Group(paths[0], len(ordered), makers, passed, roots)


def _rows(path: str, pairs: Iterable[tuple[int, int]]) -> Rows:
    indices, units = zip(*sorted(pairs), strict=True)
    return Rows(path, indices, units)


def _obstacle(whole: Structure, group: Group, answer: Any) -> str | None:
    """Why a group cannot lose a unit; None where it can."""
    if group.units < 2:
        return "it has one unit only"
    try:
        model = whole.pruned({group.name: [0]})
    except ConfigError as error:
        return str(error)
    try:
        found = _shapes(_answered(model, whole.dependencies.inputs))
    except Exception as error:  # noqa: BLE001 -- the user's model may raise anything, which is told
        return f"the model does not run without a channel: {type(error).__name__}: {error}"
    return None if found == answer else "its answers would have another shape"


def _answered(model: nn.Module, inputs: Any) -> Any:
    with evaluating(model):
        return call_student(model, inputs)


def _shapes(answer: Any) -> Any:
    """The shapes of the tensors in what a model answers, by their place."""
    if isinstance(answer, Tensor):
        return answer.shape
    if isinstance(answer, Mapping):
        return {key: _shapes(value) for key, value in answer.items()}
    return [_shapes(each) for each in answer] if isinstance(answer, tuple | list) else None
