"""Where each of many scattered (id, view) pairs lies: 16 bytes a pair. NumPy only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pantheon.store.pairs import Ids

Column = tuple[Ids, NDArray[np.int32], NDArray[np.int32]]
"""Sorted ids of one view, and the shard and row of each."""


@dataclass(frozen=True, slots=True)
class PairTable:
    """A table that grows by making another one, so that threads may read while one adds.

    `PairIndex` is smaller where ids follow each other; here they need not.

    Example:
        >>> ids, view = np.array([4, 2, 9]), np.zeros(3, np.int64)
        >>> table = PairTable().grown([(0, ids, view)])
        >>> table.find(np.array([9, 3, 4]), view)
        (array([ 0, -1,  0]), array([ 2, -1,  0]))
    """

    views: Mapping[int, Column] = field(default_factory=dict)

    def grown(self, shards: Iterable[tuple[int, Ids, Ids]]) -> PairTable:
        """A table that also knows these shards: number, ids and views of its rows.

        A pair that is known already, or that two of them hold, stays where it was found first.
        """
        found: dict[int, list[Column]] = {v: [c] for v, c in self.views.items()}
        for number, ids, views in shards:
            for view in np.unique(views).tolist():
                rows = np.flatnonzero(views == view).astype(np.int32)
                column = (ids[rows], np.full(len(rows), number, np.int32), rows)
                found.setdefault(view, []).append(column)
        return PairTable({v: _merged(c) for v, c in found.items()})

    def without(self, number: int) -> PairTable:
        """A table that knows nothing of one shard."""
        kept = {v: (c[1] != number, c) for v, c in self.views.items()}
        return PairTable({v: (c[0][k], c[1][k], c[2][k]) for v, (k, c) in kept.items() if k.any()})

    def find(self, ids: Ids, views: Ids) -> tuple[Ids, Ids]:
        """Shard numbers and rows of pairs ``[n]``; -1 and -1 for a pair that nobody holds."""
        shard, row = np.full(len(ids), -1, np.int64), np.full(len(ids), -1, np.int64)
        for view in np.unique(views).tolist():
            column = self.views.get(view)
            if column is None:
                continue
            here = np.flatnonzero(views == view)
            at = np.minimum(np.searchsorted(column[0], ids[here]), len(column[0]) - 1)
            held = column[0][at] == ids[here]
            shard[here[held]], row[here[held]] = column[1][at[held]], column[2][at[held]]
        return shard, row


def _merged(columns: list[Column]) -> Column:
    if len(columns) == 1:
        return columns[0] if (np.diff(columns[0][0]) > 0).all() else _sorted(columns[0])
    ids, shard, row = (np.concatenate(c) for c in zip(*columns, strict=True))
    return _sorted((ids, shard, row))


def _sorted(column: Column) -> Column:
    ids, first = np.unique(column[0], return_index=True)
    return ids, column[1][first], column[2][first]
