"""Which teachers are asked for which rows, and how their fields become one schema. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pantheon.errors import ConfigError, MergeError
from pantheon.knowledge import Value, take_value
from pantheon.merge import Custom, Merge, Route, parse_merge
from pantheon.schema import FieldSpec, KnowledgeSchema

Answer = tuple[Mapping[str, Value], NDArray[np.int64] | None]
"""A teacher's decoded fields for n rows, and which of them they are; None: all."""

Wanted = NDArray[np.int64] | None
"""Positions among some rows; None: all of them."""


def parse_merges(
    given: Mapping[str, Merge | str | Callable[..., Value]] | None,
) -> dict[str, Merge]:
    """The merge of each field, as given by name, callable or merge.

    >>> sorted(parse_merges({"logits": "mean"}))
    ['logits']
    """
    return {field: parse_merge(merge) for field, merge in (given or {}).items()}


class MergePlan:
    """How the fields of several teachers become one set of fields.

    Args:
        schemas: each teacher's fields.
        merges: the merge of each field that several teachers serve.

    Attributes:
        schema: the merged fields.
        routed: teachers that appear in `Route` merges only; they are asked for their rows alone.
        rowwise: whether merging more rows at once gives each row the same bits.

    Raises:
        ConfigError: a merge for a field, or of a teacher, that is not there.
        MergeError: a field of several teachers without a merge, or one that cannot be merged so.
    """

    def __init__(self, schemas: Mapping[str, KnowledgeSchema], merges: Mapping[str, Merge]) -> None:
        self.merges = dict(merges)
        names = sorted({f for schema in schemas.values() for f in schema.names})
        self.teachers = {f: tuple(t for t, s in schemas.items() if f in s) for f in names}
        self._check(schemas)
        self.schema = KnowledgeSchema(tuple(self._spec(f, schemas) for f in names))
        plain = {t for f in names if not self._is_route(f) for t in self.teachers[f]}
        self.routed = frozenset(schemas) - plain
        self.rowwise = not any(isinstance(m, Custom) for m in self.merges.values())

    def _check(self, schemas: Mapping[str, KnowledgeSchema]) -> None:
        for field in self.merges:
            if field not in self.teachers:
                raise ConfigError(
                    f"merge names the field {field!r}, which no teacher serves; they serve "
                    f"{', '.join(self.teachers)}"
                )
        for field, teachers in self.teachers.items():
            if len(teachers) > 1 and field not in self.merges:
                raise MergeError(
                    f"field {field!r} comes from several teachers ({', '.join(teachers)}); say "
                    f"how to merge it, such as merge={{{field!r}: 'mean'}}, or choose with fields="
                )

    def _spec(self, field: str, schemas: Mapping[str, KnowledgeSchema]) -> FieldSpec:
        specs = {t: schemas[t][field] for t in self.teachers[field]}
        merge = self.merges.get(field)
        return merge.spec(field, specs) if merge else next(iter(specs.values()))

    def _is_route(self, field: str) -> bool:
        return isinstance(self.merges.get(field), Route)

    def wanted(self, ids: NDArray[np.int64]) -> dict[str, Wanted]:
        """For each routed teacher, which of these rows to ask it for; the others get all."""
        if not self.routed:
            return {}
        chosen = {t: np.zeros(len(ids), dtype=bool) for t in self.routed}
        for merge in self.merges.values():
            if isinstance(merge, Route):
                assigned = merge.assign(ids)
                for teacher, rows in chosen.items():
                    rows |= assigned == teacher
        return {t: np.flatnonzero(rows) for t, rows in chosen.items()}

    def merge(self, answers: Mapping[str, Answer], ids: NDArray[np.int64]) -> dict[str, Value]:
        """The merged fields of some rows from each teacher's answer for them."""
        return {f: self._merge_field(f, t, answers, ids) for f, t in self.teachers.items()}

    def _merge_field(
        self,
        field: str,
        teachers: tuple[str, ...],
        answers: Mapping[str, Answer],
        ids: NDArray[np.int64],
    ) -> Value:
        merge = self.merges.get(field)
        if merge is None:
            return answers[teachers[0]][0][field]
        if isinstance(merge, Route):
            return self._route(merge, field, teachers, answers, ids)
        # Without fields is only who answered no row.
        there = [t for t in teachers if field in answers[t][0] or answers[t][1] is None]
        values = {t: answers[t][0][field] for t in there}
        return merge(field, values, _answered(teachers, answers), len(ids))

    def masks(self, answers: Mapping[str, Answer], n: int) -> dict[str, Tensor]:
        """For fields that not every row has a value of, bool ``[n]``: which have one."""
        if all(rows is None for _, rows in answers.values()):
            return {}
        found = {
            f: m.mask(self.teachers[f], _answered(self.teachers[f], answers), n)
            for f, m in self.merges.items()
            if not isinstance(m, Route)
        }
        return {f: mask for f, mask in found.items() if mask is not None}

    def needed(self, absent: Set[str]) -> bool:
        """Whether training cannot go on while some teachers are absent."""
        for field, teachers in self.teachers.items():
            merge = self.merges.get(field)
            lost = merge.needed(teachers, absent) if merge else not absent.isdisjoint(teachers)
            if lost:
                return True
        return False

    def _route(
        self,
        merge: Route,
        field: str,
        teachers: tuple[str, ...],
        answers: Mapping[str, Answer],
        ids: NDArray[np.int64],
    ) -> Value:
        assigned = merge.assign(ids)
        values: dict[str, Value] = {}
        rows: dict[str, Tensor | None] = {}
        for teacher in teachers:
            mine = np.flatnonzero(assigned == teacher)
            if len(mine) == 0:
                continue
            fields, answered = answers[teacher]
            value = fields[field]
            if answered is None or len(answered) != len(mine):
                at = mine if answered is None else np.searchsorted(answered, mine)
                value = take_value(value, torch.from_numpy(at))
            values[teacher], rows[teacher] = value, torch.from_numpy(mine)
        return merge(field, values, rows, len(ids))


def _answered(teachers: Sequence[str], answers: Mapping[str, Answer]) -> dict[str, Tensor | None]:
    """The positions of the rows that each teacher answered; None for all."""
    rows = {t: answers[t][1] for t in teachers}
    return {t: None if at is None else torch.from_numpy(at) for t, at in rows.items()}
