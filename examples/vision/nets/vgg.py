"""VGG-16 with batch norm (Simonyan and Zisserman, 2015, configuration D)."""

from __future__ import annotations

from torch import nn

from pantheon.nets.layers import ConvNet, ConvNorm, channels, check

STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""Channels and convolutions of each stage."""


def vgg16(
    classes: int = 100, width: float = 1.0, stem_stride: int = 1, in_channels: int = 3
) -> ConvNet:
    """VGG-16: thirteen convolutions of 3 by 3 in five stages, each of which ends by halving.

    The convolutions have no biases, which batch norm's shifts stand for. In place of the paper's
    three linear layers for images of 224 pixels there is the mean over all places and one.

    Args:
        classes: how many logits.
        width: factor of all channels.
        stem_stride: 1 as in the paper; 2 lets the first convolution halve, not the first stage's
            end, for about a quarter of that stage's work.
        in_channels: of the images, whose sides are at least 32.

    Example:
        >>> sum(p.numel() for p in vgg16().stages.parameters())
        14718912
    """
    check(classes, width, stem_stride, in_channels)
    inputs, stages = in_channels, []
    for stage, (count, depth) in enumerate(STAGES):
        outputs, blocks = channels(count, width), []
        for block in range(depth):
            stride = stem_stride if stage == block == 0 else 1
            blocks.append(ConvNorm(inputs, outputs, 3, stride, activation=nn.ReLU()))
            inputs = outputs
        halves = stage > 0 or stem_stride == 1
        stages.append([*blocks, nn.MaxPool2d(2)] if halves else blocks)
    return ConvNet(nn.Identity(), stages, nn.Linear(inputs, classes))
