"""ResNet-18 and ResNet-50 (He et al., 2016)."""

from __future__ import annotations

from torch import Tensor, nn

from pantheon.nets.layers import ConvNet, ConvNorm, Stages, channels, check, table


class BasicBlock(nn.Module):
    """Two convolutions of 3 by 3 beside a shortcut; answers ``planes`` channels."""

    expansion = 1

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(planes)
        self.act1 = nn.ReLU()
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(planes)
        self.shortcut = _shortcut(inputs, planes, stride)
        self.act2 = nn.ReLU()

    def forward(self, images: Tensor) -> Tensor:
        inner = self.act1(self.norm1(self.conv1(images)))
        inner = self.norm2(self.conv2(inner))
        made: Tensor = self.act2(inner + self.shortcut(images))
        return made


class Bottleneck(nn.Module):
    """Convolutions of 1, 3 and 1 beside a shortcut; answers four times ``planes`` channels.

    The one of 3 by 3 has the stride, not the first as in the paper (Goyal et al., 2017).
    """

    expansion = 4

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        outputs = planes * self.expansion
        self.conv1 = nn.Conv2d(inputs, planes, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(planes)
        self.act1 = nn.ReLU()
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(planes)
        self.act2 = nn.ReLU()
        self.conv3 = nn.Conv2d(planes, outputs, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(outputs)
        self.shortcut = _shortcut(inputs, outputs, stride)
        self.act3 = nn.ReLU()

    def forward(self, images: Tensor) -> Tensor:
        inner = self.act1(self.norm1(self.conv1(images)))
        inner = self.act2(self.norm2(self.conv2(inner)))
        inner = self.norm3(self.conv3(inner))
        made: Tensor = self.act3(inner + self.shortcut(images))
        return made


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    """What goes round a block: itself, or a projection where the shape changes."""
    same = inputs == outputs and stride == 1
    return nn.Identity() if same else ConvNorm(inputs, outputs, 1, stride)


def resnet18(
    classes: int = 100,
    width: float = 1.0,
    stem_stride: int = 2,
    in_channels: int = 3,
    stages: Stages | None = None,
) -> ConvNet:
    """ResNet-18.

    Args:
        classes: how many logits.
        width: factor of all channels.
        stem_stride: 2 for the paper's stem, a convolution of 7 by 7 and max pooling, which divides
            sides by 4; 1 for one of 3 by 3 that keeps the size, as is usual for small images.
        in_channels: of the images.
        stages: what differs from the paper's channels (of a block's first convolution) and blocks.

    Example:
        >>> sum(p.numel() for p in resnet18(classes=1000).parameters())
        11689512
    """
    return _resnet(BasicBlock, (2, 2, 2, 2), classes, width, stem_stride, in_channels, stages)


def resnet50(
    classes: int = 100,
    width: float = 1.0,
    stem_stride: int = 2,
    in_channels: int = 3,
    stages: Stages | None = None,
) -> ConvNet:
    """ResNet-50; arguments as for `resnet18`.

    Example:
        >>> sum(p.numel() for p in resnet50(classes=1000).parameters())
        25557032
    """
    return _resnet(Bottleneck, (3, 4, 6, 3), classes, width, stem_stride, in_channels, stages)


def _resnet(
    block: type[BasicBlock] | type[Bottleneck],
    depths: tuple[int, ...],
    classes: int,
    width: float,
    stem_stride: int,
    in_channels: int,
    stages: Stages | None,
) -> ConvNet:
    check(classes, width, stem_stride, in_channels)
    paper = [{"channels": 64 * 2**stage, "blocks": depth} for stage, depth in enumerate(depths)]
    inputs, made = channels(64, width), []
    stem = _stem(in_channels, inputs, stem_stride)
    for stage, row in enumerate(table(paper, stages)):
        planes, blocks = channels(row["channels"], width), []
        for number in range(row["blocks"]):
            blocks.append(block(inputs, planes, 2 if stage and not number else 1))
            inputs = planes * block.expansion
        made.append(blocks)
    return ConvNet(stem, made, nn.Linear(inputs, classes))


def _stem(inputs: int, outputs: int, stride: int) -> nn.Module:
    if stride == 1:
        return nn.Sequential(ConvNorm(inputs, outputs, 3, activation=nn.ReLU()))
    first = ConvNorm(inputs, outputs, 7, stride, activation=nn.ReLU())
    return nn.Sequential(first, nn.MaxPool2d(3, 2, 1))
