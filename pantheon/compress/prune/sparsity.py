"""Which single weights are set to zero, and how many as a training goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pantheon.errors import ConfigError

Pattern = Literal["unstructured", "2:4"]


def magnitude_masks(
    weights: Mapping[str, Tensor],
    sparsity: float,
    *,
    across: bool = True,
    block: tuple[int, int] = (1, 1),
) -> dict[str, Tensor]:
    """Masks that set the weights of the smallest magnitude to zero.

    Args:
        weights: by path, ``[outputs, ...]``.
        sparsity: the fraction that goes, of all together or of each.
        across: whether layers are compared with each other.
        block: rows and columns of the weight as a matrix ``[outputs, inputs]`` that go together, by
            the mean of their magnitudes; weights that no whole block covers stay.

    Returns:
        bool, by path, of the weights' shapes; False is zero.

    Example:
        >>> masks = magnitude_masks({"a": torch.tensor([[1.0, -4.0], [0.5, 3.0]])}, 0.5)
        >>> masks["a"].tolist()
        [[False, True], [False, True]]
    """
    found = {path: _blocks(weight, block) for path, weight in weights.items()}
    if across:
        every = torch.cat([values.flatten() for values in found.values()])
        gone = _lowest(every, round(sparsity * every.numel()))
        parts = torch.split(gone, [values.numel() for values in found.values()])
    else:
        parts = tuple(_lowest(v.flatten(), round(sparsity * v.numel())) for v in found.values())
    return {
        path: _spread(~part.reshape(found[path].shape), weights[path].shape, block)
        for path, part in zip(weights, parts, strict=True)
    }


def _blocks(weight: Tensor, block: tuple[int, int]) -> Tensor:
    """Mean magnitudes ``[rows, columns]`` of the whole blocks."""
    rows, columns = block
    matrix = weight.detach().flatten(1).abs()
    height, width = matrix.shape[0] // rows, matrix.shape[1] // columns
    if not height or not width:
        raise ConfigError(
            f"a weight of shape {list(weight.shape)} has no whole block of {rows} x {columns}; use "
            "smaller blocks, or keep the layer out"
        )
    whole = matrix[: height * rows, : width * columns]
    return whole.reshape(height, rows, width, columns).mean((1, 3))


def _lowest(values: Tensor, count: int) -> Tensor:
    """Where the `count` lowest are, of equal ones the first."""
    gone = torch.zeros(len(values), dtype=torch.bool, device=values.device)
    gone[values.argsort(stable=True)[:count]] = True
    return gone


def _spread(kept: Tensor, shape: torch.Size, block: tuple[int, int]) -> Tensor:
    whole = kept.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)
    mask = torch.ones(shape[0], shape[1:].numel(), dtype=torch.bool, device=kept.device)
    mask[: whole.shape[0], : whole.shape[1]] = whole
    return mask.reshape(shape)


def two_of_four(weight: Tensor) -> Tensor:
    """The mask that keeps the two largest of each four consecutive inputs.

    Mishra et al., "Accelerating Sparse Deep Neural Networks", 2021. Of a convolution the four are
    input channels at one position of the kernel.

    Args:
        weight: ``[outputs, inputs, ...]``; inputs a multiple of 4.

    Example:
        >>> two_of_four(torch.tensor([[1.0, -4.0, 0.5, 3.0]])).tolist()
        [[False, True, False, True]]
    """
    if weight.shape[1] % 4:
        raise ConfigError(
            f"a weight of shape {list(weight.shape)} has {weight.shape[1]} inputs; 2:4 needs a "
            "multiple of 4: keep the layer out"
        )
    fours = weight.detach().abs().movedim(1, -1)
    shape = fours.shape
    fours = fours.reshape(-1, 4)
    lowest = fours.argsort(dim=1, stable=True)[:, :2]
    mask = torch.ones_like(fours, dtype=torch.bool).scatter(1, lowest, False)
    return mask.reshape(shape).movedim(-1, 1).contiguous()


@dataclass(frozen=True, slots=True)
class Gradual:
    """How sparsity grows over the steps of a training, by the cubic of Zhu and Gupta, 2017.

    Args:
        sparsity: in the end.
        stable: steps before it begins.
        ramp: steps over which it grows, in `updates` updates.
        updates: of the masks.
        initial: sparsity at the first update.

    Raises:
        ConfigError: more updates than steps, or an end below the beginning.

    Example:
        >>> gradual = Gradual(0.8, stable=10, ramp=40, updates=4)
        >>> [round(gradual.at(step), 4) for step in (9, 10, 20, 30, 40, 50)]
        [0.0, 0.0, 0.4625, 0.7, 0.7875, 0.8]
    """

    sparsity: float
    stable: int = 0
    ramp: int = 0
    updates: int = 1
    initial: float = 0.0

    def __post_init__(self) -> None:
        if self.ramp and not 1 <= self.updates <= self.ramp:
            raise ConfigError(
                f"masks are to be updated {self.updates} times in {self.ramp} steps; expected 1 to "
                f"{self.ramp} updates"
            )
        if not 0 <= self.initial <= self.sparsity < 1:
            raise ConfigError(
                f"sparsity is to grow from {self.initial} to {self.sparsity}; expected fractions "
                "that grow, below 1"
            )

    def at(self, step: int) -> float:
        """The sparsity after a number of steps."""
        if step < self.stable:
            return 0.0
        if step >= self.stable + self.ramp:
            return self.sparsity
        i = (step - self.stable) * self.updates // self.ramp
        grown = (i / self.updates - 1) ** 3 + 1
        return grown * (self.sparsity - self.initial) + self.initial
