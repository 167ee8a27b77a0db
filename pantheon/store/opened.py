"""The shards of a dump, opened when they are touched, and the rows wanted from each."""

from __future__ import annotations

import resource
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import xxhash

from pantheon.errors import ManifestError, ShardError
from pantheon.store.folder import Folder
from pantheon.store.manifest import (
    MANIFEST,
    MAX_MANIFEST,
    SHARD_NAME,
    DumpInfo,
    Entry,
    Manifest,
)
from pantheon.store.pairs import Ids, Run, from_runs, runs
from pantheon.store.ranges import RangeFile
from pantheon.store.shard import Head, open_shard, pieces, require_entry

_AGAIN = "run the dump again"


@dataclass(frozen=True, slots=True)
class Touched:
    """What one read takes from one shard.

    Args:
        file, head: the shard, opened.
        rows: int64 ``[k]``, rows of the shard.
        where: int64 ``[k]``, their places in the answer.
    """

    file: RangeFile
    head: Head
    rows: Ids
    where: Ids


class Shards:
    """A dump's shards, by number: heads are kept, files as far as the process may have them open.

    Safe to use from several threads.

    Args:
        folder: where they are.
        info: what they have in common.
        entries: one of each; its place is the shard's number.
    """

    def __init__(self, folder: Folder, info: DumpInfo, entries: Sequence[Entry] = ()) -> None:
        self._folder = folder
        self._entries = list(entries)
        self._info = info
        self._heads: dict[int, Head] = {}
        self._files: OrderedDict[int, RangeFile] = OrderedDict()
        self._most = max(16, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)
        self._lock = threading.Lock()

    def open(self, number: int) -> tuple[RangeFile, Head]:
        """A shard's file and head; `ShardError` when it is missing or not what its entry says."""
        with self._lock:
            file = self._file(number)
            head = self._heads.get(number)
            if head is None:
                entry = self._entries[number]
                head = open_shard(file, entry.bytes, self._info)[1]
                require_entry(head, entry)
                self._heads[number] = head = head.without_pairs()
        return file, head

    def add(self, entry: Entry) -> int:
        """Take in a shard that was published since; its number."""
        with self._lock:
            self._entries.append(entry)
            return len(self._entries) - 1

    def name(self, number: int) -> str:
        """A shard's file name."""
        return self._entries[number].shard

    def pairs(self, number: int) -> tuple[Ids, Ids]:
        """The ids and views of a shard's rows."""
        return from_runs(self.runs(number))

    def runs(self, number: int) -> Sequence[Run]:
        """The pairs of a shard as runs, from its entry or, if they are too many, from itself."""
        listed = self._entries[number].runs
        if listed is not None:
            return listed
        entry = self._entries[number]
        file, _ = self.open(number)
        head = open_shard(file, entry.bytes, self._info)[1]
        return runs(head.ids, head.views)

    def check_all(self) -> None:
        """Verify the checksums of all files; `ShardError` names the first that is wrong."""
        for number in range(len(self._entries)):
            self.check(number)

    def check(self, number: int) -> None:
        """Verify the checksum of one file."""
        file, _ = self.open(number)
        entry, whole = self._entries[number], xxhash.xxh3_64()
        for piece in pieces(file, entry.bytes):
            whole.update(piece)
        if whole.hexdigest() != entry.xxh3_64:
            raise ShardError(
                f"{file.name} was altered: its checksum is {whole.hexdigest()}, the manifest says "
                f"{entry.xxh3_64}; remove it and run the dump again"
            )

    def close(self) -> None:
        """Let go of all files."""
        with self._lock:
            self._files.clear()

    def _file(self, number: int) -> RangeFile:
        file = self._files.pop(number, None)
        if file is None:
            name = self._entries[number].shard
            try:
                file = self._folder.open(name)
            except FileNotFoundError as error:
                raise missing_shard(self._folder, name) from error
        self._files[number] = file
        if len(self._files) > self._most:
            self._files.popitem(last=False)
        return file


