"""Which channels can only go together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from pantheon.compress.prune.dependency import Dependencies, Member
from pantheon.compress.prune.heads import Attention, attentions
from pantheon.paths import module_at

Channel = tuple[str, int]
"""A layer's path and one of its output channels."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Where the channels of a group are in one layer.

    Args:
        path: of the layer.
        indices: ``[k]`` of its output channels, or of the input channels that it reads.
        units: ``[k]``, the unit that each belongs to.
    """

    path: str
    indices: tuple[int, ...]
    units: tuple[int, ...]


class Coupling:
    """Sets of channels, merged as they are found to belong together.

    Example:
        >>> coupling = Coupling()
        >>> coupling.join([("a", 0), ("b", 3)]); coupling.join([("b", 3), ("c", 1)])
        >>> coupling.join([("a", 1)])
        >>> sorted(map(sorted, coupling.sets()))
        [[('a', 0), ('b', 3), ('c', 1)], [('a', 1)]]
    """

    def __init__(self) -> None:
        self._above: dict[Channel, Channel] = {}

    def join(self, channels: Iterable[Channel]) -> None:
        """Note that some channels go together."""
        first: Channel | None = None
        for channel in channels:
            top = self._top(channel)
            if first is None:
                first = top
            self._above[top] = first

    def sets(self) -> list[list[Channel]]:
        """The sets, each in the order in which its channels were found."""
        found: dict[Channel, list[Channel]] = defaultdict(list)
        for channel in self._above:
            found[self._top(channel)].append(channel)
        return list(found.values())

    def __contains__(self, channel: Channel) -> bool:
        return channel in self._above

    def _top(self, channel: Channel) -> Channel:
        above = self._above.setdefault(channel, channel)
        while above != channel:
            # Halving the path keeps it short.
            self._above[channel] = above = self._above[above]
            channel, above = above, self._above[above]
        return channel


@dataclass(frozen=True, slots=True)
class Coupled:
    """What goes with what in a model.

    Args:
        members: what goes with the output channels of a layer, by its path. A layer whose channels
            all go with those of earlier ones is not among them.
        sets: channels that can only go together.
        projections: of each attention whose heads can go, the layers that have their outputs by
            head.
    """

    members: Mapping[str, Sequence[Member]]
    sets: Sequence[Sequence[Channel]]
    projections: Sequence[tuple[Attention, tuple[str, ...]]]


def coupled(dependencies: Dependencies, roots: Iterable[str]) -> Coupled:
    """What goes with the channels of some layers.

    Args:
        roots: their paths, in the order of the model.

    Raises:
        CompressionError: what depends on a layer is not found in time.
    """
    every, coupling = attentions(dependencies.model), Coupling()
    members: dict[str, list[Member]] = {}
    projections: dict[str, tuple[Attention, tuple[str, ...]]] = {}
    makers = set(dependencies.layers())
    for path in roots:
        if all((path, channel) in coupling for channel in range(dependencies.size(path))):
            continue
        members[path] = dependencies.members(path)
        made = [m for m in members[path] if m.side == "out" and m.path in makers]
        for member in made:
            for index, channel in zip(member.indices, member.channels, strict=True):
                coupling.join([(path, channel), (member.path, index)])
        for member in members[path]:
            size = _channels_of_group(dependencies.model, member)
            if size:
                _join(coupling, path, member, {i: i % size for i in member.indices})
        for attention in every:
            by_head = attention.projections({member.path for member in made})
            if by_head:
                projections[attention.path] = attention, by_head
            for member in made:
                if member.path in by_head:
                    heads = {i: i // attention.size for i in member.indices}
                    _join(coupling, path, member, heads)
    return Coupled(members, coupling.sets(), list(projections.values()))


def _join(coupling: Coupling, path: str, member: Member, keys: Mapping[int, int]) -> None:
    """Couple the channels of a layer with which indices of one key go."""
    found: dict[int, list[Channel]] = defaultdict(list)
    for index, channel in zip(member.indices, member.channels, strict=True):
        found[keys[index]].append((path, channel))
    for channels in found.values():
        coupling.join(channels)


def _channels_of_group(model: nn.Module, member: Member) -> int:
    """Channels of each of a layer's groups; 0 where they are not in groups of several."""
    layer = None if isinstance(member.side, int) else module_at(model, member.path)
    if isinstance(layer, nn.GroupNorm):
        size, groups = layer.num_channels, layer.num_groups
    elif isinstance(layer, nn.modules.conv._ConvNd):
        size = layer.out_channels if member.side == "out" else layer.in_channels
        groups = layer.groups
    else:
        return 0
    return size // groups if 1 < groups < size else 0
