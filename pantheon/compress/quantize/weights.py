"""Modules that round weights and biases to the integers of a grid, as real numbers again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pantheon.compress.quantize.grid import Grid
from pantheon.compress.quantize.observers import FRACTIONS
from pantheon.compress.quantize.rounding import LEAST, DynamicRounder, Rounder, stepped
from pantheon.compress.quantize.taps import unseen

T = TypeVar("T", bound=nn.Module)


class WeightRounder(nn.Module):
    """Rounds a layer's weight, by the largest absolute value that it has at the time.

    A parametrization of the weight: see `torch.nn.utils.parametrize`.

    Args:
        grid: the integers; signed.
        channel_dim: the dimension of output channels, where each has a scale of its own.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> rounder = WeightRounder(Grid(2), channel_dim=0)
        >>> rounder(torch.tensor([[4.0, 1.0], [1.0, 1.0]]))
        tensor([[4., 0.],
                [1., 1.]])
    """

    def __init__(self, grid: Grid, channel_dim: int | None) -> None:
        super().__init__()
        self.grid, self.channel_dim = grid, channel_dim

    def start(self, weight: Tensor) -> None:
        """Begin with the weight that is to be rounded."""

    def scale(self, weight: Tensor) -> Tensor:
        """What one step stands for: one number, or ``[channels]``."""
        sizes = self._by_channel(weight.detach().abs())
        return self.grid.scale(sizes.amax(1).clamp(min=LEAST).reshape(self._shape(weight)))

    def fitting(self, weight: Tensor) -> Tensor:
        """The same, of a shape that a weight can be divided by."""
        scale = self.scale(weight)
        if self.channel_dim is None:
            return scale
        return scale.reshape([-1 if d == self.channel_dim else 1 for d in range(weight.ndim)])

    def forward(self, weight: Tensor) -> Tensor:
        """Round a float weight."""
        with unseen():
            return self.grid.rounded(weight, self.scale(weight), self.channel_dim)

    def _by_channel(self, weight: Tensor) -> Tensor:
        """``[channels, others]``; one channel where all have one scale."""
        if self.channel_dim is None:
            return weight.reshape(1, -1)
        return weight.movedim(self.channel_dim, 0).flatten(1)

    def _shape(self, weight: Tensor) -> tuple[int, ...]:
        """Of the scale."""
        return () if self.channel_dim is None else (weight.shape[self.channel_dim],)


class LeastErrorWeightRounder(WeightRounder):
    """Rounds a weight by the thresholds at which that errs least, which stay in training.

    Of each channel those fractions of its largest absolute value are tried that observers of
    activations try; what is above is clipped.

    Args:
        grid: the integers; signed.
        channel_dim: see `WeightRounder`.
        shape: of the weight.

    Attributes:
        threshold: float32, one number or ``[channels]``.

    Example:
        >>> weight = torch.tensor([[1.0, 0.49, 0.49, -0.49]])
        >>> rounder = LeastErrorWeightRounder(Grid(2), 0, weight.shape)
        >>> rounder.start(weight)
        >>> rounder.threshold
        tensor([0.6200])
    """

    threshold: Tensor

    def __init__(self, grid: Grid, channel_dim: int | None, shape: Sequence[int]) -> None:
        super().__init__(grid, channel_dim)
        self.register_buffer("threshold", torch.ones(self._shape(torch.empty(*shape))))

    @torch.no_grad()
    def start(self, weight: Tensor) -> None:
        """Find the thresholds of this weight."""
        rows = self._by_channel(weight.float())
        largest = rows.abs().amax(1).clamp(min=LEAST)
        tried = torch.stack([fraction * largest for fraction in FRACTIONS])
        errors = [
            (rows - self.grid.rounded(rows, self.grid.scale(each), 0)).square().sum(1)
            for each in tried
        ]
        best = torch.stack(errors).argmin(0)
        self.threshold.copy_(tried.gather(0, best[None])[0].reshape(self.threshold.shape))

    def scale(self, weight: Tensor) -> Tensor:
        """What one step stands for: one number, or ``[channels]``."""
        return self.grid.scale(self.threshold.clamp(min=LEAST))


class StepWeightRounder(LeastErrorWeightRounder):
    """Learns what one step of a weight stands for, by LSQ: see `StepRounder`.

    It begins with the thresholds of the least error, as those of LSQ's paper are for weights of a
    normal distribution only.
    """

    def __init__(self, grid: Grid, channel_dim: int | None, shape: Sequence[int]) -> None:
        super().__init__(grid, channel_dim, shape)
        started = self.threshold
        del self.threshold
        self.threshold = nn.Parameter(started)

    def forward(self, weight: Tensor) -> Tensor:
        """Round a float weight."""
        with unseen():
            scale = self.fitting(weight)
            return stepped(weight, scale, self.grid, weight.numel() // scale.numel())


def weight_rounder(by: str, grid: Grid, channel_dim: int | None, weight: Tensor) -> WeightRounder:
    """A rounder of a weight, by one of `WEIGHT_ROUNDERS`."""
    if by == "abs_max":
        return WeightRounder(grid, channel_dim)
    kind = StepWeightRounder if by == "lsq" else LeastErrorWeightRounder
    return kind(grid, channel_dim, weight.shape)


WEIGHT_ROUNDERS = ("abs_max", "mse", "lsq")
"""What a weight may be rounded by."""


class BiasRounder(nn.Module):
    """Rounds a layer's bias to what kernels add to sums of integers.

    A parametrization of the bias. One step is that of what the layer is given times that of its
    weight, so that an integer of 32 bits stands for it; and more where the bias would not fit, as
    in a channel without weights. Gradients pass. Where the layer is given what is rounded by its
    own extremes at run time, or its weight is not rounded, the bias stays real.

    Args:
        layer: with a weight that is rounded.
        rounders: of activations.
        place: in these, of what the layer is given.

    Example:
        >>> from pantheon.compress.quantize.rounding import Rounder
        >>> layer, given = nn.Linear(1, 1), Rounder(Grid(4, signed=False))
        >>> _ = layer.weight.data.fill_(7.0), layer.bias.data.fill_(2.4)
        >>> parametrize.register_parametrization(layer, "weight", WeightRounder(Grid(4), None))
        ParametrizedLinear(...
        >>> given.start(15.0)  # One step is 1, of the weight too.
        >>> BiasRounder(layer, nn.ModuleList([given]), 0)(layer.bias.data)
        tensor([2.])
    """

    def __init__(self, layer: nn.Module, rounders: nn.ModuleList, place: int) -> None:
        super().__init__()
        # In a tuple, so that they are no parts of this; what stands there may be replaced.
        self._of = layer, rounders
        self.place = place

    @torch.no_grad()
    def step(self) -> Tensor | None:
        """What one step stands for: float32, one number or ``[channels]``; None of a real bias."""
        layer, rounders = self._of
        given, own = rounders[self.place], weight_rounders(layer)
        if isinstance(given, DynamicRounder) or not isinstance(given, Rounder) or not own:
            return None
        return given.scale.float() * own[0].scale(original_weight(layer)).float()

    def forward(self, bias: Tensor) -> Tensor:
        """Round a float bias."""
        with unseen():
            step = self.step()
            if step is None:
                return bias
            real = bias.detach().double()
            size = real.abs() if step.ndim else real.abs().max()
            step = torch.maximum(step.double(), size * _ROOM).clamp(min=LEAST)
            return bias + ((real / step).round() * step - real).to(bias.dtype)


_ROOM = 1.0001 / ((1 << 31) - 1)
"""The least step of a bias, by the bias; ONNX Runtime leaves as much room."""


def weight_rounders(layer: nn.Module) -> list[WeightRounder]:
    """What rounds the weight of a layer: one, or nothing."""
    return _rounders(layer, "weight", WeightRounder)


def original_weight(layer: nn.Module) -> Tensor:
    """The weight of a layer as it is before it is rounded.

    Example:
        >>> from pantheon.compress.quantize.edit import RoundTensors, Weight
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> _ = RoundTensors((), {"0": Weight()}).apply(nn.Sequential(layer))
        >>> original_weight(layer) is layer.parametrizations.weight.original
        True
    """
    every = cast(Any, layer.parametrizations)["weight"]
    weight = every.original
    for each in every:
        weight = weight if isinstance(each, WeightRounder) else each(weight)
    return cast(Tensor, weight)


def original_bias(layer: nn.Module) -> nn.Parameter | None:
    """The bias of a layer as it is before it is rounded; None of one without.

    Example:
        >>> layer = nn.Linear(1, 1)
        >>> original_bias(layer) is layer.bias
        True
    """
    if _rounders(layer, "bias", BiasRounder):
        return cast(nn.Parameter, cast(Any, layer.parametrizations)["bias"].original)
    return layer._parameters.get("bias")


def _rounders(layer: nn.Module, name: str, kind: type[T]) -> list[T]:
    if not parametrize.is_parametrized(layer, name):
        return []
    return [each for each in cast(Any, layer.parametrizations)[name] if isinstance(each, kind)]
