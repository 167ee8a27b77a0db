"""Top-k logits and their mixtures: a few classes exactly, the rest as one mass per temperature."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pantheon.errors import SchemaError, UndeclaredTemperature

Index = int | slice | Tensor


def temperature_index(temperatures: tuple[float, ...], temperature: float) -> int:
    """Where a declared temperature stands; `UndeclaredTemperature` names the declared ones."""
    try:
        return temperatures.index(float(temperature))
    except ValueError:
        declared = ", ".join(f"{t:g}" for t in temperatures)
        raise UndeclaredTemperature(
            f"top-k knowledge carries the mass of its tail for the temperatures {declared}, not "
            f"{temperature:g}; declare it where the teacher is served or dumped, such as "
            f"TopK(k, temperatures=({declared}, {temperature:g}))"
        ) from None


@dataclass(slots=True, eq=False)
class TopKLogits:
    """The largest logits of each row, and the log-sum-exp of the others per temperature.

    Args:
        values: float32 ``[rows..., k]``, logits, descending.
        indices: int32 ``[rows..., k]``, the classes they belong to.
        tail: float32 ``[rows..., len(temperatures)]``, logsumexp of ``logits / T`` over the classes
            not kept; -inf when every class is kept.
        temperatures: ascending.
        classes: how many classes the logits had.

    Example:
        >>> whole = torch.tensor([[3.0, 1.0, 2.0]])
        >>> top = TopKLogits(torch.tensor([[3.0, 2.0]]), torch.tensor([[0, 2]], dtype=torch.int32),
        ...                  torch.tensor([[1.0]]), (1.0,), 3)
        >>> kept, tail = top.probs_at(1.0)
        >>> torch.allclose(torch.cat([kept, tail[:, None]], 1), whole.softmax(1)[:, [0, 2, 1]])
        True
    """

    values: Tensor
    indices: Tensor
    tail: Tensor
    temperatures: tuple[float, ...]
    classes: int

    def __len__(self) -> int:
        return self.values.shape[0]

    def __getitem__(self, index: Index) -> TopKLogits:
        """Some rows: by a slice (views), a row number, or a tensor of rows or booleans."""
        return self.map(lambda t: t[index])

    @property
    def k(self) -> int:
        """How many classes are kept."""
        return self.values.shape[-1]

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.values.device

    def map(self, change: Callable[[Tensor], Tensor]) -> TopKLogits:
        """The same with every tensor changed."""
        return TopKLogits(
            change(self.values),
            change(self.indices),
            change(self.tail),
            self.temperatures,
            self.classes,
        )

    def split(self, size: int | list[int]) -> list[TopKLogits]:
        """Views of `size` rows each, the last with what is left; or of the sizes given."""
        return [
            TopKLogits(v, i, t, self.temperatures, self.classes)
            for v, i, t in zip(
                torch.split(self.values, size),
                torch.split(self.indices, size),
                torch.split(self.tail, size),
                strict=True,
            )
        ]

    @staticmethod
    def concat(parts: Sequence[TopKLogits]) -> TopKLogits:
        """One after the other; `SchemaError` if temperatures or classes differ."""
        first = parts[0]
        _same(first, parts)
        return TopKLogits(
            torch.cat([p.values for p in parts]),
            torch.cat([p.indices for p in parts]),
            torch.cat([p.tail for p in parts]),
            first.temperatures,
            first.classes,
        )

    def tail_at(self, temperature: float) -> Tensor:
        """logsumexp of the tail ``[rows...]`` at a declared temperature.

        Raises:
            UndeclaredTemperature: any other temperature; it cannot be computed later.
        """
        return self.tail[..., temperature_index(self.temperatures, temperature)]

    def log_probs_at(self, temperature: float) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the kept classes ``[rows..., k]`` and of the tail ``[rows...]``."""
        kept = self.values / temperature
        # Relative to the largest, so that large logits do not cost the digits of the total.
        top = kept.amax(-1)
        top = torch.where(top.isfinite(), top, 0.0)
        kept, tail = kept - top.unsqueeze(-1), self.tail_at(temperature) - top
        total = torch.logaddexp(kept.logsumexp(-1), tail)
        return kept - total.unsqueeze(-1), tail - total

    def probs_at(self, temperature: float) -> tuple[Tensor, Tensor]:
        """Probabilities of the kept classes ``[rows..., k]`` and of the tail ``[rows...]``."""
        kept, tail = self.log_probs_at(temperature)
        return kept.exp(), tail.exp()


