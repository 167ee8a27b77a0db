"""Knowledge: what teachers predict for samples, as named values aligned by sample id."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from pantheon.errors import SchemaError
from pantheon.ragged import Ragged, concat_rows, map_rows, rows_of
from pantheon.topk import TopKLogits, TopKMixture

__all__ = [
    "Knowledge",
    "Ragged",
    "TopKLogits",
    "TopKMixture",
    "Value",
    "concat_values",
    "map_value",
    "slice_value",
    "split_value",
    "take_value",
    "value_rows",
]

Value = Tensor | TopKLogits | TopKMixture | Ragged
"""One field of knowledge, its first dimension samples."""


def value_rows(value: Value) -> int:
    """Samples of a value.

    >>> value_rows(Ragged(torch.arange(5), torch.tensor([2, 3])))
    2
    """
    return len(value) if isinstance(value, Ragged) else rows_of(value)


def slice_value(value: Value, start: int, stop: int) -> Value:
    """Samples `start` to `stop`, as views."""
    return value[start:stop]


def split_value(value: Value, batch: int) -> list[Value]:
    """Views of `batch` samples each, the last with what is left.

    >>> [v.tolist() for v in split_value(torch.arange(5), 2)]
    [[0, 1], [2, 3], [4]]
    """
    return list(_split_rows(value, batch) if isinstance(value, Tensor) else value.split(batch))


def _split_rows(tensor: Tensor, batch: int) -> Sequence[Tensor]:
    whole, rest = divmod(tensor.shape[0], batch)
    # Even chunks cost half of what split does, which goes through Python.
    return torch.split(tensor, batch) if rest or not whole else tensor.chunk(whole)


def map_value(value: Value, change: Callable[[Tensor], Tensor]) -> Value:
    """The value with each of its tensors moved or copied by `change`."""
    return value.map(change) if isinstance(value, Ragged) else map_rows(value, change)


def take_value(value: Value, rows: Tensor) -> Value:
    """Samples by their positions, int64 ``[m]``; copies."""
    if isinstance(value, Ragged):
        return value.take(rows)
    return map_rows(value, lambda t: t.index_select(0, rows))


def concat_values(values: Sequence[Value]) -> Value:
    """Values of one field, one after the other; a single one is returned as it is.

    Raises:
        SchemaError: values of different kinds, such as dense and top-k.
    """
    if len(values) == 1:
        return values[0]
    ragged = [v for v in values if isinstance(v, Ragged)]
    if ragged and len(ragged) == len(values):
        return Ragged.concat(ragged)
    dense = [v for v in values if not isinstance(v, Ragged)]
    if ragged:
        raise SchemaError("a ragged and a dense value cannot be joined")
    return concat_rows(dense)


class _Masks(Mapping[str, Tensor]):
    """Which rows of each field were answered; made only when asked for."""

    __slots__ = ("_known", "_of")

    def __init__(self, of: Knowledge, known: Mapping[str, Tensor]) -> None:
        self._of, self._known = of, known

    def __getitem__(self, name: str) -> Tensor:
        if name in self._known:
            return self._known[name]
        return torch.ones(len(self._of), dtype=torch.bool, device=self._of[name].device)

    def __iter__(self) -> Iterator[str]:
        return iter(self._of.fields)

    def __len__(self) -> int:
        return len(self._of.fields)


class Knowledge:
    """Named values for samples.

    Args:
        ids: int64 ``[n]``, sample ids.
        fields: a value of n samples by field name.
        views: int64 ``[n]``, or None where all views are 0.
        mask: bool ``[n]`` by field name, for fields of which not every row was answered.

    Raises:
        SchemaError: a value, views or mask that has not n rows.

    Example:
        >>> two = Knowledge(torch.tensor([7, 3]), {"logits": torch.eye(2)})
        >>> two["logits"].shape, two.mask["logits"].tolist(), len(two.slice(1, 2))
        (torch.Size([2, 2]), [True, True], 1)
    """

    __slots__ = ("_masks", "fields", "ids", "views")

    def __init__(
        self,
        ids: Tensor,
        fields: Mapping[str, Value],
        views: Tensor | None = None,
        mask: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.ids, self.fields, self.views, self._masks = ids, dict(fields), views, mask or {}
        if ids.ndim != 1 or ids.dtype is not torch.int64:
            raise SchemaError(f"ids must be int64 [n], found {ids.dtype} {tuple(ids.shape)}")
        _require_rows(len(ids), self.fields, views, self._masks)

    @classmethod
    def trusted(
        cls,
        ids: Tensor,
        fields: dict[str, Value],
        views: Tensor | None = None,
        mask: Mapping[str, Tensor] | None = None,
    ) -> Knowledge:
        """The same without checks or copies, for callers that cut checked knowledge."""
        self = cls.__new__(cls)
        self.ids, self.fields, self.views, self._masks = ids, fields, views, mask or {}
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the fields."""
        return tuple(self.fields)

    @property
    def mask(self) -> Mapping[str, Tensor]:
        """Per field, bool ``[n]``: the rows that were answered."""
        return _Masks(self, self._masks)

    def __len__(self) -> int:
        return self.ids.shape[0]

    def __contains__(self, name: object) -> bool:
        return name in self.fields

    def __iter__(self) -> Iterator[str]:
        return iter(self.fields)

    def __getitem__(self, name: str) -> Value:
        try:
            return self.fields[name]
        except KeyError:
            raise SchemaError(
                f"no field {name!r}; this knowledge has {', '.join(self.fields) or 'none'}"
            ) from None

    def __repr__(self) -> str:
        return f"Knowledge({len(self)} samples of {', '.join(self.fields)})"

    def slice(self, start: int, stop: int) -> Knowledge:
        """Samples `start` to `stop`, as views."""
        return Knowledge.trusted(
            self.ids[start:stop],
            {k: slice_value(v, start, stop) for k, v in self.fields.items()},
            None if self.views is None else self.views[start:stop],
            {k: m[start:stop] for k, m in self._masks.items()},
        )

    def split(self, batch: int) -> list[Knowledge]:
        """Views of `batch` samples each, the last with what is left."""
        ids = _split_rows(self.ids, batch) if len(self) else ()
        fields = {k: split_value(v, batch) for k, v in self.fields.items()}
        views = None if self.views is None else torch.split(self.views, batch)
        masks = {k: torch.split(m, batch) for k, m in self._masks.items()}
        return [
            Knowledge.trusted(
                part,
                {k: v[i] for k, v in fields.items()},
                None if views is None else views[i],
                {k: m[i] for k, m in masks.items()},
            )
            for i, part in enumerate(ids)
        ]

    def select(self, names: Sequence[str]) -> Knowledge:
        """Some of the fields; `SchemaError` for an unknown name."""
        masks = {k: m for k, m in self._masks.items() if k in names}
        return Knowledge.trusted(self.ids, {n: self[n] for n in names}, self.views, masks)

    def take(self, rows: Tensor) -> Knowledge:
        """Samples by their positions, int64 ``[m]``; copies."""
        return self._map(
            lambda t: t.index_select(0, rows.to(t.device)),
            {k: take_value(v, rows.to(v.device)) for k, v in self.fields.items()},
        )

    @staticmethod
    def concat(parts: Sequence[Knowledge]) -> Knowledge:
        """One after the other; `SchemaError` if their fields differ. A single part is returned."""
        first = parts[0]
        if len(parts) == 1:
            return first
        for part in parts:
            if part.fields.keys() != first.fields.keys():
                raise SchemaError(
                    f"knowledge of {', '.join(first.fields)} cannot be joined with knowledge of "
                    f"{', '.join(part.fields)}"
                )
        masked = {k for p in parts for k in p._masks}
        viewed = any(p.views is not None for p in parts)
        zeros = torch.zeros_like
        return Knowledge.trusted(
            torch.cat([p.ids for p in parts]),
            {k: concat_values([p.fields[k] for p in parts]) for k in first.fields},
            torch.cat([zeros(p.ids) if p.views is None else p.views for p in parts])
            if viewed
            else None,
            {k: torch.cat([p.mask[k] for p in parts]) for k in masked},
        )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Knowledge:
        """The same on a device."""
        return self._move(lambda t: t.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Knowledge:
        """The same in page-locked memory, for copies to a GPU that do not block."""
        return self._move(lambda t: t.pin_memory())

    def _move(self, change: Callable[[Tensor], Tensor]) -> Knowledge:
        return self._map(change, {k: map_value(v, change) for k, v in self.fields.items()})

    def _map(self, change: Callable[[Tensor], Tensor], fields: dict[str, Value]) -> Knowledge:
        views = None if self.views is None else change(self.views)
        masks = {k: change(m) for k, m in self._masks.items()}
        return Knowledge.trusted(change(self.ids), fields, views, masks)


def _require_rows(
    n: int, fields: Mapping[str, Value], views: Tensor | None, masks: Mapping[str, Tensor]
) -> None:
    counts = {f"field {k!r}": value_rows(v) for k, v in fields.items()}
    counts |= {f"the mask of field {k!r}": len(m) for k, m in masks.items()}
    if views is not None:
        counts["views"] = len(views)
    for what, rows in counts.items():
        if rows != n:
            raise SchemaError(f"{what} has {rows} rows, but there are {n} sample ids")
