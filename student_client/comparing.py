"""Two answers for the same samples: whether they agree, and by how much they do not. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import xxhash
from torch import Tensor

from pantheon.codec.base import SchemaCodec
from pantheon.knowledge import Value, map_value
from pantheon.wire.buffers import from_raw
from pantheon.wire.messages import RawTensor


def chosen(fraction: float, teacher: str, epoch: int, request: int) -> bool:
    """Whether a request is one of the `fraction` that are asked twice; the same in every run.

    >>> sum(chosen(0.25, "bert", 0, k) for k in range(10000)) // 100
    25
    """
    if fraction <= 0:
        return False
    drawn = xxhash.xxh3_64_intdigest(f"{teacher}/{epoch}/{request}".encode())
    return drawn < fraction * 2**64


def difference(
    codec: SchemaCodec, ours: Sequence[RawTensor], theirs: Sequence[RawTensor]
) -> tuple[float, str]:
    """The largest absolute difference of two answers' decoded values, and the field it is in.

    Infinite where they have not the same lengths, classes, or places of NaN; 0 and no field where
    they have the same bits.
    """
    if all(_same_bits(a, b) for a, b in zip(ours, theirs, strict=True)):
        return 0.0, ""
    a, b = (codec.decode([from_raw(p) for p in parts]) for parts in (ours, theirs))
    return max((_apart(a[field], b[field]), field) for field in a)


def _same_bits(a: RawTensor, b: RawTensor) -> bool:
    return a.shape == b.shape and memoryview(a.data).cast("B") == memoryview(b.data).cast("B")


def _apart(a: Value, b: Value) -> float:
    pairs = zip(_tensors(a), _tensors(b), strict=True)
    return max((_distance(x, y) for x, y in pairs), default=0.0)


def _tensors(value: Value) -> list[Tensor]:
    found: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    map_value(value, keep)
    return found


def _distance(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape:
        return math.inf
    if not a.is_floating_point():
        return 0.0 if torch.equal(a, b) else math.inf
    wide, other = a.double(), b.double()
    apart = (wide - other).abs()
    # Equal infinities and two NaN agree.
    apart[(wide == other) | (wide.isnan() & other.isnan())] = 0.0
    return float(apart.nan_to_num(nan=math.inf, posinf=math.inf).max()) if apart.numel() else 0.0
