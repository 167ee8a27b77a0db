"""Which (id, view) pairs a shard holds, and in which shard and row a pair is found: NumPy only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import xxhash
from numpy.typing import NDArray

from pantheon.errors import ConfigError, ShardError

Ids = NDArray[np.int64]
Run = tuple[int, int, int]
"""View, first id, and the id after the last: rows that follow each other in a shard."""


def pair_arrays(ids: object, views: object = None) -> tuple[Ids, Ids]:
    """Ids and views as two int64 arrays ``[n]``; a missing view is 0.

    Raises:
        ConfigError: they are not one-dimensional integers of one length.

    Example:
        >>> pair_arrays([3, 4])
        (array([3, 4]), array([0, 0]))
    """
    given = np.asarray(ids)
    if given.size == 0:
        given = given.astype(np.int64)
    view = np.zeros(given.shape, np.int64) if views is None else np.asarray(views)
    if view.size == 0:
        view = view.astype(np.int64)
    if (
        given.ndim != 1
        or given.shape != view.shape
        or {given.dtype.kind, view.dtype.kind} - set("iu")
    ):
        raise ConfigError(
            "ids and views must be one-dimensional integers of one length, found "
            f"{given.dtype} {given.shape} and {view.dtype} {view.shape}"
        )
    return np.ascontiguousarray(given, np.int64), np.ascontiguousarray(view, np.int64)


def require_sorted(ids: Ids, views: Ids) -> None:
    """Refuse pairs that are negative, out of order or there twice; `ConfigError` says where."""
    if len(ids) and (ids.min() < 0 or views.min() < 0):
        raise ConfigError(f"ids and views are at least 0, found {ids.min()} and {views.min()}")
    step, turn = np.diff(ids), np.diff(views)
    wrong = np.flatnonzero((step < 0) | ((step == 0) & (turn <= 0)))
    if len(wrong):
        i = int(wrong[0])
        raise ConfigError(
            f"pairs must be sorted by (id, view) and be there once: ({ids[i + 1]}, {views[i + 1]}) "
            f"comes after ({ids[i]}, {views[i]})"
        )


def digest(ids: Ids, views: Ids) -> str:
    """xxh3_64 of the pairs, 16 hexadecimal digits.

    Example:
        >>> digest(*pair_arrays([0, 1])) == digest(*pair_arrays([0, 1], [0, 0]))
        True
    """
    seen = xxhash.xxh3_64(ids.astype("<i8").tobytes())
    seen.update(views.astype("<i8").tobytes())
    return str(seen.hexdigest())


def runs(ids: Ids, views: Ids) -> list[Run]:
    """Rows of consecutive ids and one view, in row order.

    Example:
        >>> runs(*pair_arrays([3, 4, 5, 9]))
        [(0, 3, 6), (0, 9, 10)]
    """
    if not len(ids):
        return []
    cuts = np.flatnonzero((np.diff(ids) != 1) | (np.diff(views) != 0)) + 1
    first = np.concatenate(([0], cuts))
    last = np.concatenate((cuts, [len(ids)])) - 1
    return list(
        zip(views[first].tolist(), ids[first].tolist(), (ids[last] + 1).tolist(), strict=True)
    )


def from_runs(given: Sequence[Run]) -> tuple[Ids, Ids]:
    """The pairs that `runs` described.

    Raises:
        ShardError: they are more than memory can hold.

    Example:
        >>> from_runs([(0, 3, 6), (0, 9, 10)])[0]
        array([3, 4, 5, 9])
    """
    total, at = sum(stop - start for _, start, stop in given), 0
    try:
        ids, views = np.empty(total, np.int64), np.empty(total, np.int64)
        for view, start, stop in given:
            here = slice(at, at + stop - start)
            ids[here], views[here], at = np.arange(start, stop), view, here.stop
    except MemoryError as error:
        raise ShardError(
            f"shards state {total} rows, whose ids are more than memory holds: {error}. Are these "
            "sparse files, or is it another dump than was meant?"
        ) from error
    return ids, views


@dataclass(frozen=True, slots=True)
class _Table:
    """The runs of one view, disjoint and sorted: where each starts, stops and lies."""

    start: Ids
    stop: Ids
    shard: Ids
    row: Ids

    def find(self, ids: Ids) -> tuple[Ids, Ids]:
        at = np.maximum(np.searchsorted(self.start, ids, side="right") - 1, 0)
        inside = (ids >= self.start[at]) & (ids < self.stop[at])
        shard = np.where(inside, self.shard[at], -1)
        return shard, np.where(inside, self.row[at] + ids - self.start[at], -1)


class PairIndex:
    """Where every pair of a dump lies; a pair that two shards hold is taken from the first.

    Args:
        shards: for each shard, its runs in row order.

    Example:
        >>> index = PairIndex([[(0, 0, 4)], [(0, 4, 8), (1, 0, 2)]])
        >>> index.find(*pair_arrays([5, 1, 9]))
        (array([ 1,  0, -1]), array([ 1,  1, -1]))
    """

    def __init__(self, shards: Iterable[Sequence[Run]]) -> None:
        by_view: dict[int, list[tuple[int, int, int, int]]] = {}
        for number, given in enumerate(shards):
            row = 0
            for view, start, stop in given:
                by_view.setdefault(view, []).append((start, stop, number, row))
                row += stop - start
        self._tables = {v: _table(by_view[v]) for v in sorted(by_view)}

    @property
    def views(self) -> tuple[int, ...]:
        """The views held, sorted."""
        return tuple(self._tables)

    def ids(self, view: int | None = None) -> Ids:
        """The ids held in one view, or in any, sorted, each once."""
        tables = self._tables.values() if view is None else [self._tables[view]]
        spans = [(0, int(a), int(b)) for t in tables for a, b in zip(t.start, t.stop, strict=True)]
        found = from_runs(spans)[0]
        return found if len(tables) == 1 else np.unique(found)

    def find(self, ids: Ids, views: Ids) -> tuple[Ids, Ids]:
        """Shard numbers and rows of pairs ``[n]``; -1 and -1 for a pair that nobody holds."""
        if len(views) and (views == views[0]).all():
            return self._find_in(int(views[0]), ids)
        shard, row = np.full(len(ids), -1, np.int64), np.full(len(ids), -1, np.int64)
        for view in np.unique(views).tolist():
            here = views == view
            shard[here], row[here] = self._find_in(view, ids[here])
        return shard, row

    def _find_in(self, view: int, ids: Ids) -> tuple[Ids, Ids]:
        table = self._tables.get(view)
        if table is None:
            return np.full(len(ids), -1, np.int64), np.full(len(ids), -1, np.int64)
        return table.find(ids)


def _table(spans: list[tuple[int, int, int, int]]) -> _Table:
    """Runs of one view, sorted by id, with what an earlier run holds cut away."""
    spans = sorted(spans)
    if any(b[0] < a[1] for a, b in pairwise(spans)):
        spans = _without_overlaps(spans)
    columns = np.asarray(spans, np.int64).reshape(-1, 4).T
    return _Table(*(np.ascontiguousarray(c) for c in columns))


def _without_overlaps(spans: list[tuple[int, int, int, int]]) -> list[tuple[int, int, int, int]]:
    kept: list[tuple[int, int, int, int]] = []
    reached = -1
    for start, stop, shard, row in spans:
        begin = max(start, reached)
        if begin < stop:
            kept.append((begin, stop, shard, row + begin - start))
            reached = stop
    return kept