def open_manifest(folder: Folder) -> Manifest:
    """Read a folder's manifest and hold it against the files that are there.

    Raises:
        ManifestError: there is none, or it is not right.
        ShardError: a shard is missing, of another size, or not in the manifest.
    """
    files = folder.files()
    if MANIFEST not in files:
        raise _no_manifest(folder, files)
    try:
        manifest = Manifest.from_json(folder.read(MANIFEST, MAX_MANIFEST))
    except ManifestError as error:
        raise ManifestError(f"{folder.full(MANIFEST)}: {error}; {_remake(folder)}") from error
    for entry in manifest.entries:
        if entry.shard not in files:
            raise missing_shard(folder, entry.shard)
        if files[entry.shard] != entry.bytes:
            raise ShardError(
                f"{folder.full(entry.shard)} has {files[entry.shard]} bytes, the manifest says "
                f"{entry.bytes}: it was cut short or altered; {_AGAIN} to make it new"
            )
    listed = {e.shard for e in manifest.entries}
    extra = sorted(n for n in files if SHARD_NAME.fullmatch(n) and n not in listed)
    if extra:
        raise ShardError(
            f"{folder.full(extra[0])} is not in the manifest ({len(extra)} such): a dump is still "
            f"running, died before its end, or somebody put it there. Remove it, or {_AGAIN} to "
            f"take it in if it belongs here, or {_remake(folder)}"
        )
    return manifest


def missing_shard(folder: Folder, name: str) -> ShardError:
    """The error for a shard that the manifest lists and the folder has not."""
    return ShardError(
        f"{folder.full(name)} is missing, the manifest lists it; {_AGAIN} to make it new, or "
        f"{_remake(folder)} to do without its samples"
    )


def groups(shard: Ids) -> Iterator[tuple[int, Ids]]:
    """Each shard number of a read, and the places that it fills.

    Example:
        >>> list(groups(np.array([7, 4, 7])))
        [(4, array([1])), (7, array([0, 2]))]
    """
    if not len(shard):
        return
    if (shard == shard[0]).all():
        yield int(shard[0]), np.arange(len(shard))
        return
    order = np.argsort(shard, kind="stable")
    for places in np.split(order, np.flatnonzero(np.diff(shard[order])) + 1):
        yield int(shard[places[0]]), places


def packed_rows(field: str, touched: Sequence[Touched], n: int) -> tuple[Ids, list[Touched]]:
    """Turn samples of a ragged field into the packed rows that they consist of.

    Args:
        n: number of samples read.

    Returns:
        Lengths, int64 ``[n]``, and what to take from each shard, in packed rows.
    """
    lengths = np.zeros(n, np.int64)
    for t in touched:
        ends = t.head.offsets[field]
        lengths[t.where] = ends[t.rows + 1] - ends[t.rows]
    starts = np.cumsum(lengths) - lengths
    return lengths, [
        Touched(
            t.file,
            t.head,
            spread(t.head.offsets[field][t.rows], lengths[t.where]),
            spread(starts[t.where], lengths[t.where]),
        )
        for t in touched
    ]


def spread(starts: Ids, lengths: Ids) -> Ids:
    """The numbers start, start + 1, ... of every span, one span after the other.

    Example:
        >>> spread(np.array([7, 2]), np.array([2, 3]))
        array([7, 8, 2, 3, 4])
    """
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()))


def _remake(folder: Folder) -> str:
    return f"pantheon.store.rebuild({folder.path!r})"


def _no_manifest(folder: Folder, files: dict[str, int]) -> ManifestError:
    shards = sum(1 for n in files if SHARD_NAME.fullmatch(n))
    if not shards:
        return ManifestError(
            f"{folder.path} holds no dump: neither {MANIFEST} nor shards; is the path right?"
        )
    return ManifestError(
        f"{folder.full(MANIFEST)} is missing beside {shards} shards: the dump has not ended yet or "
        f"was stopped; {_AGAIN}, or {_remake(folder)} to take what is there"
    )
