"""MobileNetV1 (Howard et al., 2017)."""

from __future__ import annotations

from torch import Tensor, nn

from pantheon.nets.layers import ConvNet, ConvNorm, Stages, channels, check, table

STAGES = tuple(
    {"channels": channels, "blocks": blocks, "kernel": 3}
    for channels, blocks in ((64, 1), (128, 2), (256, 2), (512, 6), (1024, 2))
)
"""The paper's stages; all but the first begin by halving."""


class SeparableBlock(nn.Module):
    """A depthwise convolution, then one of 1 by 1 over the channels."""

    def __init__(self, inputs: int, outputs: int, stride: int, kernel: int = 3) -> None:
        super().__init__()
        act = nn.ReLU()
        self.depthwise = ConvNorm(inputs, inputs, kernel, stride, depthwise=True, activation=act)
        self.pointwise = ConvNorm(inputs, outputs, 1, activation=nn.ReLU())

    def forward(self, images: Tensor) -> Tensor:
        made: Tensor = self.pointwise(self.depthwise(images))
        return made


def mobilenet_v1(
    classes: int = 100,
    width: float = 1.0,
    stem_stride: int = 2,
    in_channels: int = 3,
    stages: Stages | None = None,
) -> ConvNet:
    """MobileNetV1.

    Args:
        classes: how many logits.
        width: factor of all channels.
        stem_stride: of the first convolution; 2 in the paper.
        in_channels: of the images.
        stages: what differs from `STAGES`.

    Example:
        >>> sum(p.numel() for p in mobilenet_v1(classes=1000).parameters())
        4231976
    """
    check(classes, width, stem_stride, in_channels)
    inputs, made = channels(32, width), []
    stem = ConvNorm(in_channels, inputs, 3, stem_stride, activation=nn.ReLU())
    for stage, row in enumerate(table(STAGES, stages)):
        outputs, blocks = channels(row["channels"], width), []
        for number in range(row["blocks"]):
            stride = 2 if stage and not number else 1
            blocks.append(SeparableBlock(inputs, outputs, stride, row["kernel"]))
            inputs = outputs
        made.append(blocks)
    return ConvNet(stem, made, nn.Linear(inputs, classes))
