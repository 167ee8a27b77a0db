"""MobileNetV2 (Sandler et al., 2018)."""

from __future__ import annotations

from torch import Tensor, nn

from pantheon.nets.layers import ConvNet, ConvNorm, Stages, channels, check, table

STAGES = tuple(
    {"expansion": expansion, "channels": channels, "blocks": blocks, "stride": stride, "kernel": 3}
    for expansion, channels, blocks, stride in (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )
)
"""The paper's table 2; a stage's first block has its stride."""


class InvertedResidual(nn.Module):
    """Channels expanded, convolved depthwise and projected back without an activation.

    Beside a shortcut where the shape stays.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int, kernel: int) -> None:
        super().__init__()
        inner, act = inputs * expansion, nn.ReLU6()
        self.expand = (
            nn.Identity() if expansion == 1 else ConvNorm(inputs, inner, 1, activation=nn.ReLU6())
        )
        self.depthwise = ConvNorm(inner, inner, kernel, stride, depthwise=True, activation=act)
        self.project = ConvNorm(inner, outputs, 1)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, images: Tensor) -> Tensor:
        made: Tensor = self.project(self.depthwise(self.expand(images)))
        return images + made if self.residual else made


def mobilenet_v2(
    classes: int = 100,
    width: float = 1.0,
    stem_stride: int = 2,
    in_channels: int = 3,
    stages: Stages | None = None,
) -> ConvNet:
    """MobileNetV2, without dropout.

    Args:
        classes: how many logits.
        width: factor of all channels; below 1 the last convolution keeps its 1,280.
        stem_stride: of the first convolution; 2 in the paper.
        in_channels: of the images.
        stages: what differs from `STAGES`.

    Example:
        >>> sum(p.numel() for p in mobilenet_v2(classes=1000).parameters())
        3504872
    """
    check(classes, width, stem_stride, in_channels)
    inputs, made = channels(32, width), []
    stem = ConvNorm(in_channels, inputs, 3, stem_stride, activation=nn.ReLU6())
    for row in table(STAGES, stages):
        outputs, blocks = channels(row["channels"], width), []
        for number in range(row["blocks"]):
            stride = 1 if number else row["stride"]
            blocks.append(
                InvertedResidual(inputs, outputs, stride, row["expansion"], row["kernel"])
            )
            inputs = outputs
        made.append(blocks)
    features = channels(1280, max(1.0, width))
    last = ConvNorm(inputs, features, 1, activation=nn.ReLU6())
    return ConvNet(stem, made, nn.Linear(features, classes), last)
