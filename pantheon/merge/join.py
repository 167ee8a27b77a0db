"""Merges side by side: concat and stack."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from pantheon.errors import MergeError
from pantheon.knowledge import Value
from pantheon.merge.base import (
    Merge,
    Positions,
    common_dtype,
    is_topk,
    pack,
    tensors,
    topk_reason,
    unpack,
)
from pantheon.schema import FieldSpec
from pantheon.wire.buffers import TORCH_DTYPES, dtype_name


class _Join(Merge):
    """Merges that keep every teacher's elements; teachers in the order of the mappings."""

    def spec(self, field: str, specs: Mapping[str, FieldSpec]) -> FieldSpec:
        for teacher, spec in specs.items():
            if is_topk(spec):
                raise self.fail(field, topk_reason(teacher))
        first = self.require_alike(field, specs, "ragged")
        dtype = self._dtype(field, {t: s.dtype for t, s in specs.items()})
        shape = self._shape(field, {t: s.shape for t, s in specs.items()})
        codec = "float32" if dtype == "float32" else "raw"
        return replace(first, dtype=dtype, shape=shape, codec=codec, labels=None)

    def __call__(self, field: str, values: Mapping[str, Value], rows: Positions, n: int) -> Value:
        self.require_all(field, values, rows, n)
        packed, like = unpack(self, field, values)
        dense = tensors(self, field, packed)
        self._shape(field, {t: tuple(v.shape[1:]) for t, v in dense.items()})
        dtype = self._dtype(field, {t: dtype_name(v.dtype) for t, v in dense.items()})
        return pack(self._join([v.to(TORCH_DTYPES[dtype]) for v in dense.values()]), like)

    @abstractmethod
    def _join(self, values: list[Tensor]) -> Tensor: ...

    @abstractmethod
    def _shape(self, field: str, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]: ...

    def _dtype(self, field: str, dtypes: Mapping[str, str]) -> str:
        common = common_dtype(list(dtypes.values()))
        if common is None:
            raise self.fail(field, f"teachers serve different dtypes: {dict(dtypes)}")
        return common

    def _unequal(self, field: str, shapes: Mapping[str, tuple[int, ...]], what: str) -> MergeError:
        return self.fail(field, f"its rows have the shapes {dict(shapes)}; expected {what}")


class Concat(_Join):
    """One teacher after the other along the last dimension: ``[n, ..., sum of last]``.

    Example:
        >>> Concat()("x", {"a": torch.zeros(1, 1), "b": torch.ones(1, 2)}, {}, 1)
        tensor([[0., 1., 1.]])
    """

    name = "concat"

    def _join(self, values: list[Tensor]) -> Tensor:
        return torch.cat(values, dim=-1)

    def _shape(self, field: str, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
        rows = list(shapes.values())
        if any(not s or s[:-1] != rows[0][:-1] for s in rows):
            raise self._unequal(field, shapes, "rows that differ in their last dimension only")
        return (*rows[0][:-1], sum(s[-1] for s in rows))


class Stack(_Join):
    """Teachers in a new first dimension of each row: ``[n, teachers, ...]``.

    Example:
        >>> Stack()("x", {"a": torch.tensor([1]), "b": torch.tensor([2])}, {}, 1)
        tensor([[1, 2]])
    """

    name = "stack"

    def _join(self, values: list[Tensor]) -> Tensor:
        return torch.stack(values, dim=1)

    def _shape(self, field: str, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
        rows = list(shapes.values())
        if len(set(rows)) > 1:
            raise self._unequal(field, shapes, "equal ones")
        return (len(rows), *rows[0])
