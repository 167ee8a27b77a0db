"""Offline: score what a folder does not hold yet, shard by shard, with any number of workers."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pantheon.errors import ConfigError
from pantheon.store.claims import claim, sweep
from pantheon.store.manifest import DumpInfo
from pantheon.store.pairs import Ids
from pantheon.store.writer import KnowledgeWriter
from teacher_server.dump_plan import (
    Piece,
    Scores,
    Wanted,
    all_views,
    as_array,
    in_order,
    wanted_ids,
)
from teacher_server.dump_plan import (
    shard_rows as rows_of,
)

logger = logging.getLogger(__name__)

PATIENCE = 60.0
"""Seconds without any shard published by others before their claims are no longer heeded."""
_LOOK_AGAIN = 0.05

Progress = Callable[[int, int], None]


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
    wanted, seen = wanted_ids(ids, info.size), all_views(views)
    rank, world = _place(rank, world)
    writer = KnowledgeWriter(path, info)
    sweep(writer.folder)
    rows = rows_of(scorer, wanted, seen, shard_rows)
    work = _Work(scorer, writer, len(wanted) * len(seen), progress)
    pieces = list(work.pieces(wanted, seen, rows))
    work.run(in_order(pieces, rank, world, lone=not writer.folder.local and world == 1))
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

    def pieces(self, wanted: Wanted, views: Sequence[int], rows: int) -> Iterator[Piece]:
        """What is missing of every shard that the whole dump would have."""
        for view in views:
            for start in range(0, len(wanted), rows):
                planned = wanted[start : start + rows]
                ids = as_array(planned)
                missing = ids[self._writer.missing(ids, view)]
                self._advance(len(ids) - len(missing))
                if len(missing):
                    yield Piece(planned if len(missing) == len(ids) else missing, view)
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
        """What came of it."""
        return DumpReport(self._written, self._skipped, self._rows, self._bytes, seconds)

    def _try(self, piece: Piece, *, heed: bool) -> bool:
        """Whether the piece is there now; False when another worker is making it."""
        with claim(self._writer.folder, piece.name) as mine:
            if self._writer.published(piece.name) is not None:
                self._skipped += 1
                self._advance(len(piece.wanted))
            elif mine or not heed:
                self._make(piece)
            else:
                return False
        return True

    def _make(self, piece: Piece) -> None:
        scored, ids, views = [], piece.ids, piece.views
        step = max(1, self._scorer.batch_rows)
        for start in range(0, len(ids), step):
            chunk = slice(start, start + step)
            scored.append(self._scorer.score(ids[chunk], views[chunk]))
            self._advance(len(ids[chunk]))
        entry = self._writer.write(ids, views, scored)
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


def _place(rank: int | None, world: int | None) -> tuple[int, int]:
    rank = int(os.environ.get("RANK", 0)) if rank is None else rank
    world = int(os.environ.get("WORLD_SIZE", 1)) if world is None else world
    if not 0 <= rank < world:
        raise ConfigError(f"rank {rank} of {world} workers cannot be; expected 0 to {world - 1}")
    return rank, world
