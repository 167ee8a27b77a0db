"""Offline: score what a folder does not hold yet, shard by shard, with any number of workers."""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from pantheon.codec.parts import schema_parts
from pantheon.errors import ConfigError, IdOutOfRange
from pantheon.schema import KnowledgeSchema
from pantheon.store.claims import claim, sweep
from pantheon.store.layout import width
from pantheon.store.manifest import DumpInfo
from pantheon.store.pack import shard_name
from pantheon.store.pairs import Ids, pair_arrays
from pantheon.store.writer import KnowledgeWriter

logger = logging.getLogger(__name__)

SHARD_BYTES = 64 << 20
MAX_ROWS = 1 << 16
MIN_ROWS = 256
SPREAD = 16
"""A dump has at least this many shards, if they are not small, so that workers can share it."""
PATIENCE = 60.0
"""Seconds without any shard published by others before their claims are no longer heeded."""
_LOOK_AGAIN = 0.05

Progress = Callable[[int, int], None]


class Scores(Protocol):
    """What a dump needs of a scorer; `pantheon.scorer.Scorer` is one."""

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
class DumpReport:
    """What one call of `dump` did.

    Args:
        written: shards this worker published.
        skipped: shards that were there already, or that other workers published meanwhile.
        rows: (id, view) pairs in the shards written.
        bytes: size of the shards written.
        seconds: how long the call took.
    """

    written: int
    skipped: int
    rows: int
    bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Piece:
    """A shard to be made: some ids, sorted, in one view."""

    ids: Ids
    view: int

    @property
    def views(self) -> Ids:
        """The view of each id."""
        return np.full(len(self.ids), self.view, np.int64)

    @property
    def name(self) -> str:
        """The file name of the shard."""
        return shard_name(self.ids, self.views)


def dump(
    scorer: Scores,
    path: str | os.PathLike[str],
    *,
    ids: Sequence[int] | Ids | None = None,
    views: int | None = None,
    shard_rows: int | None = None,
    progress: Progress | None = None,
    rank: int | None = None,
    world: int | None = None,
) -> DumpReport:
    """Write a teacher's knowledge to a folder; what the folder holds already is not scored again.

    Any number of processes may dump into one folder at once. They share the work by rank, and
    those that are done first help the others. Stopped anywhere, the next call goes on.

    Args:
        scorer: the model and its dataset.
        path: a folder, any fsspec path.
        ids: the samples wanted, None for all.
        views: K dumps views 1 to K (epoch e reads view 1 + e mod K); None or 0 the samples as they
            are, view 0.
        shard_rows: rows of a shard; None for about 64 MiB, and fewer when there is little to dump.
        progress: called with rows done and rows wanted.
        rank, world: this worker's number and how many there are; None for torchrun's, or 0 of 1.

    Raises:
        RevisionMismatch, SchemaMismatch, DatasetMismatch: the folder holds other knowledge, which
            is left as it is.
        IdOutOfRange: ids outside the dataset.
        DiskFullError: no space left; the next call goes on.
        ConfigError: a scorer without a dataset, or numbers that cannot be.
    """
    started = time.monotonic()
    info = _info(scorer)
    wanted, seen = _wanted(ids, info.size), _views(views)
    rank, world = _place(rank, world)
    writer = KnowledgeWriter(path, info)
    sweep(writer.folder)
    rows = _shard_rows(scorer, wanted, seen, shard_rows)
    work = _Work(scorer, writer, len(wanted) * len(seen), progress)
    pieces = list(work.pieces(wanted, seen, rows))
    work.run(_order(pieces, rank, world, lone=not writer.folder.local and world == 1))
    writer.finish()
    return work.report(time.monotonic() - started)


