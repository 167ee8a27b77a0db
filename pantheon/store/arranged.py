"""Answers that came in any order, as one: sorted by (id, view), each pair once. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pantheon.codec.parts import field_parts
from pantheon.errors import SchemaError
from pantheon.schema import FieldSpec, KnowledgeSchema
from pantheon.store.opened import spread
from pantheon.store.pairs import Ids


@dataclass(frozen=True, slots=True)
class Answer:
    """What a teacher said of some samples.

    Args:
        ids, views: int64 ``[n]``, any order, repeats allowed.
        parts: coded, in the order of `schema_parts`.

    Example:
        >>> Answer(np.array([7]), np.array([0]), [torch.zeros(1, 10)]).nbytes
        56
    """

    ids: Ids
    views: Ids
    parts: Sequence[Tensor]

    @property
    def nbytes(self) -> int:
        """Bytes of its pairs and parts."""
        parts = sum(t.numel() * t.element_size() for t in self.parts)
        return self.ids.nbytes + self.views.nbytes + parts


def arrange(
    schema: KnowledgeSchema,
    answers: Sequence[Answer],
    wanted: Callable[[Ids, Ids], NDArray[np.bool_]] | None = None,
) -> Answer:
    """Join answers, sort them by (id, view), and keep the first of each pair; no bit is changed.

    Args:
        answers: one at least, in the order in which they came.
        wanted: which pairs to keep, bool ``[n]``; None for all.

    Raises:
        SchemaError: lengths of a ragged field that are not those of its packed rows.

    Example:
        >>> schema = KnowledgeSchema((FieldSpec("y", "float32", ()),))
        >>> view = np.zeros(2, np.int64)
        >>> one = Answer(np.array([3, 1]), view, [torch.tensor([3.0, 1.0])])
        >>> two = Answer(np.array([2, 3]), view, [torch.tensor([2.0, 9.0])])
        >>> found = arrange(schema, [one, two])
        >>> found.ids.tolist(), found.parts[0].tolist()
        ([1, 2, 3], [1.0, 2.0, 3.0])
    """
    ids = np.concatenate([a.ids for a in answers])
    views = np.concatenate([a.views for a in answers])
    order = np.lexsort((views, ids))
    if wanted is not None:
        order = order[wanted(ids, views)[order]]
    same = (np.diff(ids[order]) == 0) & (np.diff(views[order]) == 0)
    order = order[np.concatenate(([True], ~same))[: len(order)]]
    return Answer(ids[order], views[order], taken(schema, [a.parts for a in answers], order))


def taken(schema: KnowledgeSchema, answers: Sequence[Sequence[Tensor]], order: Ids) -> list[Tensor]:
    """Some samples of answers that follow each other, as one answer.

    Args:
        answers: coded parts, each in the order of `schema_parts`.
        order: int64 ``[n]``, which samples, counted over all answers.

    Raises:
        SchemaError: lengths of a ragged field that are not those of its packed rows.
    """
    columns = [torch.cat(list(column)) for column in zip(*answers, strict=True)]
    parts: list[Tensor] = []
    for field in schema:
        own = columns[len(parts) : len(parts) + len(field_parts(field))]
        parts += _taken(field, own, order)
    return parts


def _taken(field: FieldSpec, parts: Sequence[Tensor], order: Ids) -> list[Tensor]:
    """Some samples of a field; those of a ragged one lie at the sum of the lengths before."""
    at = torch.from_numpy(order)
    if field.ragged is None:
        return [p[at] for p in parts]
    lengths = parts[0].numpy()
    if (lengths < 0).any() or lengths.sum() != len(parts[1]):
        raise SchemaError(
            f"the lengths of {field.name!r} add up to {lengths.sum()}; expected {len(parts[1])}, "
            "the packed rows there are"
        )
    packed = spread((np.cumsum(lengths) - lengths)[order], lengths[order])
    rows = torch.from_numpy(packed)
    return [parts[0][at], *(p[rows] for p in parts[1:])]
