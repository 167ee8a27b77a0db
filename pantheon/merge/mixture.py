"""Mixture: the weighted mean of several teachers' probabilities."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from pantheon.codec.names import parse_name
from pantheon.knowledge import Value
from pantheon.merge.base import Merge, Positions, is_topk, pack, unpack
from pantheon.ragged import Rows
from pantheon.schema import FieldSpec
from pantheon.topk import TopKLogits, TopKMixture


class Mixture(Merge):
    """The mean of the teachers' probabilities, ``sum_t w_t p_t``.

    Top-k fields become a `TopKMixture`: probabilities per temperature (those that all teachers
    declare) on the union of the supports, the mass left over kept; its docstring states the bound.
    Dense logits become the log-probabilities of the mixture at temperature 1: logits of the mixture
    there, and nowhere else. Top-k with dense raises.

    Args:
        weights: a positive weight by teacher, as a mapping or by keyword, divided by their sum;
            none for equal weights.

    Example:
        >>> from pantheon.codec import top_k
        >>> a, b = (top_k(torch.tensor([row]), 1) for row in ([0.0, 9.0, 0.0], [9.0, 0.0, 0.0]))
        >>> mixture = Mixture(a=0.75, b=0.25)("logits", {"a": a, "b": b}, {}, 1)
        >>> mixture.indices.tolist(), mixture.probs_at(1)[0].round(decimals=2).tolist()
        ([[0, 1]], [[0.25, 0.75]])
    """

    def __init__(self, weights: Mapping[str, float] | None = None, /, **named: float) -> None:
        self.weights = {**(weights or {}), **named}
        inside = ", ".join(f"{t}={w}" for t, w in self.weights.items())
        self.name = f"mixture({inside})" if inside else "mixture"
        if not all(isinstance(w, int | float) and 0 < w < math.inf for w in self.weights.values()):
            raise self.fail("*", f"weights must be positive and finite, found {self.weights}")

    def spec(self, field: str, specs: Mapping[str, FieldSpec]) -> FieldSpec:
        self._shares(field, specs)
        first = self.require_alike(field, specs, "shape", "ragged", "labels")
        self._one_kind(field, {t: is_topk(s) for t, s in specs.items()})
        if not first.shape or any("float" not in s.dtype for s in specs.values()):
            raise self.fail(field, "it has no logits: expected floating rows of classes")
        if not is_topk(first):
            dtype = "float64" if any(s.dtype == "float64" for s in specs.values()) else "float32"
            return replace(first, dtype=dtype, codec="raw" if dtype == "float64" else dtype)
        names = [parse_name(s.codec) for s in specs.values()]
        heat = self._temperatures(
            field, {t: parse_name(s.codec).temperatures for t, s in specs.items()}
        )
        width = min(sum(n.k for n in names), first.shape[-1])
        return replace(first, dtype="float32", codec=mixture_name(width, heat))

    def __call__(self, field: str, values: Mapping[str, Value], rows: Positions, n: int) -> Value:
        self.require_all(field, values, rows, n)
        shares = self._shares(field, values)
        packed, like = unpack(self, field, values)
        return pack(self._mix(field, packed, shares), like)

    def without(self, field: str, absent: Collection[str]) -> Mixture:
        return Mixture({t: w for t, w in self.weights.items() if t not in absent})

    def _mix(self, field: str, rows: Mapping[str, Rows], shares: Mapping[str, float]) -> Rows:
        self._one_kind(field, {t: not isinstance(v, Tensor) for t, v in rows.items()})
        dense = {t: v for t, v in rows.items() if isinstance(v, Tensor)}
        if dense:
            if len({v.shape for v in dense.values()}) > 1:
                raise self.fail(field, f"shapes {[tuple(v.shape) for v in dense.values()]} differ")
            return mix_dense([(shares[t], v) for t, v in dense.items()])
        topk = {t: v for t, v in rows.items() if isinstance(v, TopKLogits)}
        if (
            len(topk) < len(rows)
            or len({(v.classes, v.values.shape[:-1]) for v in topk.values()}) > 1
        ):
            raise self.fail(field, "expected top-k of the same classes and rows from every teacher")
        heat = self._temperatures(field, {t: v.temperatures for t, v in topk.items()})
        return mix_topk([(shares[t], v) for t, v in topk.items()], heat)

    def _shares(self, field: str, teachers: Mapping[str, object]) -> dict[str, float]:
        """Each teacher's weight; they add up to 1."""
        weights = self.weights or dict.fromkeys(teachers, 1.0)
        self.require_weights(field, weights, teachers)
        total = sum(weights.values())
        return {t: weights[t] / total for t in teachers}

    def _one_kind(self, field: str, topk: Mapping[str, bool]) -> None:
        if len(set(topk.values())) > 1:
            sparse, dense = (
                next(t for t, v in topk.items() if v is kind) for kind in (True, False)
            )
            raise self.fail(
                field,
                f"teacher {sparse!r} serves top-k and {dense!r} dense logits; serve both as top-k",
            )

    def _temperatures(
        self, field: str, declared: Mapping[str, tuple[float, ...]]
    ) -> tuple[float, ...]:
        """Those that every teacher declared."""
        shared = set.intersection(*map(set, declared.values()))
        if not shared:
            raise self.fail(field, f"teachers declare no common temperature: {dict(declared)}")
        return tuple(sorted(shared))


