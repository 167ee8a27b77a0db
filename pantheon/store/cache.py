"""A dump that grows while a student trains, and what it holds already."""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import xxhash
from numpy.typing import NDArray
from torch import Tensor

from pantheon.errors import DiskFullError, PantheonError, ShardError, StoreError
from pantheon.store.arranged import Answer, arrange
from pantheon.store.budget import Budget
from pantheon.store.claims import sweep
from pantheon.store.folder import Folder
from pantheon.store.manifest import SHARD_NAME, DumpInfo, Entry, entry_json
from pantheon.store.opened import Shards
from pantheon.store.pack import pack
from pantheon.store.pairs import Ids
from pantheon.store.rows import read_rows
from pantheon.store.sealed import canonical
from pantheon.store.table import PairTable
from pantheon.store.writer import (
    adopt,
    description,
    discard,
    entry_files,
    publish_entry,
    survey,
    write_manifest,
)

logger = logging.getLogger(__name__)

SPARE = 4096
"""Bytes kept free for what a manifest says beside its entries."""

Found = tuple[Ids, Ids]
"""Shard numbers and rows, int64 ``[n]`` each."""

Some = tuple[Ids, Found]
"""Sorted positions of those that were found, and where they are."""


def cache_folder(
    path: str | os.PathLike[str], teacher: str, info: DumpInfo, inputs: str | None = None
) -> str:
    """Where a cache keeps one teacher's knowledge of one revision, schema and dataset.

    Args:
        inputs: what tells the inputs that the teacher is sent for the dataset's ids from others;
            None where it reads them itself.

    Example:
        >>> from pantheon.schema import FieldSpec, KnowledgeSchema
        >>> info = DumpInfo(KnowledgeSchema((FieldSpec("y", "float32", ()),)), "r/1", "d", 4)
        >>> cache_folder("/data/cache", "bert", info)
        '/data/cache/bert/r_1-3ef7e47fcce1e442'
    """
    sent = {} if inputs is None else {"inputs": inputs}
    key = xxhash.xxh3_64_hexdigest(canonical(info.to_wire() | sent))
    return f"{os.fspath(path).rstrip('/')}/{_plain(teacher)}/{_legible(info.revision)}-{key}"


