"""Merges that go on without teachers that cannot be reached."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pantheon.errors import ConfigError
from pantheon.knowledge import Value, concat_values, map_value, take_value
from pantheon.merge.base import Merge, Positions, is_topk
from pantheon.merge.custom import example, parse_merge
from pantheon.merge.mixture import mixture_of
from pantheon.ragged import Ragged, Rows
from pantheon.schema import FieldSpec
from pantheon.topk import TopKMixture
from pantheon.wire.buffers import TORCH_DTYPES

Below = Literal["raise", "mask"]


class Quorum(Merge):
    """Merge whoever answered a row, where enough did.

    A teacher of which no replica can be reached within the loader's ``patience`` is gone on without
    until it is back, as far as the merges of all its fields allow that. Weights are rescaled, so
    that those who answered weigh as much as all do.

    Args:
        merge: ``"mean"``, `Weighted` or `Mixture`; None for a field of one teacher.
        least: how many teachers have to answer a row; None for all.
        below: what happens to a row that fewer answered: ``"raise"`` ends the training with
            `TeacherUnavailable`; ``"mask"`` leaves it out: False in ``knowledge.mask[field]``, its
            value NaN (no row at all where the field is ragged), never zero.

    Raises:
        ConfigError: a ``least`` or ``below`` that cannot be.

    Example:
        >>> quorum = Quorum("mean", least=1)
        >>> values = {"a": torch.tensor([[1.0], [3.0]]), "b": torch.tensor([[5.0]])}
        >>> quorum("x", values, {"a": None, "b": torch.tensor([1])}, 2)
        tensor([[1.],
                [4.]])
    """

    def __init__(
        self, merge: Merge | str | None = None, least: int | None = 1, below: Below = "raise"
    ) -> None:
        if least is not None and (not isinstance(least, int) or least < 1):
            raise ConfigError(
                f"Quorum's least is {least!r}; expected a whole number from 1, or None"
            )
        if below not in ("raise", "mask"):
            raise ConfigError(f"Quorum's below is {below!r}; expected 'raise' or 'mask'")
        self.merge = None if merge is None else parse_merge(merge)
        self.least, self.below = least, below
        inside = self.merge.name if self.merge else "one teacher"
        self.name = f"quorum({inside}, least={'all' if least is None else least}, {below})"
        self._spec: dict[str, FieldSpec] = {}

    def spec(self, field: str, specs: Mapping[str, FieldSpec]) -> FieldSpec:
        if self.least is not None and self.least > len(specs):
            raise self.fail(
                field, f"only {', '.join(specs)} serve it, so {self.least} never answer"
            )
        if self.merge is None and len(specs) > 1:
            raise self.fail(field, f"{', '.join(specs)} serve it; say how to merge them")
        spec = next(iter(specs.values())) if self.merge is None else self.merge.spec(field, specs)
        if self.merge is not None and self._least(specs) < len(specs):
            # Found out now rather than when a teacher is lost.
            self.merge.without(field, [next(iter(specs))])
        if self.below == "mask" and not (
            is_topk(spec) or TORCH_DTYPES[spec.dtype].is_floating_point
        ):
            raise self.fail(field, f"it is {spec.dtype}, which has no NaN to mark rows left out")
        self._spec[field] = spec
        return spec

    def needed(self, teachers: Collection[str], absent: Collection[str]) -> bool:
        here = [t for t in teachers if t not in absent]
        return self.below == "raise" and len(here) < self._least(teachers)

    def _least(self, teachers: Collection[str]) -> int:
        return len(teachers) if self.least is None else self.least

    def mask(self, teachers: Collection[str], rows: Positions, n: int) -> Tensor | None:
        if all(rows.get(t) is None for t in teachers):
            return None
        counts = _present(teachers, rows, n).sum(0)
        return counts >= self._least(teachers)

    def __call__(self, field: str, values: Mapping[str, Value], rows: Positions, n: int) -> Value:
        if all(rows.get(t) is None for t in rows) and values.keys() == rows.keys():
            return self._merged(field, values, n, ())
        present = _present(tuple(rows), rows, n)
        groups, where = [], []
        for pattern in torch.from_numpy(np.unique(present.numpy(), axis=1)).T:
            at = (present == pattern.unsqueeze(1)).all(0).nonzero().squeeze(1)
            where.append(at)
            groups.append(self._group(field, values, rows, at, pattern))
        order = torch.cat(where).argsort()
        joined = concat_values(groups)
        return take_value(joined, order.to(joined.device))

    def _group(
        self,
        field: str,
        values: Mapping[str, Value],
        rows: Positions,
        at: Tensor,
        pattern: Tensor,
    ) -> Value:
        """The rows `at`, which the same teachers answered."""
        here = [t for t, answered in zip(rows, pattern.tolist(), strict=True) if answered]
        if len(here) < self._least(tuple(rows)):
            if self.below == "raise":
                raise self.fail(
                    field, f"{len(here)} teachers answered a row, {self.name} needs more"
                )
            return blank(self._spec[field], len(at))
        taken = {}
        for teacher in here:
            answered = rows[teacher]
            place = at if answered is None else torch.searchsorted(answered, at)
            taken[teacher] = take_value(values[teacher], place.to(values[teacher].device))
        return self._merged(field, taken, len(at), [t for t in rows if t not in here])

    def _merged(
        self, field: str, values: Mapping[str, Value], n: int, absent: Collection[str]
    ) -> Value:
        if self.merge is None:
            return next(iter(values.values()))
        merge = self.merge.without(field, absent) if absent else self.merge
        return merge(field, values, dict.fromkeys(values), n)


def Mask(merge: Merge | str | None = None) -> Quorum:
    """Leave out the rows that not every teacher answered: ``Quorum(merge, None, "mask")``.

    Example:
        >>> Mask("mean")
        <merge quorum(mean, least=all, mask)>
    """
    return Quorum(merge, None, "mask")


def _present(teachers: Collection[str], rows: Positions, n: int) -> Tensor:
    """bool ``[teachers, n]``: who answered which row."""
    present = torch.ones(len(teachers), n, dtype=torch.bool)
    for i, teacher in enumerate(teachers):
        answered = rows.get(teacher)
        if answered is not None:
            present[i] = False
            present[i, answered] = True
    return present


def blank(spec: FieldSpec, rows: int) -> Value:
    """The value of rows that nobody answered: NaN, or no packed row where the field is ragged.

    Example:
        >>> blank(FieldSpec("x", "float32", (2,), "float32"), 1)
        tensor([[nan, nan]])
    """
    value = _blank_rows(spec, 0 if spec.ragged else rows)
    return Ragged(value, torch.zeros(rows, dtype=torch.int64)) if spec.ragged else value


def _blank_rows(spec: FieldSpec, rows: int) -> Rows:
    mixed = spec.codec.startswith("mixture")
    value: Value = _blank_mixture(spec, rows) if mixed else example(spec, rows)
    if isinstance(value, Ragged):
        value = value.values
    found = map_value(
        value, lambda t: torch.full_like(t, torch.nan) if t.is_floating_point() else t
    )
    assert not isinstance(found, Ragged)
    return found


def _blank_mixture(spec: FieldSpec, rows: int) -> TopKMixture:
    width, temperatures = mixture_of(spec.codec)
    lead, heat = (rows, *spec.shape[:-1]), len(temperatures)
    zeros = torch.zeros(*lead, heat, width)
    indices = torch.full((*lead, width), -1, dtype=torch.int32)
    left = torch.zeros(*lead, heat)
    return TopKMixture(zeros, indices, left, zeros, temperatures, spec.shape[-1])