@dataclass(slots=True, eq=False)
class TopKMixture:
    """A mixture of several teachers' top-k knowledge, per temperature.

    Args:
        probs: float32 ``[rows..., len(temperatures), u]``, probabilities on the union of supports;
            0 where `indices` is padding.
        indices: int32 ``[rows..., u]``, ascending classes; -1 where a row's union is smaller.
        left: float32 ``[rows..., len(temperatures)]``, the mass that no teacher resolved.
        share: float32 like `probs`, what each class gets of `left` when every teacher's own
            unresolved mass is spread evenly over the classes that it did not keep.
        temperatures: ascending.
        classes: how many classes there are.

    With weights ``w`` and teachers that keep the classes ``S_t`` of ``p_t`` and leave the mass
    ``r_t``, a class c of the union has ``sum of w_t p_t(c) over the t that keep c``: never more
    than the true mixture has. As distributions over the union's classes and "the rest", the two are
    at total variation distance at most ``sum_t w_t min(r_t, |union - S_t| * min(p_t on S_t))``,
    which is at most ``left``. Float32 adds ``1e-6 * (1 + max|logits / T|)`` for each entry. The
    bound holds for `spread_at` too, which is what losses compare with.

    Example:
        >>> mixture = TopKMixture(torch.tensor([[[0.75, 0.0]]]), torch.tensor([[3, -1]]),
        ...                       torch.tensor([[0.25]]), torch.zeros(1, 1, 2), (1.0,), 10)
        >>> mixture.probs_at(1.0)
        (tensor([[0.7500, 0.0000]]), tensor([0.2500]))
    """

    probs: Tensor
    indices: Tensor
    left: Tensor
    share: Tensor
    temperatures: tuple[float, ...]
    classes: int

    def __len__(self) -> int:
        return self.probs.shape[0]

    def __getitem__(self, index: Index) -> TopKMixture:
        """Some rows: by a slice (views), a row number, or a tensor of rows or booleans."""
        return self.map(lambda t: t[index])

    @property
    def k(self) -> int:
        """The width of the widest union."""
        return self.indices.shape[-1]

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.probs.device

    def map(self, change: Callable[[Tensor], Tensor]) -> TopKMixture:
        """The same with every tensor changed."""
        return TopKMixture(
            change(self.probs),
            change(self.indices),
            change(self.left),
            change(self.share),
            self.temperatures,
            self.classes,
        )

    def split(self, size: int | list[int]) -> list[TopKMixture]:
        """Views of `size` rows each, the last with what is left; or of the sizes given."""
        return [
            TopKMixture(p, i, m, s, self.temperatures, self.classes)
            for p, i, m, s in zip(
                torch.split(self.probs, size),
                torch.split(self.indices, size),
                torch.split(self.left, size),
                torch.split(self.share, size),
                strict=True,
            )
        ]

    @staticmethod
    def concat(parts: Sequence[TopKMixture]) -> TopKMixture:
        """One after the other, padded to the widest union; `SchemaError` if they do not fit."""
        first, wide = parts[0], max(p.k for p in parts)
        _same(first, parts)
        pad = torch.nn.functional.pad
        return TopKMixture(
            torch.cat([pad(p.probs, (0, wide - p.k)) for p in parts]),
            torch.cat([pad(p.indices, (0, wide - p.k), value=-1) for p in parts]),
            torch.cat([p.left for p in parts]),
            torch.cat([pad(p.share, (0, wide - p.k)) for p in parts]),
            first.temperatures,
            first.classes,
        )

    def probs_at(self, temperature: float) -> tuple[Tensor, Tensor]:
        """Probabilities on the union ``[rows..., u]`` and the mass left ``[rows...]``.

        Raises:
            UndeclaredTemperature: a temperature that not all teachers declared.
        """
        at = temperature_index(self.temperatures, temperature)
        return self.probs[..., at, :], self.left[..., at]

    def spread_at(self, temperature: float) -> tuple[Tensor, Tensor]:
        """`probs_at` with the mass left spread: on the union, and outside of it.

        Nothing is outside where the union has every class.
        """
        at = temperature_index(self.temperatures, temperature)
        kept, left = self.probs_at(temperature)
        share = self.share[..., at, :]
        whole = (self.indices >= 0).sum(-1) == self.classes
        return kept + share, (left - share.sum(-1)).clamp(min=0).masked_fill(whole, 0)

    def log_probs_at(self, temperature: float) -> tuple[Tensor, Tensor]:
        """The logarithms of `probs_at`; -inf for padding."""
        kept, left = self.probs_at(temperature)
        return kept.log(), left.log()


def _same(first: Any, parts: Sequence[Any]) -> None:
    for part in parts:
        if part.temperatures != first.temperatures or part.classes != first.classes:
            raise SchemaError(
                f"top-k of {first.classes} classes at {first.temperatures} cannot be joined with "
                f"{part.classes} classes at {part.temperatures}"
            )