class _Work:
    """The pieces of one call, done one after the other, and what came of them."""

    def __init__(
        self, scorer: Scores, writer: KnowledgeWriter, total: int, progress: Progress | None
    ) -> None:
        self._scorer, self._writer = scorer, writer
        self._progress = progress or (lambda done, total: None)
        self._total, self._done = total, 0
        self._written = self._skipped = self._rows = self._bytes = 0

    def pieces(self, ids: Ids, views: Sequence[int], rows: int) -> Iterator[Piece]:
        """What is missing of every shard that the whole dump would have."""
        for view in views:
            for start in range(0, len(ids), rows):
                planned = ids[start : start + rows]
                missing = planned[self._writer.missing(planned, view)]
                self._advance(len(planned) - len(missing))
                if len(missing):
                    yield Piece(missing, view)
                else:
                    self._skipped += 1

    def run(self, pieces: list[Piece]) -> None:
        """Make every piece, or see that others have; those that others work on come last."""
        quiet = time.monotonic()
        while pieces:
            left = [p for p in pieces if not self._try(p, heed=True)]
            if len(left) == len(pieces):
                if time.monotonic() - quiet > PATIENCE:
                    logger.warning("no shard in %g s; helping with %s", PATIENCE, left[0].name)
                    self._try(left.pop(0), heed=False)
                else:
                    time.sleep(_LOOK_AGAIN)
                    pieces = left
                    continue
            pieces, quiet = left, time.monotonic()

    def report(self, seconds: float) -> DumpReport:
        return DumpReport(self._written, self._skipped, self._rows, self._bytes, seconds)

    def _try(self, piece: Piece, *, heed: bool) -> bool:
        """Whether the piece is there now; False when another worker is making it."""
        with claim(self._writer.folder, piece.name) as mine:
            if self._writer.published(piece.name) is not None:
                self._skipped += 1
                self._advance(len(piece.ids))
            elif mine or not heed:
                self._make(piece)
            else:
                return False
        return True

    def _make(self, piece: Piece) -> None:
        scored, views = [], piece.views
        step = max(1, self._scorer.batch_rows)
        for start in range(0, len(piece.ids), step):
            chunk = slice(start, start + step)
            scored.append(self._scorer.score(piece.ids[chunk], views[chunk]))
            self._advance(len(piece.ids[chunk]))
        entry = self._writer.write(piece.ids, views, scored)
        self._written += 1
        self._rows += entry.rows
        self._bytes += entry.bytes

    def _advance(self, rows: int) -> None:
        self._done += rows
        if rows:
            self._progress(self._done, self._total)


def _info(scorer: Scores) -> DumpInfo:
    if scorer.size is None:
        raise ConfigError("a dump needs a teacher with a dataset: Teacher(model, dataset, ...)")
    return DumpInfo(scorer.schema, scorer.revision, scorer.dataset_fingerprint, scorer.size)


def _wanted(ids: Sequence[int] | Ids | None, size: int) -> Ids:
    """The ids wanted, sorted, each once."""
    if ids is None:
        return np.arange(size, dtype=np.int64)
    wanted = np.unique(pair_arrays(ids)[0])
    out = wanted[(wanted < 0) | (wanted >= size)]
    if len(out):
        raise IdOutOfRange(
            f"{len(out)} ids are outside the dataset of {size} samples: {out[:10].tolist()}"
        )
    return wanted


def _views(views: int | None) -> range:
    if views is not None and (type(views) is not int or views < 0):
        raise ConfigError(f"views is {views!r}; expected how many, 0 or None for none")
    return range(1, views + 1) if views else range(1)


def _place(rank: int | None, world: int | None) -> tuple[int, int]:
    rank = int(os.environ.get("RANK", 0)) if rank is None else rank
    world = int(os.environ.get("WORLD_SIZE", 1)) if world is None else world
    if not 0 <= rank < world:
        raise ConfigError(f"rank {rank} of {world} workers cannot be; expected 0 to {world - 1}")
    return rank, world


def _shard_rows(scorer: Scores, ids: Ids, views: Sequence[int], given: int | None) -> int:
    """Rows of a shard: the same for every worker, whatever their number."""
    if given is not None:
        if type(given) is not int or given < 1:
            raise ConfigError(f"shard_rows is {given!r}; expected at least 1")
        return given
    rows = max(1, min(SHARD_BYTES // max(1, _row_bytes(scorer, ids, views)), MAX_ROWS))
    rows = min(rows, max(MIN_ROWS, -(-len(ids) * len(views) // SPREAD)))
    step = max(1, scorer.batch_rows)
    return rows - rows % step if rows > step else rows


def _row_bytes(scorer: Scores, ids: Ids, views: Sequence[int]) -> int:
    """Bytes of one sample; ragged ones are measured on the first few."""
    parts = schema_parts(scorer.schema)
    if all(p.per == "sample" for p in parts) or not len(ids):
        return 16 + sum(width(p) for p in parts)
    few = ids[:8]
    scored = scorer.score(few, np.full(len(few), views[0], np.int64))
    return 16 + sum(t.numel() * t.element_size() for t in scored) // len(few)


def _order(pieces: list[Piece], rank: int, world: int, *, lone: bool) -> list[Piece]:
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


__all__: list[str] = ["DumpReport", "Piece", "Progress", "Scores", "dump"]