def mixture_name(width: int, temperatures: tuple[float, ...]) -> str:
    """What stands for a codec in the specification of a merged top-k field."""
    return f"mixture:{width}@{','.join(f'{t:g}' for t in temperatures)}"


def mixture_of(name: str) -> tuple[int, tuple[float, ...]]:
    """Width and temperatures of a `mixture_name`.

    >>> mixture_of("mixture:64@1,4")
    (64, (1.0, 4.0))
    """
    width, _, heat = name.removeprefix("mixture:").partition("@")
    return int(width), tuple(float(t) for t in heat.split(","))


def mix_dense(weighted: list[tuple[float, Tensor]]) -> Tensor:
    """Log-probabilities ``[rows..., classes]`` of the mixture at temperature 1."""
    wide = torch.float64 if any(v.dtype is torch.float64 for _, v in weighted) else torch.float32
    logs = [v.to(wide).log_softmax(-1) + math.log(w) for w, v in weighted]
    return torch.stack(logs).logsumexp(0)


def mix_topk(
    weighted: list[tuple[float, TopKLogits]], temperatures: tuple[float, ...]
) -> TopKMixture:
    """The mixture on the union of supports; classes ascending, shorter unions padded by -1."""
    kept, even, left = [], [], []
    for weight, top in weighted:
        probs, tails = zip(*(top.probs_at(t) for t in temperatures), strict=True)
        kept.append(torch.stack(probs, -2) * weight)
        left.append(torch.stack(tails, -1) * weight)
        even.append((left[-1] / max(1, top.classes - top.k)).unsqueeze(-1).expand_as(kept[-1]))
    indices, order = _sorted(torch.cat([v.indices for _, v in weighted], -1))
    slot = torch.zeros_like(order)
    slot[..., 1:] = (indices[..., 1:] != indices[..., :-1]).cumsum(-1)
    width = int(slot.max()) + 1 if slot.numel() else 0
    union = indices.new_full((*indices.shape[:-1], width), -1).scatter_(-1, slot, indices)
    mixed, seen = (_gathered(parts, order, slot, width) for parts in (kept, even))
    # What is spread on a class comes from the teachers that did not keep it.
    share = (torch.stack([e[..., :1] for e in even]).sum(0) - seen).clamp_(min=0)
    share.masked_fill_((union < 0).unsqueeze(-2), 0)
    total = torch.stack(left).sum(0)
    return TopKMixture(mixed, union, total, share, temperatures, weighted[0][1].classes)


def _sorted(indices: Tensor) -> tuple[Tensor, Tensor]:
    """Classes ascending, and where each stood; equal ones in the order of their teachers."""
    bits = indices.shape[-1].bit_length()
    places = torch.arange(indices.shape[-1], device=indices.device)
    keys = (indices.long() << bits) | places
    # On a CPU, NumPy sorts integers ten times faster than torch does.
    if keys.device.type == "cpu":
        keys = torch.from_numpy(np.sort(keys.numpy(), axis=-1))
    else:
        keys = keys.sort(dim=-1).values
    return (keys >> bits).to(indices.dtype), keys & ((1 << bits) - 1)


def _gathered(parts: list[Tensor], order: Tensor, slot: Tensor, width: int) -> Tensor:
    """Teachers' entries ``[rows..., T, k]`` added up by class, ``[rows..., T, width]``."""
    entries = torch.cat(parts, -1)
    entries = entries.gather(-1, order.unsqueeze(-2).expand_as(entries))
    out = entries.new_zeros((*entries.shape[:-1], width))
    return out.scatter_add_(-1, slot.unsqueeze(-2).expand_as(entries), entries)
