"""MobileNetV3, small and large (Howard et al., 2019)."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from pantheon.nets.layers import ConvNet, ConvNorm, channels, check


class Row(NamedTuple):
    """A block in the paper's tables 1 and 2."""

    kernel: int
    inner: int
    outputs: int
    squeeze: bool
    hard: bool
    stride: int


LARGE = (
    (Row(3, 16, 16, False, False, 1),),
    (Row(3, 64, 24, False, False, 2), Row(3, 72, 24, False, False, 1)),
    (
        Row(5, 72, 40, True, False, 2),
        Row(5, 120, 40, True, False, 1),
        Row(5, 120, 40, True, False, 1),
    ),
    (
        Row(3, 240, 80, False, True, 2),
        Row(3, 200, 80, False, True, 1),
        Row(3, 184, 80, False, True, 1),
        Row(3, 184, 80, False, True, 1),
    ),
    (Row(3, 480, 112, True, True, 1), Row(3, 672, 112, True, True, 1)),
    (
        Row(5, 672, 160, True, True, 2),
        Row(5, 960, 160, True, True, 1),
        Row(5, 960, 160, True, True, 1),
    ),
)

SMALL = (
    (Row(3, 16, 16, True, False, 2),),
    (Row(3, 72, 24, False, False, 2), Row(3, 88, 24, False, False, 1)),
    (
        Row(5, 96, 40, True, True, 2),
        Row(5, 240, 40, True, True, 1),
        Row(5, 240, 40, True, True, 1),
    ),
    (Row(5, 120, 48, True, True, 1), Row(5, 144, 48, True, True, 1)),
    (
        Row(5, 288, 96, True, True, 2),
        Row(5, 576, 96, True, True, 1),
        Row(5, 576, 96, True, True, 1),
    ),
)


class SqueezeExcite(nn.Module):
    """Channels weighted by what all places say of them (Hu et al., 2018), with a hard sigmoid."""

    def __init__(self, inner: int) -> None:
        super().__init__()
        squeezed = channels(inner / 4)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(inner, squeezed, 1)
        self.act = nn.ReLU()
        self.expand = nn.Conv2d(squeezed, inner, 1)
        self.gate = nn.Hardsigmoid()

    def forward(self, images: Tensor) -> Tensor:
        weights: Tensor = self.gate(self.expand(self.act(self.reduce(self.pool(images)))))
        return images * weights


class Block(nn.Module):
    """An inverted residual, with squeeze and excitation where the row says so."""

    def __init__(self, inputs: int, inner: int, outputs: int, row: Row) -> None:
        super().__init__()
        act = nn.Hardswish if row.hard else nn.ReLU
        self.expand = (
            nn.Identity() if inner == inputs else ConvNorm(inputs, inner, 1, activation=act())
        )
        self.depthwise = ConvNorm(
            inner, inner, row.kernel, row.stride, depthwise=True, activation=act()
        )
        self.excite = SqueezeExcite(inner) if row.squeeze else nn.Identity()
        self.project = ConvNorm(inner, outputs, 1)
        self.residual = row.stride == 1 and inputs == outputs

    def forward(self, images: Tensor) -> Tensor:
        made: Tensor = self.project(self.excite(self.depthwise(self.expand(images))))
        return images + made if self.residual else made


def mobilenet_v3_large(
    classes: int = 100, width: float = 1.0, stem_stride: int = 2, in_channels: int = 3
) -> ConvNet:
    """MobileNetV3-large, without dropout.

    Args:
        classes: how many logits.
        width: factor of all channels; below 1 the hidden layer keeps its 1,280 units.
        stem_stride: of the first convolution; 2 in the paper.
        in_channels: of the images.

    Example:
        >>> sum(p.numel() for p in mobilenet_v3_large(classes=1000).parameters())
        5483032
    """
    return _mobilenet(LARGE, 1280, classes, width, stem_stride, in_channels)


def mobilenet_v3_small(
    classes: int = 100, width: float = 1.0, stem_stride: int = 2, in_channels: int = 3
) -> ConvNet:
    """MobileNetV3-small; arguments as for `mobilenet_v3_large`, with 1,024 hidden units.

    Example:
        >>> sum(p.numel() for p in mobilenet_v3_small(classes=1000).parameters())
        2542856
    """
    return _mobilenet(SMALL, 1024, classes, width, stem_stride, in_channels)


def _mobilenet(
    table: tuple[tuple[Row, ...], ...],
    units: int,
    classes: int,
    width: float,
    stem_stride: int,
    in_channels: int,
) -> ConvNet:
    check(classes, width, stem_stride, in_channels)
    full, inputs, stages = 16, channels(16, width), []
    stem = ConvNorm(in_channels, inputs, 3, stem_stride, activation=nn.Hardswish())
    for rows in table:
        blocks = []
        for row in rows:
            # As the authors' code does: expanded as many times as at width 1, not to the width.
            inner, outputs = channels(inputs * row.inner / full), channels(row.outputs, width)
            blocks.append(Block(inputs, inner, outputs, row))
            full, inputs = row.outputs, outputs
        stages.append(blocks)
    features, units = channels(table[-1][-1].inner, width), channels(units, max(1.0, width))
    last = ConvNorm(inputs, features, 1, activation=nn.Hardswish())
    hidden = nn.Sequential(nn.Linear(features, units), nn.Hardswish())
    return ConvNet(stem, stages, nn.Linear(units, classes), last, hidden)
