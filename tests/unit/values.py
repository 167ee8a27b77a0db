"""Values to test with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pantheon.codec import top_k
from pantheon.knowledge import Ragged, TopKLogits, TopKMixture, Value
from pantheon.merge.mixture import mix_topk


def tensors_of(value: Value) -> list[Tensor]:
    """The tensors a value consists of."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, TopKLogits):
        return [value.values, value.indices, value.tail]
    if isinstance(value, TopKMixture):
        return [value.probs, value.indices, value.left, value.share]
    return [*tensors_of(value.values), value.lengths]


def same(a: Value, b: Value) -> bool:
    """Whether two values are the same, bit by bit and in every attribute."""
    rows: list[Any] = [v.values if isinstance(v, Ragged) else v for v in (a, b)]
    if type(a) is not type(b) or type(rows[0]) is not type(rows[1]):
        return False
    if not isinstance(rows[0], Tensor) and (
        rows[0].temperatures != rows[1].temperatures or rows[0].classes != rows[1].classes
    ):
        return False
    pairs = zip(tensors_of(a), tensors_of(b), strict=True)
    return all(x.dtype is y.dtype and torch.equal(x, y) for x, y in pairs)


def logits(*shape: int, seed: int = 0, scale: float = 3.0) -> Tensor:
    """Random float32 logits."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def value(kind: str, n: int, seed: int = 0) -> Value:
    """A value of n samples: dense, topk, mixture, or ragged-… of these."""
    if kind.startswith("ragged-"):
        lengths = torch.randint(0, 4, (n,), generator=torch.Generator().manual_seed(seed))
        rows = value(kind.removeprefix("ragged-"), int(lengths.sum()), seed)
        assert not isinstance(rows, Ragged)
        return Ragged(rows, lengths)
    if kind == "dense":
        return logits(n, 5, seed=seed)
    topk = top_k(logits(n, 9, seed=seed), 3, (1.0, 2.0))
    if kind == "topk":
        return topk
    other = top_k(logits(n, 9, seed=seed + 100), 4, (1.0, 2.0))
    return mix_topk([(0.5, topk), (0.5, other)], (1.0, 2.0))


KINDS = ("dense", "topk", "mixture", "ragged-dense", "ragged-topk", "ragged-mixture")
