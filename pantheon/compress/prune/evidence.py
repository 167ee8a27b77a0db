"""What units are judged by: the weights that make their channels, gradients, and scales."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pantheon.compress.prune.coupling import Rows
from pantheon.compress.prune.groups import Group
from pantheon.paths import module_at


@dataclass(frozen=True, slots=True)
class Filters:
    """What one layer makes a group's channels of; k channels.

    Args:
        path: of the layer.
        weights: float32 ``[k, n]``, what it multiplies its n inputs with, without the bias.
        gradients: float32 ``[k, n]``, the mean over batches; None where nobody asked for them.
        units: int64 ``[k]``, the unit of each channel.
    """

    path: str
    weights: Tensor
    gradients: Tensor | None
    units: Tensor


@dataclass(frozen=True, slots=True)
class Scales:
    """What a batch norm multiplies a group's channels with.

    Args:
        path: of the layer.
        values: float32 ``[k]``.
        units: int64 ``[k]``, the unit of each channel.
    """

    path: str
    values: Tensor
    units: Tensor


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the units of one group are judged by.

    Args:
        group: its name.
        units: how many it has.
        filters: of each layer that makes its channels, but for depthwise convolutions, which only
            pass on what others made.
        scales: of each batch norm that they pass.
        saliency: float32 ``[units]``, the mean over batches of the squared sum of weight times
            gradient over all weights that make a unit; None where nobody asked for gradients.
        seed: for criteria that draw.
    """

    group: str
    units: int
    filters: tuple[Filters, ...]
    scales: tuple[Scales, ...] = ()
    saliency: Tensor | None = None
    seed: int = 0

    def by_unit(self, values: Tensor, units: Tensor) -> Tensor:
        """Sums ``[units]`` of values ``[k]`` over the channels of each unit."""
        return torch.zeros(self.units, dtype=values.dtype).index_add(0, units, values)

    def over_layers(self, values: Mapping[str, Tensor]) -> Tensor:
        """The mean ``[units]`` over layers of sums over the channels of each unit.

        Args:
            values: of each layer in `filters`, by path, ``[k]``.
        """
        sums = [self.by_unit(values[each.path], each.units) for each in self.filters]
        return torch.stack(sums).mean(0)


@dataclass(frozen=True, slots=True)
class Gradients:
    """Gradients of a loss, over some batches.

    Args:
        mean: by path of a layer, ``[outputs, n]`` as `rows_of_layer` has its weights.
        saliency: by group; see `Evidence`.
        samples: how many were read.
    """

    mean: Mapping[str, Tensor] = field(default_factory=dict)
    saliency: Mapping[str, Tensor] = field(default_factory=dict)
    samples: int = 0


def evidence_of(
    model: nn.Module, group: Group, gradients: Gradients | None = None, seed: int = 0
) -> Evidence:
    """What a model says of a group.

    Example:
        >>> group = Group("0", 2, (Rows("0", (0, 1), (0, 1)),), (), ())
        >>> model = nn.Sequential(nn.Linear(3, 2))
        >>> evidence_of(model, group).filters[0].weights.shape
        torch.Size([2, 3])
    """
    mean = gradients.mean if gradients else {}
    return Evidence(
        group=group.name,
        units=group.units,
        filters=tuple(_filters(model, rows, mean) for rows in makers_of(model, group)),
        scales=tuple(_scales(model, rows) for rows in group.norms),
        saliency=gradients.saliency.get(group.name) if gradients else None,
        seed=seed,
    )


def makers_of(model: nn.Module, group: Group) -> Sequence[Rows]:
    """The layers whose weights a group is judged by.

    Depthwise convolutions are left out, as they only pass on what others made, unless there are no
    others.
    """
    every = [rows for rows in group.makers if not is_depthwise(module_at(model, rows.path))]
    return every or group.makers


def is_depthwise(layer: nn.Module) -> bool:
    """Whether a layer is a convolution that does not mix channels."""
    return (
        isinstance(layer, nn.modules.conv._ConvNd)
        and layer.groups > 1
        and layer.groups == layer.in_channels
    )


def rows_of_layer(layer: nn.Module, weight: Tensor) -> Tensor:
    """A layer's weight, or its gradient, with a row for each output channel: ``[outputs, n]``."""
    if isinstance(layer, nn.Embedding):
        return weight.T
    if isinstance(layer, nn.modules.conv._ConvTransposeNd):
        inputs, *rest = weight.shape
        by_group = weight.reshape(layer.groups, inputs // layer.groups, *rest).transpose(1, 2)
        return by_group.reshape(layer.out_channels, -1)
    return weight.reshape(len(weight), -1)


def _filters(model: nn.Module, rows: Rows, mean: Mapping[str, Tensor]) -> Filters:
    layer = module_at(model, rows.path)
    weight = layer.get_parameter("weight").detach()
    indices = torch.tensor(rows.indices)
    weights = rows_of_layer(layer, weight).float().cpu()[indices]
    found = mean.get(rows.path)
    gradients = None if found is None else found[indices]
    return Filters(rows.path, weights, gradients, torch.tensor(rows.units))


def _scales(model: nn.Module, rows: Rows) -> Scales:
    weight = module_at(model, rows.path).get_parameter("weight").detach().float().cpu()
    return Scales(rows.path, weight[torch.tensor(rows.indices)], torch.tensor(rows.units))
