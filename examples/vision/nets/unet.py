"""U-Net (Ronneberger et al., 2015), a segmenter: a class for every pixel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pantheon.nets.layers import ConvNorm, channels, check, initialise

STAGES = (64, 128, 256, 512)
"""Channels at each resolution, from the finest; each after the first has half the sides."""


def double(inputs: int, outputs: int) -> nn.Sequential:
    """Two convolutions of 3 by 3."""
    first = ConvNorm(inputs, outputs, 3, activation=nn.ReLU())
    return nn.Sequential(first, ConvNorm(outputs, outputs, 3, activation=nn.ReLU()))


class UNet(nn.Module):
    """A way down by halving and a way up by transposed convolutions.

    Each step up is put side by side with what the way down had at that resolution. Convolutions pad
    their edges, so that there is an answer for every pixel, and are followed by batch norm.
    """

    def __init__(self, classes: int, widths: list[int], in_channels: int) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(2)
        pairs = zip([in_channels, *widths], widths, strict=False)
        self.down = nn.ModuleList(double(inputs, outputs) for inputs, outputs in pairs)
        steps = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(i, o, 2, 2) for i, o in steps)
        self.join = nn.ModuleList(double(2 * o, o) for _, o in steps)
        self.head = nn.Conv2d(widths[0], classes, 1)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[n, classes, height, width]`` of images ``[n, in_channels, height, width]``."""
        kept: list[Tensor] = []
        made = images
        for number, layers in enumerate(self.down):
            made = layers(self.pool(made) if number else made)
            kept.append(made)
        kept.pop()
        for up, join in zip(self.up, self.join, strict=True):
            made = join(torch.cat([kept.pop(), up(made)], 1))
        logits: Tensor = self.head(made)
        return logits


def unet(classes: int = 21, width: float = 1.0, in_channels: int = 3) -> UNet:
    """U-Net of four resolutions.

    Args:
        classes: of each pixel.
        width: factor of all channels.
        in_channels: of the images, whose sides are multiples of 8.

    Example:
        >>> unet(classes=5, width=0.125)(torch.zeros(1, 3, 16, 24)).shape
        torch.Size([1, 5, 16, 24])
    """
    check(classes, width, 1, in_channels)
    return UNet(classes, [channels(count, width) for count in STAGES], in_channels)
