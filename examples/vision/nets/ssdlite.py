"""SSDLite (Sandler et al., 2018), a detector: classes and boxes at anchors of several sizes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pantheon.nets.layers import ConvNorm, channels, check, initialise
from pantheon.nets.mobilenet1 import SeparableBlock

STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))
"""Channels and blocks of each stage of the backbone, MobileNetV1's; the last two are looked at."""

BOX = 4
"""Numbers of a box: centre, width and height, relative to the anchor."""


class SSDLite(nn.Module):
    """A backbone, whose last two stages each have heads for classes and boxes.

    Args:
        classes: of an object, the background included.
        anchors: at each place.
    """

    def __init__(self, classes: int, width: float, anchors: int, in_channels: int) -> None:
        super().__init__()
        self.classes = classes
        inputs, stages = channels(32, width), []
        self.stem = ConvNorm(in_channels, inputs, 3, 2, activation=nn.ReLU())
        for stage, (count, depth) in enumerate(STAGES):
            outputs, blocks = channels(count, width), []
            for number in range(depth):
                blocks.append(SeparableBlock(inputs, outputs, 2 if stage and not number else 1))
                inputs = outputs
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)
        looked_at = [channels(count, width) for count, _ in STAGES[-2:]]
        self.scores = nn.ModuleList(_head(i, anchors * classes) for i in looked_at)
        self.boxes = nn.ModuleList(_head(i, anchors * BOX) for i in looked_at)
        initialise(self)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Of images ``[n, in_channels, height, width]`` what each of a anchors answers.

        Returns:
            ``logits`` ``[n, a, classes]`` and ``boxes`` ``[n, a, 4]``.
        """
        made, maps = self.stem(images), []
        for stage in self.stages:
            made = stage(made)
            maps.append(made)
        maps = maps[-2:]
        scores = [head(m) for head, m in zip(self.scores, maps, strict=True)]
        boxes = [head(m) for head, m in zip(self.boxes, maps, strict=True)]
        return {"logits": _listed(scores, self.classes), "boxes": _listed(boxes, BOX)}


def _head(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        ConvNorm(inputs, inputs, 3, depthwise=True, activation=nn.ReLU()),
        nn.Conv2d(inputs, outputs, 1),
    )


def _listed(maps: list[Tensor], size: int) -> Tensor:
    """All places of some maps ``[n, anchors * size, height, width]`` as one list."""
    rows = [m.permute(0, 2, 3, 1).reshape(m.shape[0], -1, size) for m in maps]
    return torch.cat(rows, 1)


def ssdlite(
    classes: int = 21, width: float = 1.0, anchors: int = 6, in_channels: int = 3
) -> SSDLite:
    """SSDLite on the first stages of MobileNetV1.

    Args:
        classes: of an object, the background included.
        width: factor of all channels.
        anchors: at each place.
        in_channels: of the images.

    Example:
        >>> found = ssdlite(classes=5, width=0.25)(torch.zeros(1, 3, 64, 64))
        >>> found["logits"].shape, found["boxes"].shape
        (torch.Size([1, 480, 5]), torch.Size([1, 480, 4]))
    """
    check(classes, width, 2, in_channels)
    return SSDLite(classes, width, anchors, in_channels)
