"""Choosing whether each value of a weight is rounded up or down, by what the layer answers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pantheon.compress.quantize.answers import Seen
from pantheon.compress.quantize.grid import Grid
from pantheon.compress.quantize.weights import WeightRounder

LOWEST, HIGHEST = -0.1, 1.1
"""Where the sigmoid is stretched to, before it is clipped to 0 and 1: gamma and zeta."""

WARM_UP, FIRST_BETA, LAST_BETA, LAMBDA = 0.2, 20.0, 2.0, 100.0
"""The part of the steps without regulariser, its exponent after that, and its factor.

A factor of 100 is about what the paper's 0.01 comes to for images at 4 bits, where the rounding of
one weight to nearest costs 1e-4: from 10 to 10,000 the errors differ little, below 1 many weights
stay undecided.
"""

EDGE = 1e-3
"""How near to the grid's end, in steps, a weight is at it."""


class Choice:
    """A weight between the two integers that are next to each of its values.

    Values at the grid's ends stay there: scales may be found by them.

    Args:
        rounder: of the weight.
        weight: as it is before it is rounded.

    Attributes:
        values: what is learned, V; of the weight's shape.

    Example:
        >>> weight = torch.tensor([[3.0, 0.4, -0.4]])
        >>> choice = Choice(WeightRounder(Grid(3), 0), weight)
        >>> choice.up[:, 1:]
        tensor([[0.4000, 0.6000]], grad_fn=<SliceBackward0>)
        >>> choice.rounded(torch.ones(1, 3)), choice.rounded(torch.zeros(1, 3))
        (tensor([[3., 1., 0.]]), tensor([[ 3.,  0., -1.]]))
    """

    def __init__(self, rounder: WeightRounder, weight: Tensor) -> None:
        self.weight = weight.float()
        self.grid: Grid = rounder.grid
        self.scale = rounder.fitting(weight).detach().float()
        places = self.weight / self.scale
        self.floor, self.ends = places.floor(), places.abs() > self.grid.highest - EDGE
        part = (places - self.floor - LOWEST) / (HIGHEST - LOWEST)
        self.values = nn.Parameter(torch.logit(part))

    @property
    def up(self) -> Tensor:
        """How far each value goes up from the lower integer, 0 to 1: h."""
        return (self.values.sigmoid() * (HIGHEST - LOWEST) + LOWEST).clamp(0, 1)

    @property
    def decided(self) -> Tensor:
        """0 or 1, whichever is nearer to that."""
        return (self.up.detach() >= 0.5).float()

    def places(self, up: Tensor) -> Tensor:
        """In steps."""
        free = (self.floor + up).clamp(self.grid.lowest, self.grid.highest)
        return torch.where(self.ends, self.weight.sign() * self.grid.highest, free)

    def rounded(self, up: Tensor) -> Tensor:
        """The weight, float32, if each value goes so far up."""
        return self.scale * self.places(up)

    @torch.no_grad()
    def settled(self) -> Tensor:
        """A weight that has the same scale, and is rounded to what was chosen.

        What has come to the grid's end is left a bit inside, so that its channel's largest value is
        the one that it was: on some devices a scale that is found again from seven of its own steps
        is another one by its last digit.
        """
        most = self.grid.highest - EDGE
        inside = self.scale * self.places(self.decided).clamp(-most, most)
        return torch.where(self.ends, self.weight, inside)


@torch.enable_grad()
def learn(
    choice: Choice,
    layer: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    steps: int,
    nearest: float,
    lr: float,
) -> None:
    """Learn which way each value goes.

    Args:
        choice: of the layer's weight.
        batches: what the layer is given, and is to answer; as many as steps.
        nearest: the error of rounding to nearest, above 0.
        lr: of Adam.
    """
    optimizer = torch.optim.Adam([choice.values], lr=lr)
    unit, bias = nearest / choice.values.numel(), _bias(layer)
    for step, (inputs, answers) in enumerate(batches):
        up = choice.up
        loss = F.mse_loss(_answer(layer, inputs, choice.rounded(up), bias), answers) / unit
        past = (step / steps - WARM_UP) / (1 - WARM_UP)
        if past >= 0:
            beta = FIRST_BETA + (LAST_BETA - FIRST_BETA) * past
            loss = loss + LAMBDA * (1 - (2 * up - 1).abs().pow(beta)).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
        optimizer.step()


@torch.no_grad()
def error_of(layer: nn.Module, weight: Tensor, seen: Seen) -> float:
    """The mean squared error of what a layer answers with a weight, in float64."""
    total, count, bias = 0.0, 0, _bias(layer)
    for inputs, answers in zip(seen.inputs, seen.answers, strict=True):
        for some, wanted in zip(torch.split(inputs, 32), torch.split(answers, 32), strict=True):
            found = _answer(layer, some, weight, bias)
            total += float((found - wanted).square().sum(dtype=torch.float64))
            count += wanted.numel()
    return total / count


def _bias(layer: nn.Module) -> Tensor | None:
    """The bias that a layer adds; it is rounded anew whenever it is asked for."""
    found = cast(Any, layer).bias
    return None if found is None else found.detach()


def _answer(layer: nn.Module, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What a layer answers with another weight."""
    weight = weight.to(inputs.dtype)
    if isinstance(layer, nn.Linear):
        return F.linear(inputs, weight, bias)
    answer: Tensor = cast(Any, layer)._conv_forward(inputs, weight, bias)
    return answer


@torch.no_grad()
def settle(layer: nn.Module, weight: Tensor) -> None:
    """Give a layer another weight, before it is rounded."""
    cast(Any, layer.parametrizations)["weight"].original.copy_(weight)
