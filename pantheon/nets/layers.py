"""What the nets are put together from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pantheon.errors import ConfigError
from pantheon.quote import near, quoted


def channels(count: float, width: float = 1.0) -> int:
    """A number of channels times the width, as a multiple of 8 that is not 10 % below it.

    As in MobileNetV2's own code (Sandler et al., 2018).

    Example:
        >>> channels(24), channels(24, 0.5), channels(24, 0.75), channels(3)
        (24, 16, 24, 8)
    """
    wanted = count * width
    near = max(8, int(wanted + 4) // 8 * 8)
    return near if near >= 0.9 * wanted else near + 8


class DepthwiseConv(nn.Conv2d):
    """A depthwise convolution that pads small maps itself in training.

    It gives what `torch.nn.Conv2d` does. oneDNN, which is behind it on CPUs, takes about ten times
    as long for the gradient of a depthwise kernel that is larger than the map, unless the padding
    is done before: images of 32 pixels end as such maps.

    Args:
        channels: in and out.
        kernel: side of the kernel, odd; the edge is padded, so that stride 1 keeps the size.

    Example:
        >>> DepthwiseConv(8, 3)(torch.ones(1, 8, 2, 2)).shape
        torch.Size([1, 8, 2, 2])
    """

    def __init__(self, channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__(
            channels, channels, kernel, stride, kernel // 2, groups=channels, bias=False
        )

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        edge = self.kernel_size[0] // 2
        if not self.training or min(input.shape[-2:]) > 2 * edge:
            made: Tensor = super()._conv_forward(input, weight, bias)
            return made
        return functional.conv2d(
            functional.pad(input, (edge,) * 4), weight, bias, self.stride, groups=self.groups
        )


class ConvNorm(nn.Module):
    """A convolution without a bias, then batch norm, then an activation if one is given.

    Args:
        inputs, outputs: channels.
        kernel: side of the kernel, odd; the edge is padded, so that stride 1 keeps the size.
        depthwise: every channel by itself; there are as many outputs as inputs.

    Example:
        >>> ConvNorm(3, 8, 3, stride=2)(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 8, 16, 16])
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        depthwise: bool = False,
        activation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.conv = (
            DepthwiseConv(inputs, kernel, stride)
            if depthwise
            else nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        )
        self.norm = nn.BatchNorm2d(outputs)
        self.act = activation or nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        made: Tensor = self.act(self.norm(self.conv(images)))
        return made


class ConvNet(nn.Module):
    """A classifier: stem, stages, a last layer, the mean over all places, and a linear head.

    Args:
        stem: the first layers.
        stages: each of them blocks that work at one resolution; ``stages.2.0`` is the first block
            of the third.
        head: the linear layer that answers logits ``[n, classes]``.
        last: a layer between the stages and the mean.
        hidden: a layer between the mean and the head.
    """

    def __init__(
        self,
        stem: nn.Module,
        stages: Iterable[Iterable[nn.Module]],
        head: nn.Linear,
        last: nn.Module | None = None,
        hidden: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.Sequential(*(nn.Sequential(*blocks) for blocks in stages))
        self.last = last or nn.Identity()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.hidden = hidden or nn.Identity()
        self.head = head
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[n, classes]`` of images ``[n, in_channels, height, width]``."""
        features = self.pool(self.last(self.stages(self.stem(images))))
        logits: Tensor = self.head(self.hidden(torch.flatten(features, 1)))
        return logits


def initialise(net: nn.Module) -> None:
    """Fresh weights from torch's global generator.

    Convolutions are Kaiming normal over their fan-out (He et al., 2015), which is that of one group
    where there are several; batch norms are the identity, linear layers normal with deviation 0.01.

    Example:
        >>> nets = [nn.Linear(2, 2), nn.Linear(2, 2)]
        >>> for net in nets:
        ...     _ = torch.manual_seed(0)
        ...     initialise(net)
        >>> torch.equal(nets[0].weight, nets[1].weight)
        True
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.weight[:, 0].numel() // module.groups
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


def check(classes: int, width: float, stem_stride: int, in_channels: int) -> None:
    """What every net demands of its arguments.

    Raises:
        ConfigError: an argument that cannot be.

    Example:
        >>> check(10, 1.0, 2, 3)
    """
    if classes < 1 or in_channels < 1 or not 0 < width < math.inf:
        raise ConfigError(
            "a net needs classes and in_channels of at least 1 and a width above 0; found "
            f"classes={classes}, in_channels={in_channels}, width={width}"
        )
    if stem_stride not in (1, 2):
        raise ConfigError(f"stem_stride is {stem_stride}; expected 1 or 2")


Stages = Mapping[str, Mapping[str, int]]
"""What differs from a paper's table: number of the stage, from "0", to column to value."""


def table(paper: Sequence[Mapping[str, int]], other: Stages | None) -> list[dict[str, int]]:
    """A paper's table of stages with some values changed.

    Args:
        paper: the columns of each stage.
        other: what differs. Sides of kernels are odd; all else is 1 or more.

    Raises:
        ConfigError: a stage or column that the table does not have, or a value that cannot be.

    Example:
        >>> table([{"blocks": 2, "kernel": 3}, {"blocks": 6, "kernel": 3}], {"1": {"blocks": 4}})
        [{'blocks': 2, 'kernel': 3}, {'blocks': 4, 'kernel': 3}]
    """
    made = [dict(stage) for stage in paper]
    for number, columns in (other or {}).items():
        if number not in map(str, range(len(made))) or not isinstance(columns, Mapping):
            raise ConfigError(
                f"there is no stage {quoted(number)} with columns; expected '0' to "
                f"'{len(made) - 1}', each with values by column"
            )
        stage = made[int(number)]
        for column, value in columns.items():
            _check_column(stage, number, column, value)
            stage[column] = value
    return made


def _check_column(stage: Mapping[str, int], number: str, column: str, value: Any) -> None:
    if column not in stage:
        raise ConfigError(
            f"stage {number} has no column {quoted(column)}{near(str(column), stage)}; it has "
            f"{', '.join(stage)}"
        )
    odd = column != "kernel" or (isinstance(value, int) and value % 2 == 1)
    if type(value) is not int or value < 1 or not odd:
        raise ConfigError(
            f"stage {number}: {column} is {quoted(value)}; expected a whole number of 1 or more"
            + ("" if odd else ", odd")
        )
