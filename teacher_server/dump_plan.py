"""What a dump is to do, as values: which samples, in shards of how many rows, in which order."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from pantheon.codec.parts import schema_parts
from pantheon.errors import ConfigError, IdOutOfRange
from pantheon.schema import KnowledgeSchema
from pantheon.store.layout import width
from pantheon.store.pack import shard_name
from pantheon.store.pairs import Ids, pair_arrays

SHARD_BYTES = 64 << 20
MAX_ROWS = 1 << 16
MIN_ROWS = 256
SPREAD = 16
"""A dump has at least this many shards, if they are not small, so that workers can share it."""

Wanted = range | Ids
"""Sorted ids, each once: a range where it can be, which needs no memory."""


class Scores(Protocol):
    """What a dump needs of a scorer; `pantheon.scoring.scorer.Scorer` is one."""

    @property
    def schema(self) -> KnowledgeSchema: ...
    @property
    def revision(self) -> str: ...
    @property
    def dataset_fingerprint(self) -> str | None: ...
    @property
    def size(self) -> int | None: ...
    @property
    def batch_rows(self) -> int: ...
    def score(self, ids: Ids, views: Ids | None = None) -> list[Tensor]: ...


@dataclass(frozen=True, slots=True)
class Piece:
    """A shard to be made: some ids, sorted, in one view."""

    wanted: Wanted
    view: int

    @property
    def ids(self) -> Ids:
        """The ids, int64 ``[n]``."""
        return as_array(self.wanted)

    @property
    def views(self) -> Ids:
        """The view of each id, int64 ``[n]``."""
        return np.full(len(self.wanted), self.view, np.int64)

    @property
    def name(self) -> str:
        """The file name of the shard."""
        return shard_name(self.ids, self.views)


def as_array(wanted: Wanted) -> Ids:
    """Ids as an array.

    Example:
        >>> as_array(range(3, 5))
        array([3, 4])
    """
    if isinstance(wanted, range):
        return np.arange(wanted.start, wanted.stop, dtype=np.int64)
    return wanted


def wanted_ids(ids: Sequence[int] | Ids | None, size: int) -> Wanted:
    """The ids wanted of a dataset, sorted, each once; all of them for None.

    Raises:
        IdOutOfRange: ids outside the dataset.

    Example:
        >>> wanted_ids(None, 5), wanted_ids([3, 1, 3], 5)
        (range(0, 5), array([1, 3]))
    """
    if ids is None:
        return range(size)
    wanted = np.unique(pair_arrays(ids)[0])
    out = wanted[(wanted < 0) | (wanted >= size)]
    if len(out):
        raise IdOutOfRange(
            f"{len(out)} ids are outside the dataset of {size} samples: {out[:10].tolist()}"
        )
    return wanted


def all_views(views: int | None) -> range:
    """The views to dump: 1 to K, or view 0 alone.

    Example:
        >>> list(all_views(2)), list(all_views(None))
        ([1, 2], [0])
    """
    if views is not None and (type(views) is not int or views < 0):
        raise ConfigError(f"views is {views!r}; expected how many, 0 or None for none")
    return range(1, views + 1) if views else range(1)


def shard_rows(scorer: Scores, ids: Wanted, views: Sequence[int], given: int | None) -> int:
    """Rows of a shard: the same for every worker, whatever their number."""
    if given is not None:
        if type(given) is not int or given < 1:
            raise ConfigError(f"shard_rows is {given!r}; expected at least 1")
        return given
    rows = max(1, min(SHARD_BYTES // max(1, _row_bytes(scorer, ids, views)), MAX_ROWS))
    rows = min(rows, max(MIN_ROWS, -(-len(ids) * len(views) // SPREAD)))
    step = max(1, scorer.batch_rows)
    return rows - rows % step if rows > step else rows


def _row_bytes(scorer: Scores, ids: Wanted, views: Sequence[int]) -> int:
    """Bytes of one sample; ragged ones are measured on the first few."""
    parts = schema_parts(scorer.schema)
    if all(p.per == "sample" for p in parts) or not len(ids):
        return 16 + sum(width(p) for p in parts)
    few = as_array(ids[:8])
    scored = scorer.score(few, np.full(len(few), views[0], np.int64))
    return 16 + sum(t.numel() * t.element_size() for t in scored) // len(few)


def in_order(pieces: list[Piece], rank: int, world: int, *, lone: bool) -> list[Piece]:
    """A worker's own pieces, then those of the others, backwards, to meet them half way.

    Args:
        lone: workers do not know of each other and cannot claim; each begins somewhere else.
    """
    own = pieces[rank::world]
    if lone and own:
        turn = random.SystemRandom().randrange(len(own))
        own = own[turn:] + own[:turn]
    others = [p for r in range(1, world) for p in pieces[(rank + r) % world :: world]]
    return own + others[::-1]
