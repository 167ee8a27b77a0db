"""Which tensors and attributes of a layer have its channels, for the layers that can be cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from pantheon.compress.groups import stayed
from pantheon.errors import ConfigError
from pantheon.paths import tensor_of

Kept = Mapping[str, Sequence[int]]
"""The indices to keep of a layer's channels, by side: ``"out"``, ``"in"``."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A layer after a selection: what to keep of its tensors, and its new attributes.

    Args:
        tensors: name of a parameter or buffer to dimension to indices.
        attributes: name to value.
    """

    tensors: dict[str, dict[int, tuple[int, ...]]]
    attributes: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Layout:
    """Attributes by side, and dimensions of tensors by side."""

    sides: Mapping[str, str]
    tensors: Mapping[str, Mapping[str, int]]
    groups: str | None = None


_FEATURES = {"out": 0}
_MIXED = {"weight": {"out": 0, "in": 1}, "bias": _FEATURES}
_CHANNELS = {"out": "out_channels", "in": "in_channels"}
_AFFINE = {"weight": _FEATURES, "bias": _FEATURES}
_RUNNING = {**_AFFINE, "running_mean": _FEATURES, "running_var": _FEATURES}

_LAYOUTS: tuple[tuple[tuple[type[nn.Module], ...], _Layout], ...] = (
    ((nn.Conv1d, nn.Conv2d, nn.Conv3d), _Layout(_CHANNELS, _MIXED, "groups")),
    (
        (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
        _Layout(_CHANNELS, {"weight": {"out": 1, "in": 0}, "bias": _FEATURES}, "groups"),
    ),
    ((nn.Linear,), _Layout({"out": "out_features", "in": "in_features"}, _MIXED)),
    ((nn.Embedding,), _Layout({"out": "embedding_dim"}, {"weight": {"out": 1}})),
    ((nn.PReLU,), _Layout({"out": "num_parameters"}, {"weight": _FEATURES})),
    ((nn.GroupNorm,), _Layout({"out": "num_channels"}, _AFFINE, "num_groups")),
    ((nn.LayerNorm, nn.RMSNorm), _Layout({"out": "normalized_shape"}, _AFFINE)),
    ((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), _Layout({"out": "num_features"}, _RUNNING)),
    ((nn.SyncBatchNorm,), _Layout({"out": "num_features"}, _RUNNING)),
    (
        (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
        _Layout({"out": "num_features"}, _RUNNING),
    ),
)


def channels(module: nn.Module) -> dict[str, int]:
    """How many channels a layer has, by side; layers that do not mix channels have ``"out"`` only.

    Raises:
        ConfigError: a layer that cannot be cut.

    Example:
        >>> channels(nn.Conv2d(3, 8, 1)), channels(nn.BatchNorm2d(8))
        ({'out': 8, 'in': 3}, {'out': 8})
    """
    return {side: _size(module, name) for side, name in _layout(module).sides.items()}


def cut(module: nn.Module, kept: Kept) -> Cut:
    """What a layer becomes that keeps only some of its channels. It is not changed yet.

    In layers with groups (grouped convolutions, `nn.GroupNorm`) a group goes when none of its
    channels is kept. Those that stay must keep the same number of channels each; a convolution's
    must also keep the same positions on the side that its weight has by group (the inputs; of a
    transposed one the outputs). Of a depthwise convolution one side says the other.

    Raises:
        ConfigError: a side or an index that the layer does not have, or groups that would differ.

    Example:
        >>> found = cut(nn.Linear(4, 3), {"out": (0, 2)})
        >>> found.tensors, found.attributes
        ({'weight': {0: (0, 2)}, 'bias': {0: (0, 2)}}, {'out_features': 2})
    """
    layout, sizes = _layout(module), channels(module)
    chosen = {side: tuple(indices) for side, indices in kept.items()}
    for side, indices in chosen.items():
        if side not in sizes:
            raise ConfigError(f"it has no side {side!r}; expected {' or '.join(sizes)}")
        if not 0 <= min(indices) <= max(indices) < sizes[side]:
            raise ConfigError(
                f"it has {sizes[side]} channels on its side {side!r}; found index {max(indices)}"
            )
    attributes: dict[str, Any] = {}
    local = chosen
    if layout.groups and getattr(module, layout.groups) > 1:
        inner = [side for side, dim in layout.tensors["weight"].items() if dim == 1]
        stay = stayed(chosen, sizes, getattr(module, layout.groups), inner)
        chosen, local, attributes[layout.groups] = stay.indices, stay.positions, stay.groups
    for side, indices in chosen.items():
        one = layout.sides[side] == "normalized_shape"
        attributes[layout.sides[side]] = (len(indices),) if one else len(indices)
    return Cut(_tensors(module, layout, chosen, local), attributes)


def _layout(module: nn.Module) -> _Layout:
    for types, layout in _LAYOUTS:
        if isinstance(module, types):
            return layout
    raise ConfigError(
        f"channels of a {type(module).__name__} cannot be selected; name the layers inside it, or "
        "its bare parameters and attributes"
    )


def _size(module: nn.Module, attribute: str) -> int:
    found = getattr(module, attribute)
    if not isinstance(found, tuple):
        return int(found)
    if len(found) != 1:
        raise ConfigError(f"it normalises over {found}; only one dimension can be selected from")
    return int(found[0])


def _tensors(
    module: nn.Module,
    layout: _Layout,
    chosen: Mapping[str, tuple[int, ...]],
    local: Mapping[str, tuple[int, ...]],
) -> dict[str, dict[int, tuple[int, ...]]]:
    """The indices of each tensor that there is, by dimension."""
    found: dict[str, dict[int, tuple[int, ...]]] = {}
    for name, sides in layout.tensors.items():
        if tensor_of(module, name) is None:
            if getattr(module, name, None) is not None:
                raise ConfigError(f"its {name} is parametrised; remove the parametrisation first")
            continue
        # Dimension 1 of a convolution's weight counts within a group.
        indices = {d: (local if d else chosen).get(side) for side, d in sides.items()}
        found[name] = {dim: index for dim, index in indices.items() if index is not None}
    return {name: dims for name, dims in found.items() if dims}
