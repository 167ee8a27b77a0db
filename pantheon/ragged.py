"""Ragged values: samples of different length as packed rows and lengths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import overload

import torch
from torch import Tensor

from pantheon.errors import SchemaError
from pantheon.schema import MAX_EMPTY_ROWS
from pantheon.topk import TopKLogits, TopKMixture

Rows = Tensor | TopKLogits | TopKMixture
"""What has one entry per row, dense or top-k."""


def map_rows(rows: Rows, change: Callable[[Tensor], Tensor]) -> Rows:
    """Apply `change` to each tensor of a value."""
    return change(rows) if isinstance(rows, Tensor) else rows.map(change)


def concat_rows(parts: Sequence[Rows]) -> Rows:
    """Values of one kind, one after the other; a single one is returned as it is."""
    first = parts[0]
    if len(parts) == 1:
        return first
    if any(type(p) is not type(first) for p in parts):
        kinds = ", ".join(sorted({type(p).__name__ for p in parts}))
        raise SchemaError(f"values of different kinds cannot be joined: {kinds}")
    if isinstance(first, Tensor):
        return torch.cat([p for p in parts if isinstance(p, Tensor)])
    if isinstance(first, TopKLogits):
        return TopKLogits.concat([p for p in parts if isinstance(p, TopKLogits)])
    return TopKMixture.concat([p for p in parts if isinstance(p, TopKMixture)])


@dataclass(slots=True, eq=False)
class Ragged:
    """Packed rows of samples of different length.

    Args:
        values: packed rows ``[sum(lengths), ...]``, dense or top-k.
        lengths: int64 ``[n]``, rows of each sample.

    Raises:
        SchemaError: lengths that are negative or do not add up to the packed rows.

    Example:
        >>> words = Ragged(torch.arange(5), torch.tensor([2, 0, 3]))
        >>> words[2], words[1:].lengths
        (tensor([2, 3, 4]), tensor([0, 3]))
    """

    values: Rows
    lengths: Tensor
    _offsets: Tensor | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self._offsets is None:
            rows = rows_of(self.values)
            longest = _check_lengths(self.lengths)
            # Rows without bytes could be any number, and cost memory once they are taken apart.
            if rows > MAX_EMPTY_ROWS and _is_empty(self.values):
                raise SchemaError(
                    f"a ragged value has {rows} packed rows without elements; expected at most "
                    f"{MAX_EMPTY_ROWS}"
                )
            # A length beyond the rows could make the sum wrap around.
            if longest > rows or int(self.lengths.sum()) != rows:
                raise SchemaError(
                    f"a ragged value has {rows} packed rows, but its lengths, up to {longest}, add "
                    f"up to {int(self.lengths.sum())}"
                )

    @property
    def offsets(self) -> Tensor:
        """int64 ``[n + 1]``: sample i has the packed rows ``offsets[i]`` to ``offsets[i + 1]``."""
        if self._offsets is None:
            zero = self.lengths.new_zeros(1)
            self._offsets = torch.cat([zero, self.lengths.cumsum(0)])
        return self._offsets

    def __len__(self) -> int:
        return self.lengths.shape[0]

    @overload
    def __getitem__(self, index: int) -> Rows: ...
    @overload
    def __getitem__(self, index: slice) -> Ragged: ...
    def __getitem__(self, index: int | slice) -> Rows | Ragged:
        """The rows of one sample, or some samples (views)."""
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step != 1:
                return self.take(torch.arange(start, stop, step, device=self.device))
            return self._part(start, max(start, stop))
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of a ragged value of {len(self)}")
        start, stop = self.offsets[index % len(self) :][:2].tolist()
        return self.values[start:stop]

    def _part(self, start: int, stop: int) -> Ragged:
        # Offsets of a part are a view less its first entry: no second pass over the lengths.
        offsets = self.offsets[start : stop + 1]
        first, last = int(offsets[0]), int(offsets[-1])
        return Ragged(self.values[first:last], self.lengths[start:stop], offsets - first)

    def split(self, size: int) -> list[Ragged]:
        """Parts of `size` samples each (views), the last with what is left."""
        return [self._part(a, min(a + size, len(self))) for a in range(0, len(self), size)]

    @property
    def device(self) -> torch.device:
        """Where the values are."""
        return self.values.device

    def map(self, change: Callable[[Tensor], Tensor]) -> Ragged:
        """The same with every tensor moved by `change`, which must keep lengths as they are."""
        return Ragged(map_rows(self.values, change), change(self.lengths), change(self.offsets))

    def with_values(self, values: Rows) -> Ragged:
        """Other packed rows, of the same number, with the lengths of these."""
        if rows_of(values) != rows_of(self.values):
            raise SchemaError(f"{rows_of(values)} packed rows for {rows_of(self.values)}")
        return Ragged(values, self.lengths, self.offsets)

    def take(self, rows: Tensor) -> Ragged:
        """Samples by their positions, int64 ``[m]``; copies."""
        lengths = self.lengths.index_select(0, rows)
        ends = lengths.cumsum(0)
        within = torch.arange(int(ends[-1]) if len(rows) else 0, device=self.device)
        starts = self.offsets.index_select(0, rows) - (ends - lengths)
        packed = within + starts.repeat_interleave(lengths)
        return Ragged(map_rows(self.values, lambda t: t.index_select(0, packed)), lengths)

    @staticmethod
    def concat(parts: Sequence[Ragged]) -> Ragged:
        """Samples of several ragged values, one after the other."""
        return Ragged(concat_rows([p.values for p in parts]), torch.cat([p.lengths for p in parts]))

    @staticmethod
    def from_padded(values: Tensor | TopKLogits, lengths: Tensor) -> Ragged:
        """Pack padded values ``[n, longest, ...]``; rows past a sample's length are dropped.

        Example:
            >>> Ragged.from_padded(torch.tensor([[1, 2], [3, 0]]), torch.tensor([2, 1])).values
            tensor([1, 2, 3])
        """
        longest = _check_lengths(lengths)
        shape = values.shape if isinstance(values, Tensor) else values.values.shape
        lengths = lengths.to(values.device, torch.int64)
        if len(shape) < 2 or lengths.shape[0] != shape[0] or longest > shape[1]:
            raise SchemaError(
                f"padded values of shape {tuple(shape)} do not hold {lengths.shape[0]} samples of "
                f"up to {longest} rows"
            )
        return Ragged(values[_within(lengths, shape[1])], lengths)

    def padded(self, fill: float = 0.0) -> tuple[Tensor, Tensor]:
        """Values ``[n, longest, ...]`` filled up with `fill`, and which rows are real (bool).

        Raises:
            SchemaError: top-k values; pad their logits or probabilities instead.
        """
        if not isinstance(self.values, Tensor):
            raise SchemaError(f"{type(self.values).__name__} has no padded form; use .values")
        longest = int(self.lengths.max()) if len(self) else 0
        mask = _within(self.lengths, longest)
        full = self.values.new_full((len(self), longest, *self.values.shape[1:]), fill)
        full[mask] = self.values
        return full, mask


def rows_of(values: Rows) -> int:
    """First dimension of a value; `SchemaError` for a scalar."""
    if isinstance(values, Tensor) and values.ndim == 0:
        raise SchemaError("a value needs a first dimension of rows, found a scalar")
    return len(values)


def _within(lengths: Tensor, longest: int) -> Tensor:
    """bool ``[n, longest]``: rows before each sample's length."""
    return torch.arange(longest, device=lengths.device) < lengths.unsqueeze(1)


def _is_empty(values: Rows) -> bool:
    """Whether rows take no bytes, whatever kind they are."""
    match values:
        case TopKLogits():
            return not (values.values.numel() or values.tail.numel())
        case TopKMixture():
            return not (values.probs.numel() or values.left.numel())
    return not values.numel()


def _check_lengths(lengths: Tensor) -> int:
    """The longest; `SchemaError` unless lengths are integers ``[n]``, none negative."""
    if lengths.ndim != 1 or lengths.is_floating_point() or lengths.dtype is torch.bool:
        raise SchemaError(
            f"lengths must be integers [n], found {lengths.dtype} {tuple(lengths.shape)}"
        )
    if not len(lengths):
        return 0
    shortest, longest = (int(x) for x in lengths.aminmax())
    if shortest < 0:
        raise SchemaError(f"lengths must not be negative, found {shortest}")
    return longest
