"""Merges element by element: mean, sum and weighted sum."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import replace

import torch
from torch import Tensor

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


class Elementwise(Merge):
    """Merges whose result has the shape of each teacher's value."""

    def spec(self, field: str, specs: Mapping[str, FieldSpec]) -> FieldSpec:
        for teacher, spec in specs.items():
            if is_topk(spec):
                raise self.fail(field, topk_reason(teacher))
        first = self.require_alike(field, specs, "shape", "ragged", "labels")
        dtype = self._dtype(field, {t: s.dtype for t, s in specs.items()})
        return replace(first, dtype=dtype, codec="float32" if dtype == "float32" else "raw")

    def __call__(self, field: str, values: Mapping[str, Value], rows: Positions, n: int) -> Value:
        self.require_all(field, values, rows, n)
        packed, like = unpack(self, field, values)
        dense = tensors(self, field, packed)
        if len({t.shape for t in dense.values()}) > 1:
            shapes = {t: tuple(v.shape) for t, v in dense.items()}
            raise self.fail(field, f"its values have the shapes {shapes}; expected equal ones")
        dtype = self._dtype(field, {t: dtype_name(v.dtype) for t, v in dense.items()})
        wide = {t: v.to(TORCH_DTYPES[dtype]) for t, v in dense.items()}
        return pack(self.combine(field, wide), like)

    @abstractmethod
    def combine(self, field: str, values: Mapping[str, Tensor]) -> Tensor:
        """Merge tensors of one shape and one of the dtypes float32, float64 and int64."""

    def integers(self, field: str, dtypes: Mapping[str, str]) -> str:
        """The dtype that integers merge to; raises here."""
        teacher, dtype = next((t, d) for t, d in dtypes.items() if "float" not in d)
        raise self.fail(
            field,
            f"it is {dtype} at teacher {teacher!r}; this merge is of floating numbers only (route "
            "or stack integers)",
        )

    def _dtype(self, field: str, dtypes: Mapping[str, str]) -> str:
        common = common_dtype(list(dtypes.values()))
        if common is not None and TORCH_DTYPES[common].is_floating_point:
            return common
        return self.integers(field, dtypes)


def _total(values: Mapping[str, Tensor]) -> Tensor:
    """Sum in order; fresh memory unless there is only one value."""
    first, *others = values.values()
    total = first
    for i, value in enumerate(others):
        total = torch.add(total, value) if i == 0 else total.add_(value)
    return total


class Mean(Elementwise):
    """The mean of floating fields.

    Example:
        >>> half = {t: torch.tensor([40000.0]).half() for t in "ab"}
        >>> Mean()("logits", half, {}, 1)
        tensor([40000.])
    """

    name = "mean"

    def without(self, field: str, absent: Collection[str]) -> Mean:
        return self

    def combine(self, field: str, values: Mapping[str, Tensor]) -> Tensor:
        total = _total(values)
        return total if len(values) == 1 else total.div_(len(values))


class Sum(Elementwise):
    """The sum; of integers and booleans exact, in int64, or it raises.

    Example:
        >>> Sum()("votes", {"a": torch.tensor([True]), "b": torch.tensor([True])}, {}, 1)
        tensor([2])
    """

    name = "sum"

    def integers(self, field: str, dtypes: Mapping[str, str]) -> str:
        if any("float" in d for d in dtypes.values()):
            raise self.fail(field, f"teachers mix integers and floating numbers: {dict(dtypes)}")
        return "int64"

    def combine(self, field: str, values: Mapping[str, Tensor]) -> Tensor:
        if next(iter(values.values())).dtype is torch.int64:
            self._require_range(field, values)
        return _total(values)

    def _require_range(self, field: str, values: Mapping[str, Tensor]) -> None:
        """Raise if a sum, or a part of it, may leave int64."""
        limits = [v.aminmax() for v in values.values() if v.numel()]
        low = sum(min(int(a), 0) for a, _ in limits)
        high = sum(max(int(b), 0) for _, b in limits)
        if low < -(2**63) or high >= 2**63:
            raise self.fail(field, f"its sums may reach {low} or {high}, beyond int64")


class Weighted(Elementwise):
    """The weighted sum of floating fields; the weights are used as they are.

    Args:
        weights: a weight by teacher, as a mapping or by keyword.

    Example:
        >>> Weighted(a=0.75, b=0.25)("x", {"a": torch.ones(1), "b": torch.zeros(1)}, {}, 1)
        tensor([0.7500])
    """

    def __init__(self, weights: Mapping[str, float] | None = None, /, **named: float) -> None:
        self.weights = {**(weights or {}), **named}
        self.name = f"weighted({', '.join(f'{t}={w}' for t, w in self.weights.items())})"
        numbers = [isinstance(w, int | float) and math.isfinite(w) for w in self.weights.values()]
        if not numbers or not all(numbers):
            raise self.fail("*", f"weights must be finite numbers by teacher, found {self.weights}")

    def spec(self, field: str, specs: Mapping[str, FieldSpec]) -> FieldSpec:
        self.require_weights(field, self.weights, specs)
        return super().spec(field, specs)

    def without(self, field: str, absent: Collection[str]) -> Weighted:
        left = {t: w for t, w in self.weights.items() if t not in absent}
        rest = sum(left.values())
        if left and not rest:
            raise self.fail(field, f"the weights without {', '.join(absent)} add up to 0")
        scale = sum(self.weights.values()) / rest if left else 1.0
        return Weighted({t: w * scale for t, w in left.items()} or self.weights)

    def combine(self, field: str, values: Mapping[str, Tensor]) -> Tensor:
        self.require_weights(field, self.weights, values)
        teachers = iter(values.items())
        first, value = next(teachers)
        total = value * self.weights[first]
        for teacher, other in teachers:
            total.add_(other, alpha=self.weights[teacher])
        return total
