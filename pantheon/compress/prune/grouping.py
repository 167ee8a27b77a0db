"""Finding a model's groups of channels, and why some of its layers are in none."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from pantheon.compress.prune.coupling import Channel, Coupled, Rows, coupled
from pantheon.compress.prune.dependency import Dependencies
from pantheon.compress.prune.groups import Group, Structure
from pantheon.compress.prune.passage import Passage, ends_of_trace, naming
from pantheon.errors import ConfigError
from pantheon.training.evaluating import evaluating
from pantheon.training.objective import call_student


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
    excluded = _left_out(dependencies.layers(), keep, only) | _untraced(dependencies)
    found = coupled(dependencies, [p for p in dependencies.layers() if p not in excluded])
    every = {group.name: group for group in _groups(dependencies, found)}
    trial = _Trial(Structure(dependencies, every, {}, found))
    groups = {}
    for name, group in every.items():
        paths = [rows.path for rows in group.makers]
        kept = next((path for path in paths if path in keep), None)
        why = f"goes with {kept!r}, which is kept" if kept else trial.obstacle(group)
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


def _untraced(dependencies: Dependencies) -> dict[str, str]:
    """Why layers are not in the graph of the model, by path."""
    paths = dependencies.untraced()
    ends = ends_of_trace(dependencies.model, dependencies.inputs, paths) if paths else {}
    return {
        path: f"its channels cannot be followed to the answer beyond {ends[path]}"
        if path in ends
        else "has no part in the answer"
        for path in paths
    }


class _Trial:
    """Tries what becomes of a model without a unit."""

    def __init__(self, whole: Structure) -> None:
        self._whole, model = whole, whole.dependencies.model
        inputs = whole.dependencies.inputs
        self._answer = _shapes(_answered(model, inputs))
        self._passage = Passage(model, inputs, whole.dependencies.layers())

    def obstacle(self, group: Group) -> str | None:
        """Why a group cannot lose a unit; None where it can."""
        if group.units < 2:
            return "it has one unit only"
        try:
            model = self._whole.pruned({group.name: [0]})
        except ConfigError as error:
            return str(error)
        with naming(model) as at:
            try:
                found = _shapes(_answered(model, self._whole.dependencies.inputs))
            except Exception as error:  # noqa: BLE001 -- the user's model may raise anything
                told = [type(error).__name__, *str(error).strip().splitlines()[-1:]]
                return f"the model does not run without a channel: in {at[-1]}: {': '.join(told)}"
        if found != self._answer:
            return "its answers would have another shape"
        # The second unit: what moves channels often leaves the first and the last where they are.
        astray = self._passage.astray(group.makers, _readers(self._whole, group), 1)
        return None if astray is None else self._moved(group, astray)

    def _moved(self, group: Group, reader: str) -> str:
        between = self._whole.dependencies.between([r.path for r in group.makers], reader)
        return (
            f"on the way to {reader!r} channels are moved or mixed"
            f"{' by one of: ' + ', '.join(between) if between else ''}"
        )


def _readers(whole: Structure, group: Group) -> list[Rows]:
    """The layers that read the channels of a group, and where."""
    layers = set(whole.dependencies.layers())
    read: dict[str, dict[int, int]] = defaultdict(dict)
    for root in group.roots:
        unit_of = dict(zip(root.indices, root.units, strict=True))
        for member in whole.coupled.members[root.path]:
            if member.side == "in" and member.path in layers:
                for index, channel in zip(member.indices, member.channels, strict=True):
                    if channel in unit_of:
                        read[member.path][index] = unit_of[channel]
    return [_rows(path, at.items()) for path, at in read.items() if at]


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
