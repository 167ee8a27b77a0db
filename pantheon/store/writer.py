"""Writes a dump: shards that appear whole, once, and a manifest that anybody can make again."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pantheon.errors import ManifestError, ShardError, StoreError
from pantheon.store.folder import Folder
from pantheon.store.manifest import (
    MANIFEST,
    MAX_ENTRY,
    MAX_MANIFEST,
    SHARD_NAME,
    DumpInfo,
    Entry,
    Manifest,
    entry_json,
    entry_name,
    read_entry,
)
from pantheon.store.pack import pack, shard_name
from pantheon.store.pairs import Ids, PairIndex, Run, runs
from pantheon.store.ranges import RangeFile
from pantheon.store.shard import entry_of, open_shard

logger = logging.getLogger(__name__)

_ROUNDS = 50


@dataclass(frozen=True, slots=True)
class Survey:
    """What a folder holds: entries whose shard is there, and shards that are not whole.

    Args:
        info: what the shards have in common; None where neither manifest nor entry says it.
        entries: by shard name.
        damaged: shards of another size than their entry says.
        unlisted: shards that no entry tells of.
    """

    info: DumpInfo | None
    entries: dict[str, Entry]
    damaged: tuple[str, ...]
    unlisted: tuple[str, ...]


class KnowledgeWriter:
    """One worker's hand on a dump; any number may work on one folder at once.

    Args:
        path: a folder at any fsspec path; made when it is not there.
        info: what this teacher dumps. A folder that holds anything else is left as it is.

    Raises:
        SchemaMismatch, RevisionMismatch, DatasetMismatch: the folder holds other knowledge.
        StoreError: the file system cannot publish files safely.
        DiskFullError: no space.

    Example:
        >>> import torch
        >>> from pantheon.schema import FieldSpec, KnowledgeSchema
        >>> info = DumpInfo(KnowledgeSchema((FieldSpec("y", "float32", ()),)), "r1", None, 4)
        >>> writer = KnowledgeWriter("memory://pantheon-doctest-writer", info)
        >>> entry = writer.write(np.arange(4), np.zeros(4, np.int64), [[torch.arange(4.0)]])
        >>> writer.finish().rows
        4
    """

    def __init__(self, path: str | os.PathLike[str], info: DumpInfo) -> None:
        self.folder = Folder(path)
        self.info = info
        found = survey(self.folder)
        held = description(self.folder, found)
        if held is not None:
            info.require_equal(held, "this teacher", f"the dump at {self.folder.path}")
        self.folder.prepare()
        self.entries = dict(found.entries) | _adopt_all(self.folder, found.unlisted, info)
        for name in found.damaged:
            logger.warning("%s is damaged and made again", self.folder.full(name))
            self.folder.remove(entry_name(name))
            self.folder.remove(name)
        self._index = PairIndex(self._runs_of(e) for e in self.entries.values())

    def missing(self, ids: Ids, view: int) -> NDArray[np.bool_]:
        """Which of these ids of one view no shard held when this writer was made."""
        shard, _ = self._index.find(ids, np.full(len(ids), view, np.int64))
        return shard < 0

    def published(self, name: str) -> Entry | None:
        """The entry of a shard that is there by now, made by whomever; None when there is none."""
        if not self.folder.has(name):
            return None
        try:
            info, entry = read_entry(self.folder.read(entry_name(name), MAX_ENTRY))
        except FileNotFoundError:
            return _adopt_all(self.folder, [name], self.info).get(name)
        self.info.require_equal(info, "this teacher", f"the dump at {self.folder.path}")
        return entry

    def write(self, ids: Ids, views: Ids, scored: Sequence[Sequence[Tensor]]) -> Entry:
        """Publish one shard, whole or not at all.

        A shard of these pairs that another worker published first stays; this one is dropped.

        Args:
            ids, views: int64 ``[n]``, sorted by (id, view).
            scored: one or more answers of a scorer that follow each other: coded parts in the
                order of `schema_parts`.

        Raises:
            SchemaError: parts that do not fit the schema.
            DiskFullError: no space; nothing of the shard is left behind.
        """
        packed = pack(self.info, ids, views, scored)
        entry = packed.entry
        if not self.folder.create(entry.shard, packed.chunks):
            logger.info("%s was published by another worker", entry.shard)
            entry = adopt(self.folder, entry.shard, self.info)[1]
        publish_entry(self.folder, self.info, entry)
        self.entries[entry.shard] = entry
        return entry

    def finish(self) -> Manifest:
        """Write the manifest of everything published by now; every worker may."""
        return write_manifest(self.folder, self.info, self.entries)

    def _runs_of(self, entry: Entry) -> Sequence[Run]:
        if entry.runs is not None:
            return entry.runs
        _, head = open_shard(self.folder.open(entry.shard), entry.bytes, self.info)
        return runs(head.ids, head.views)


def adopt(folder: Folder, name: str, info: DumpInfo | None = None) -> tuple[DumpInfo, Entry]:
    """Read a whole shard and make its entry.

    Raises:
        FileNotFoundError: it is gone.
        ShardError: it is damaged, belongs to another dump, or has another's name.
    """
    return _described(folder.open(name), name, info)


def discard(folder: Folder, name: str) -> None:
    """Remove a damaged shard, unless it is whole: somebody else may have made it anew by now."""
    with suppress(FileNotFoundError):
        file = folder.open(name)
        try:
            _described(file, name)
        except ShardError:
            if file.current():
                # First, so that it is never taken for the entry of the next shard of this name.
                folder.remove(entry_name(name))
                folder.remove(name)


def _described(file: RangeFile, name: str, info: DumpInfo | None = None) -> tuple[DumpInfo, Entry]:
    found, head = open_shard(file, file.size(), info)
    if shard_name(head.ids, head.views) != name:
        raise ShardError(
            f"{file.name} holds the samples of {shard_name(head.ids, head.views)}; it was renamed: "
            "give it its name back or remove it"
        )
    return found, entry_of(file, head)


def publish_entry(folder: Folder, info: DumpInfo, entry: Entry) -> None:
    """Write the entry file of a shard, in the place of one that is there."""
    name, content = entry_name(entry.shard), entry_json(info, entry)
    if not folder.create(name, [content]):
        folder.replace(name, content)


def survey(folder: Folder, known: Mapping[str, Entry] | None = None) -> Survey:
    """See what a folder holds, from its entries, and from its manifest where one is lost.

    An entry is published with its shard and the manifest later, so where they differ, the manifest
    speaks of a shard that was there before.

    Args:
        known: entries that were read before.

    Raises:
        RevisionMismatch, SchemaMismatch, DatasetMismatch: shards of several dumps are mixed in it.
    """
    files = folder.files()
    info, entries = _listed(folder, files)
    entries |= known or {}
    shards = {n for n in files if SHARD_NAME.fullmatch(n)}
    for found, entry in entry_files(folder, files, sorted(shards - set(known or {}))):
        if info is not None:
            info.require_equal(found, f"the dump at {folder.path}", entry_name(entry.shard))
        info, entries[entry.shard] = found, entry
    damaged = {n for n in shards & set(entries) if files[n] != entries[n].bytes}
    whole = {n: e for n, e in sorted(entries.items()) if n in shards - damaged}
    return Survey(info, whole, tuple(sorted(damaged)), tuple(sorted(shards - set(entries))))


def description(folder: Folder, found: Survey) -> DumpInfo | None:
    """What the shards have in common, from one of them where neither manifest nor entry says it.

    Raises:
        ShardError: that one is damaged.
    """
    if found.info is not None:
        return found.info
    for name in found.unlisted:
        with suppress(FileNotFoundError):
            return adopt(folder, name)[0]
    return None


def write_manifest(
    folder: Folder, info: DumpInfo, known: Mapping[str, Entry] | None = None
) -> Manifest:
    """Write a folder's manifest until it lists what is there.

    Two workers may write at once; whoever writes last looks again afterwards, so that no shard
    published before the last one looked is left out.

    Raises:
        ShardError: a shard is damaged.
    """
    for _ in range(_ROUNDS):
        found = survey(folder, known)
        if found.damaged:
            raise ShardError(
                f"{folder.full(found.damaged[0])} has another size than its entry says: it was cut "
                "short or altered; run the dump again to make it new"
            )
        known = dict(found.entries) | _adopt_all(folder, found.unlisted, info)
        content = Manifest(info, tuple(known[n] for n in sorted(known))).to_json()
        if MANIFEST in folder.files() and folder.read(MANIFEST, MAX_MANIFEST) == content:
            return Manifest.from_json(content)
        folder.replace(MANIFEST, content)
    raise StoreError(
        f"{folder.full(MANIFEST)} was written {_ROUNDS} times and is still not what it should be: "
        "either the file system does not list what was written to it, or other workers never stop"
    )


def rebuild(path: str | os.PathLike[str]) -> Manifest:
    """Make the manifest of a folder again, from its shards and their entries.

    Raises:
        ManifestError: the folder holds no shard.
        ShardError: a shard is damaged.

    Example:
        >>> rebuild("memory://pantheon-doctest-nothing")
        Traceback (most recent call last):
        pantheon.errors.ManifestError: memory://pantheon-doctest-nothing holds no shard...
    """
    folder = Folder(path)
    found = survey(folder)
    info = description(folder, found)
    if info is None:
        raise ManifestError(f"{folder.path} holds no shard; run a dump into it first")
    return write_manifest(folder, info, found.entries)


def _adopt_all(folder: Folder, names: Sequence[str], info: DumpInfo) -> dict[str, Entry]:
    """Make the entries of shards whose workers died before that; those that are gone have none."""
    made = {}
    for name in names:
        try:
            made[name] = adopt(folder, name, info)[1]
        except FileNotFoundError:
            continue
        publish_entry(folder, info, made[name])
    return made


def _listed(folder: Folder, files: dict[str, int]) -> tuple[DumpInfo | None, dict[str, Entry]]:
    if MANIFEST not in files:
        return None, {}
    try:
        manifest = Manifest.from_json(folder.read(MANIFEST, MAX_MANIFEST))
    except ManifestError as error:
        logger.warning("%s is made again: %s", folder.full(MANIFEST), error)
        return None, {}
    return manifest.info, {e.shard: e for e in manifest.entries}


def entry_files(
    folder: Folder, files: Mapping[str, int], shards: Sequence[str]
) -> Iterator[tuple[DumpInfo, Entry]]:
    """The entries of some shards; one that is not right is left out, as if it were not there.

    Args:
        files: sizes of the folder's files.
    """
    names = {entry_name(s): s for s in shards}
    fit = {n: files[n] for n in names if files.get(n, MAX_ENTRY + 1) <= MAX_ENTRY}
    for name, content in folder.read_all(fit).items():
        try:
            info, entry = read_entry(content)
        except ManifestError as error:
            logger.warning("%s is passed over: %s", folder.full(name), error)
            continue
        if entry.shard == names[name]:
            yield info, entry
