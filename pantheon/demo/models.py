"""The demo's two teachers and its student."""

from __future__ import annotations

from torch import nn

from pantheon.demo.data import CLASSES, PIXELS


def conv_net(width: int = 24) -> nn.Module:
    """Teacher A: a convolutional net of two stages.

    Example:
        >>> sum(p.numel() for p in conv_net().parameters())
        30298
    """
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        *_stage(1, width),
        *_stage(width, 2 * width),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(8 * width, 4 * width),
        nn.ReLU(),
        nn.Linear(4 * width, CLASSES),
    )


def _stage(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1)
    return convolution, nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)


def wide_mlp(width: int = 512) -> nn.Module:
    """Teacher B: a multilayer perceptron of two wide layers.

    Example:
        >>> sum(p.numel() for p in wide_mlp().parameters())
        301066
    """
    return nn.Sequential(
        nn.Linear(PIXELS, width),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(width, CLASSES),
    )


def student(width: int = 16, depth: int = 1) -> nn.Module:
    """The student: one hidden layer of 16 units, or more of another width.

    Example:
        >>> sum(p.numel() for p in student().parameters())
        1210
        >>> sum(p.numel() for p in student(width=8, depth=2).parameters())
        682
    """
    layers: list[nn.Module] = [nn.Linear(PIXELS, width), nn.ReLU()]
    for _ in range(depth - 1):
        layers += [nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, CLASSES))
