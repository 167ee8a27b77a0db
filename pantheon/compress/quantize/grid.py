"""The integers that a tensor is rounded to, and what it is after that."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pantheon.errors import ConfigError

BITS = range(2, 9)
"""How many bits an integer may have."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Integers of some bits, symmetric about zero.

    Signed ones leave the lowest out, so that -x is there for each x. Unsigned ones are for tensors
    that are never negative, such as what a ReLU answers; they are twice as fine. Zero is one of
    them in both, exactly.

    Args:
        bits: 2 to 8.
        signed: whether there are negative ones.

    Raises:
        ConfigError: other bits.

    Example:
        >>> Grid(8), Grid(8).lowest, Grid(8).highest, Grid(8, signed=False).highest
        (Grid(bits=8, signed=True), -127, 127, 255)
    """

    bits: int = 8
    signed: bool = True

    def __post_init__(self) -> None:
        if type(self.bits) is not int or self.bits not in BITS:
            raise ConfigError(f"bits is {self.bits!r}; expected {BITS.start} to {BITS.stop - 1}")

    @property
    def highest(self) -> int:
        """The largest integer."""
        return (1 << (self.bits - self.signed)) - 1

    @property
    def lowest(self) -> int:
        """The smallest integer."""
        return -self.highest if self.signed else 0

    def scale(self, threshold: Tensor) -> Tensor:
        """The real number that one step stands for.

        Args:
            threshold: float32 of any shape, above 0; the largest value that is not clipped.

        Example:
            >>> Grid(4).scale(torch.tensor(14.0))
            tensor(2.)
        """
        return threshold / self.highest

    def spread(self, values: Tensor, least: Tensor, most: Tensor) -> Tensor:
        """Values rounded to as many integers as there are bits for, from one value to another.

        As ONNX's DynamicQuantizeLinear, of any number of bits; the integers are never negative, and
        the grid's sign does not matter. Gradients pass.

        Args:
            values: float.
            least: float, at most 0; most: float, at least 0.

        Returns:
            Of the same shape and dtype; computed in float32.

        Example:
            >>> values = torch.tensor([-1.0, 0.4, 2.0])
            >>> Grid(2).spread(values, values.min(), values.max())
            tensor([-1.,  0.,  2.])
        """
        if values.dtype != torch.float32:
            return self.spread(values.float(), least.float(), most.float()).to(values.dtype)
        levels = (1 << self.bits) - 1
        scale = (most - least) / levels
        scale = torch.where(scale > 0, scale, 1.0)
        zero = (-least / scale).round().clamp(0, levels).int()
        return torch.fake_quantize_per_tensor_affine(
            values, scale.reshape(1), zero.reshape(1), 0, levels
        )

    def rounded(self, values: Tensor, scale: Tensor, channel_dim: int | None = None) -> Tensor:
        """The nearest integers to values, as real numbers again.

        Halves go to the even one, as in ONNX's QuantizeLinear. Gradients pass where a value is not
        clipped (Bengio et al., "Estimating or Propagating Gradients Through Stochastic Neurons",
        2013); the scale has none.

        Args:
            values: float.
            scale: float, one number, or ``[channels]``.
            channel_dim: the dimension of channels, where each has a scale of its own.

        Returns:
            Of the same shape and dtype; computed in float32.

        Example:
            >>> Grid(4).rounded(torch.tensor([1.0, 2.9, 3.0, -99.0]), torch.tensor(2.0))
            tensor([  0.,   2.,   4., -14.])
        """
        if values.dtype != torch.float32 or scale.dtype != torch.float32:
            # The kernels below take no other; wider ones lose what is far below a step.
            return self.rounded(values.float(), scale.float(), channel_dim).to(values.dtype)
        if channel_dim is None:
            zero = torch.zeros(1, dtype=torch.int32, device=values.device)
            return torch.fake_quantize_per_tensor_affine(
                values, scale.reshape(1), zero, self.lowest, self.highest
            )
        zeros = torch.zeros(len(scale), dtype=torch.int32, device=values.device)
        return torch.fake_quantize_per_channel_affine(
            values, scale, zeros, channel_dim, self.lowest, self.highest
        )
