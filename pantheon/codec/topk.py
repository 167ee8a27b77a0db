"""Top-k: the largest logits exactly, the others as their log-sum-exp per declared temperature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pantheon.codec.base import Codec
from pantheon.codec.dense import BFloat16, Float16, Float32, narrow, require_float
from pantheon.codec.names import CodecName, topk_name
from pantheon.errors import CodecError, UndeclaredTemperature
from pantheon.ragged import Rows
from pantheon.schema import FieldSpec
from pantheon.topk import TopKLogits
from pantheon.wire.buffers import TORCH_DTYPES

_KEPT: Mapping[str, Codec] = {c.name: c for c in (Float32(), Float16(), BFloat16())}


class TopK(Codec):
    """The k largest logits of the last dimension and the mass of the rest.

    Kept logits are exact in float32 (in float16 or bfloat16 within those codecs' bounds). The tail
    is the log-sum-exp of ``logits / T`` over the classes left out, with the kept ones masked, never
    subtracted; it is within ``1e-6 * max|logits / T| + 1e-5`` of the exact one. With k at least the
    number of classes nothing is lost: the tail is -inf.

    Args:
        k: classes kept, at least 1.
        temperatures: those a student may use; no other can be computed later.
        dtype: what kept logits travel as: float32, float16 or bfloat16.

    Raises:
        CodecError: an argument that cannot be.

    Example:
        >>> TopK(64, temperatures=(1, 2, 4)).name, TopK(8).name
        ('topk:64@1,2,4', 'topk:8')
    """

    def __init__(
        self, k: int, temperatures: Sequence[float] = (1.0,), dtype: str = "float32"
    ) -> None:
        self._name: CodecName = topk_name(k, tuple(temperatures), dtype)
        self.k, self.temperatures, self.dtype = k, self._name.temperatures, dtype

    @property
    def name(self) -> str:
        return str(self._name)

    def decoded_dtype(self, dtype: str) -> str:
        return "float32"

    def encode_rows(self, value: Rows, spec: FieldSpec) -> list[Tensor]:
        if isinstance(value, Tensor):
            logits = require_float(value, spec)
            if logits.dtype is torch.float64:
                logits = narrow(logits, torch.float32, spec.name)
            top = top_k(logits, self.k, self.temperatures)
        else:
            top = self._require_fit(value, spec)
        kept = narrow(top.values, TORCH_DTYPES[self.dtype], spec.name)
        return [
            kept.contiguous(),
            top.indices.to(torch.int32).contiguous(),
            narrow(top.tail, torch.float32, spec.name).contiguous(),
        ]

    def decode_rows(self, parts: Sequence[Tensor], spec: FieldSpec) -> Rows:
        values, indices, tail = parts
        # An index beyond the classes would be a fault on a GPU, far from its cause.
        _require_indices(indices, spec.shape[-1], spec.name)
        return TopKLogits(
            values.to(torch.float32), indices, tail, self.temperatures, spec.shape[-1]
        )

    def bound(self, value: Tensor) -> Tensor:
        """Of the kept logits, not of the tail."""
        return _KEPT[self.dtype].bound(value)

    def _require_fit(self, value: Rows, spec: FieldSpec) -> TopKLogits:
        """Top-k that the teacher computed itself, if it is what the field says."""
        if not isinstance(value, TopKLogits):
            raise CodecError(f"field {spec.name!r} cannot send a {type(value).__name__}")
        missing = [t for t in self.temperatures if t not in value.temperatures]
        if missing:
            raise UndeclaredTemperature(
                f"field {spec.name!r} declares temperature {missing[0]:g}, but the model's top-k "
                f"carries the tail for {', '.join(f'{t:g}' for t in value.temperatures)} only"
            )
        classes, lead = spec.shape[-1], spec.shape[:-1]
        kept = (*lead, min(self.k, classes))
        shapes = tuple(tuple(t.shape[1:]) for t in (value.values, value.indices, value.tail))
        expected = (kept, kept, (*lead, len(value.temperatures)))
        rows = {len(t) for t in (value.values, value.indices, value.tail)}
        if value.classes != classes or shapes != expected or len(rows) != 1:
            raise CodecError(
                f"field {spec.name!r} has top-k of {value.classes} classes with values, indices "
                f"and tail of rows {shapes}; expected {classes} classes and {expected}"
            )
        _require_indices(value.indices, classes, spec.name)
        columns = [value.temperatures.index(t) for t in self.temperatures]
        tail = value.tail if self.temperatures == value.temperatures else value.tail[..., columns]
        return TopKLogits(value.values, value.indices, tail, self.temperatures, classes)


def _require_indices(indices: Tensor, classes: int, field: str) -> None:
    if indices.is_floating_point() or indices.dtype is torch.bool:
        raise CodecError(f"field {field!r} has top-k indices of {indices.dtype}; expected integers")
    if indices.numel():
        low, high = (int(x) for x in indices.aminmax())
        if low < 0 or high >= classes:
            raise CodecError(
                f"field {field!r} has top-k indices from {low} to {high}; expected 0 to "
                f"{classes - 1}"
            )


def top_k(logits: Tensor, k: int, temperatures: Sequence[float] = (1.0,)) -> TopKLogits:
    """Top-k knowledge of logits ``[rows..., classes]``, on their device.

    Example:
        >>> top = top_k(torch.tensor([[0.0, 2.0, 1.0]]), 2)
        >>> top.indices.tolist(), top.tail.tolist()
        ([[1, 2]], [[0.0]])
    """
    logits, classes = logits.float(), logits.shape[-1]
    values, indices = logits.topk(min(k, classes), dim=-1)
    if k >= classes:
        tail = logits.new_full((*logits.shape[:-1], len(temperatures)), float("-inf"))
    else:
        rest = logits.scatter(-1, indices, float("-inf"))
        tail = torch.stack([(rest / t).logsumexp(-1) for t in temperatures], dim=-1)
    return TopKLogits(values, indices.int(), tail, tuple(map(float, temperatures)), classes)
