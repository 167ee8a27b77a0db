"""Which groups of a layer stay when some of its channels do, as in grouped convolutions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from pantheon.errors import ConfigError

Positions = dict[int, tuple[int, ...]]
"""Positions within a group, by group; groups without any are left out."""


@dataclass(frozen=True, slots=True)
class Stay:
    """What stays of a layer with groups.

    Args:
        indices: of the channels, by side.
        positions: of the channels within a group, by side, where all groups must have the same.
        groups: how many groups.
    """

    indices: dict[str, tuple[int, ...]]
    positions: dict[str, tuple[int, ...]]
    groups: int


def stayed(
    chosen: Mapping[str, Sequence[int]],
    sizes: Mapping[str, int],
    groups: int,
    inner: Collection[str],
) -> Stay:
    """The groups that keep any channel, and the channels they keep.

    Args:
        chosen: indices to keep, by side; a side that is left out keeps all, but for depthwise
            layers (one channel a group on every side), where it keeps what the other one does.
        sizes: how many channels there are, by side.
        groups: how many groups they are in.
        inner: sides on which every group must keep the same positions.

    Raises:
        ConfigError: a group that would lose one side only, or groups that would differ.

    Example:
        >>> stayed({"out": (0, 3)}, {"out": 4, "in": 4}, 4, ["in"])
        Stay(indices={'out': (0, 3), 'in': (0, 3)}, positions={'in': (0,)}, groups=2)
    """
    depthwise = all(size == groups for size in sizes.values())
    one = tuple(next(iter(chosen.values())))
    rest = {side: one if depthwise else tuple(range(size)) for side, size in sizes.items()}
    indices = {side: tuple(chosen.get(side, rest[side])) for side in sizes}
    by_side = {side: _split(indices[side], sizes[side] // groups) for side in sizes}
    for side, found in by_side.items():
        _require_alike(side, found, side in inner)
    sets = {side: sorted(found) for side, found in by_side.items()}
    if sets["out"] != sets.get("in", sets["out"]):
        lost = min(set(sets["out"]) ^ set(sets["in"]))
        side, other = ("inputs", "outputs") if lost in by_side["out"] else ("outputs", "inputs")
        raise ConfigError(
            f"group {lost} of {groups} keeps {other} and no {side}; keep or remove both"
        )
    positions = {side: next(iter(by_side[side].values())) for side in inner}
    return Stay(indices, positions, len(sets["out"]))


def _split(indices: Sequence[int], size: int) -> Positions:
    found: dict[int, list[int]] = {}
    for index in indices:
        found.setdefault(index // size, []).append(index % size)
    return {group: tuple(positions) for group, positions in found.items()}


def _require_alike(side: str, found: Positions, exactly: bool) -> None:
    (first, ours), *others = found.items()
    for group, theirs in others:
        if len(ours) != len(theirs) or (exactly and ours != theirs):
            word = "the same positions" if exactly else "as many channels each"
            raise ConfigError(
                f"on its side {side!r} group {first} keeps {len(ours)} channels and group {group} "
                f"{len(theirs)}, at {_short(ours)} and {_short(theirs)}; the groups that stay must "
                f"keep {word}"
            )


def _short(values: Sequence[int]) -> str:
    shown = ", ".join(map(str, values[:6]))
    return f"[{shown}, ...]" if len(values) > 6 else f"[{shown}]"