class KnowledgeCache:
    """One teacher's knowledge on disk, as far as it is known: an ordinary dump of some samples.

    One thread opens, refreshes and writes; `find` and `read` are for any. Any number of processes
    may share the folder, and one that is killed leaves whole shards or nothing.

    Args:
        path: the folder of all teachers' caches, any fsspec path.
        teacher: its name.
        info: what it knows.
        limit: bytes that everything below `path` may take; None for no bound.
        inputs: see `cache_folder`.

    Attributes:
        full: whether something was not written because of the limit.
        budget: that limit, and how much of it is taken.
        usable: whether it may be read; not after an error of the disk.
        published: bytes of the shards that it wrote.

    Example:
        >>> import torch
        >>> from pantheon.schema import FieldSpec, KnowledgeSchema
        >>> info = DumpInfo(KnowledgeSchema((FieldSpec("y", "float32", ()),)), "r1", "d", 4)
        >>> cache = KnowledgeCache("memory://pantheon-doctest-cache", "bert", info)
        >>> cache.open()
        >>> ids, views = np.array([3, 1]), np.zeros(2, np.int64)
        >>> cache.write([Answer(ids, views, [torch.tensor([3.0, 1.0])])])
        2
        >>> cache.read(cache.find(ids, views))
        [tensor([3., 1.])]
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        teacher: str,
        info: DumpInfo,
        limit: int | None = None,
        inputs: str | None = None,
    ) -> None:
        self.teacher, self.info = teacher, info
        self.folder = Folder(cache_folder(path, teacher, info, inputs))
        self.full, self.usable = False, True
        self.published = 0
        self.budget = Budget(self.folder.fs, Folder(path).root, limit)
        self._shards = Shards(self.folder, info)
        self._entries: dict[str, Entry] = {}
        self._listed = 0
        self._unlisted = False
        self._table = PairTable()
        self._lock = threading.Lock()

    def open(self) -> None:
        """Make the folder, take away what killed processes left, and see what it holds.

        Raises:
            StoreError: a folder that cannot be, or that holds other knowledge.
            DiskFullError: no space.
        """
        self.folder.prepare()
        sweep(self.folder)
        found = survey(self.folder)
        if found.info is not None:
            self.info.require_equal(found.info, "this teacher", self.folder.path)
        self._add((e, None) for e in found.entries.values())
        self.refresh()
        if not self._entries:
            self._tell_others()

    def refresh(self) -> None:
        """Take in what other processes have published since."""
        files = self.folder.files()
        new = [n for n in files if SHARD_NAME.fullmatch(n) and n not in self._entries]
        if not new:
            return
        listed = {e.shard: (i, e) for i, e in entry_files(self.folder, files, new)}
        whole = [self._whole(n, files, listed.get(n)) for n in new]
        self._add((e, None) for e in whole if e is not None)

    def find(self, ids: Ids, views: Ids) -> Found | None:
        """Where these pairs are, or None when not all of them are there."""
        some = self.find_some(ids, views)
        return some[1] if some is not None and len(some[0]) == len(ids) else None

    def find_some(self, ids: Ids, views: Ids) -> Some | None:
        """Which of these pairs are there, sorted positions, and where; None for none."""
        if not self.usable:
            return None
        shard, row = self._table.find(ids, views)
        held = np.flatnonzero(shard >= 0)
        return (held, (shard[held], row[held])) if len(held) else None

    def read(self, found: Found) -> list[Tensor] | None:
        """The coded parts of some pairs, bit by bit as they were written; None if any is damaged.

        A damaged shard is removed, so that its samples are asked for and written again.
        """
        try:
            return read_rows(self._shards, self.info.schema, *found)
        except (ShardError, OSError) as error:
            logger.warning("the cache of teacher %r is damaged: %s", self.teacher, error)
            removed = [self._remove_damaged(n) for n in np.unique(found[0]).tolist()]
            if not any(removed):
                self.give_up(error)
            return None

    def give_up(self, why: object) -> None:
        """Read nothing any more."""
        if self.usable:
            self.usable = False
            logger.warning(
                "the cache of teacher %r cannot be read and is not used any more: %s",
                self.teacher,
                why,
            )

    def write(self, answers: Sequence[Answer]) -> int:
        """Publish what is new of some answers as one shard, unless it would be beyond the limit.

        Returns:
            How many pairs were written.

        Raises:
            DiskFullError: no space; nothing of the shard is left behind.
        """
        new = arrange(self.info.schema, answers, self._missing)
        if not len(new.ids):
            return 0
        packed = pack(self.info, new.ids, new.views, [new.parts])
        entry = packed.entry
        # An entry is listed in its own file, and for a moment in two manifests.
        listing = self._listing(entry)
        if not self.budget.take(entry.bytes + listing, spare=2 * (self._listed + listing) + SPARE):
            self.full = True
            return 0
        if self.folder.create(entry.shard, packed.chunks):
            self.published += entry.bytes
            publish_entry(self.folder, self.info, entry)
            self._add([(entry, (new.ids, new.views))])
        return len(new.ids)

    def finish(self) -> None:
        """Bring the manifest up to date, so that the folder is a dump of what it holds."""
        if not self._unlisted:
            return
        try:
            write_manifest(self.folder, self.info, self._entries)
            self._unlisted = False
        except DiskFullError:
            raise
        except StoreError as error:
            # Others publish faster than it can be written, or remove what is damaged.
            logger.info("the manifest of %s is left for later: %s", self.folder.path, error)

    def close(self) -> None:
        """Let go of the files; reads that are under way finish."""
        self._shards.close()

    def _missing(self, ids: Ids, views: Ids) -> NDArray[np.bool_]:
        return self._table.find(ids, views)[0] < 0

    def _listing(self, entry: Entry) -> int:
        return len(entry_json(self.info, entry))

    def _add(self, entries: Iterable[tuple[Entry, tuple[Ids, Ids] | None]]) -> None:
        """Take shards in, with their pairs where these are known; none that is damaged."""
        added, found = [], []
        for entry, pairs in entries:
            number = self._shards.add(entry)
            try:
                found.append((number, *(pairs or self._shards.pairs(number))))
                added.append(entry)
            except (ShardError, FileNotFoundError) as error:
                self._discard(entry.shard, error)
        with self._lock:
            self._unlisted |= bool(added)
            self._entries |= {e.shard: e for e in added}
            self._listed += sum(map(self._listing, added))
            self._table = self._table.grown(found)

    def _whole(
        self, name: str, files: Mapping[str, int], listed: tuple[DumpInfo, Entry] | None
    ) -> Entry | None:
        """The entry of a shard, made anew if its writer died before that.

        None for a shard that is damaged, or that another process has removed since.
        """
        fits = listed is not None and listed[1].bytes == files[name]
        try:
            info, entry = listed if listed and fits else adopt(self.folder, name)
            self.info.require_equal(info, "this teacher", self.folder.full(name))
            if not fits:
                publish_entry(self.folder, info, entry)
        except FileNotFoundError:
            return None
        except ShardError as error:
            self._discard(name, error)
            return None
        return entry

    def _remove_damaged(self, number: int) -> bool:
        try:
            self._shards.check(number)
        except (ShardError, FileNotFoundError):
            name = self._shards.name(number)
            with self._lock:
                self._table = self._table.without(number)
                self._entries.pop(name, None)
                self._unlisted = True
            discard(self.folder, name)
            return True
        except OSError:
            pass
        return False

    def _discard(self, name: str, why: Exception) -> None:
        logger.warning("the cache of teacher %r is damaged: %s", self.teacher, why)
        discard(self.folder, name)

    def _tell_others(self) -> None:
        """Say which other revisions the cache holds; they are never used."""
        parent, own = self.folder.root.rstrip("/").rsplit("/", 1)
        try:
            found = self.folder.fs.ls(parent, detail=False)
        except FileNotFoundError:
            # An object store has no folder before the first object in it.
            return
        for other in sorted(found):
            path = str(other).rstrip("/")
            if path.rsplit("/", 1)[-1] != own and (revision := self._revision_of(path)):
                logger.warning(
                    "the cache holds revision %r of teacher %r, which has revision %r now: %s is "
                    "not used; remove it when nobody needs it any more",
                    revision,
                    self.teacher,
                    self.info.revision,
                    path,
                )

    def _revision_of(self, path: str) -> str | None:
        """The revision that another folder holds; None for our own, or for none."""
        try:
            other = Folder(self.folder.fs.unstrip_protocol(path))
            found = description(other, survey(other))
        except PantheonError as error:
            logger.warning("%s cannot be read: %s", path, error)
            return None
        return found.revision if found and found.revision != self.info.revision else None


def _plain(name: str) -> str:
    """A name as part of a path: unlike names stay unlike."""
    plain = _legible(name)
    return plain if plain == name else f"{plain}-{xxhash.xxh3_64_hexdigest(name.encode())}"


def _legible(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)[:60]
