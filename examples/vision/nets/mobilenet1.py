"""MobileNetV1 (Howard et al., 2017)."""

from __future__ import annotations

from torch import Tensor, nn

from examples.vision.nets.layers import ConvNet, ConvNorm, channels, check

STAGES = ((64, 1), (128, 2), (256, 2), (512, 6), (1024, 2))
"""Channels and blocks of each stage; all but the first stage begin by halving."""


class SeparableBlock(nn.Module):
    """A depthwise convolution of 3 by 3, then one of 1 by 1 over the channels."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.depthwise = ConvNorm(inputs, inputs, 3, stride, depthwise=True, activation=nn.ReLU())
        self.pointwise = ConvNorm(inputs, outputs, 1, activation=nn.ReLU())

    def forward(self, images: Tensor) -> Tensor:
        made: Tensor = self.pointwise(self.depthwise(images))
        return made


def mobilenet_v1(
    classes: int = 100, width: float = 1.0, stem_stride: int = 2, in_channels: int = 3
) -> ConvNet:
    """MobileNetV1.

    Args:
        classes: how many logits.
        width: factor of all channels.
        stem_stride: of the first convolution; 2 in the paper.
        in_channels: of the images.

    Example:
        >>> sum(p.numel() for p in mobilenet_v1(classes=1000).parameters())
        4231976
    """
    check(classes, width, stem_stride, in_channels)
    inputs, stages = channels(32, width), []
    stem = ConvNorm(in_channels, inputs, 3, stem_stride, activation=nn.ReLU())
    for stage, (count, depth) in enumerate(STAGES):
        outputs, blocks = channels(count, width), []
        for number in range(depth):
            blocks.append(SeparableBlock(inputs, outputs, 2 if stage and not number else 1))
            inputs = outputs
        stages.append(blocks)
    return ConvNet(stem, stages, nn.Linear(inputs, classes))
