"""One shard, opened: every number checked before it is used, every byte before it is believed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import xxhash
from numpy.typing import NDArray

from pantheon.errors import ConfigError, ManifestError, SchemaError, ShardError
from pantheon.schema import MAX_EMPTY_ROWS
from pantheon.store.layout import (
    BLOCK,
    MAX_HEADER,
    Layout,
    offsets_name,
    parse,
    plan,
    ragged,
    stated_rows,
    stored_parts,
    tensor_name,
    width,
)
from pantheon.store.manifest import MAX_ROWS, PAIR, DumpInfo, Entry
from pantheon.store.pack import make_entry
from pantheon.store.pairs import Ids, digest, from_runs, require_sorted
from pantheon.store.ranges import RangeFile, read_bytes

_AGAIN = "remove it and run the dump again"
_TOGETHER = 64


@dataclass(frozen=True, slots=True)
class Head:
    """What a reader keeps of an opened shard.

    Args:
        name: file name.
        layout: where the tensors lie.
        ids, views: the pairs.
        offsets: cumulative packed rows of every ragged field, int64 ``[rows + 1]``.
        blocks: digests of the knowledge, 64 KiB each.
        checked: which blocks were found right; shared by all threads, set once.
    """

    name: str
    layout: Layout
    ids: Ids
    views: Ids
    offsets: Mapping[str, Ids]
    blocks: NDArray[np.int64]
    checked: NDArray[np.bool_]

    @property
    def rows(self) -> int:
        """Number of pairs."""
        return self.layout.index["ids"].rows

    def without_pairs(self) -> Head:
        """The same head without its pairs, for whoever has them from elsewhere."""
        none = np.empty(0, np.int64)
        return replace(self, ids=none, views=none)

    def check(self, file: RangeFile, starts: Sequence[int], stops: Sequence[int]) -> None:
        """Verify the blocks under some ranges of the file that were not verified before.

        Raises:
            ShardError: a block whose digest is wrong.
        """
        if self.checked.all():
            return
        wanted = np.zeros(len(self.blocks), bool)
        for start, stop in zip(starts, stops, strict=True):
            first, last = start - self.layout.data, stop - self.layout.data
            wanted[first // BLOCK : -(-last // BLOCK)] = True
        self._check_blocks(file, np.flatnonzero(wanted & ~self.checked))

    def check_rows(self, file: RangeFile, base: int, width: int, rows: Ids) -> None:
        """Verify the blocks under some rows of a tensor that starts at `base`."""
        if self.checked.all() or not len(rows) or not width:
            return
        begin = base - self.layout.data + rows * width
        first, last = begin // BLOCK, (begin + width - 1) // BLOCK
        steps = range(int((last - first).max()) + 1)
        touched = np.unique(np.concatenate([np.minimum(first + s, last) for s in steps]))
        self._check_blocks(file, touched[~self.checked[touched]])

    def _check_blocks(self, file: RangeFile, numbers: Ids) -> None:
        """Blocks that follow each other are read together, at most 4 MiB at a time."""
        cuts = np.flatnonzero((np.diff(numbers) != 1) | (numbers[1:] % _TOGETHER == 0)) + 1
        for group in np.split(numbers, cuts) if len(numbers) else []:
            start = self.layout.data + int(group[0]) * BLOCK
            stop = min(self.layout.data + (int(group[-1]) + 1) * BLOCK, self.layout.size)
            data = read_bytes(file, start, stop)
            for k, number in enumerate(group.tolist()):
                self._check_block(file, number, data[k * BLOCK : (k + 1) * BLOCK])

    def _check_block(self, file: RangeFile, number: int, data: memoryview) -> None:
        if _signed(xxhash.xxh3_64_intdigest(data)) != self.blocks[number]:
            start = self.layout.data + number * BLOCK
            raise ShardError(
                f"{file.name} was altered between bytes {start} and {start + data.nbytes}: the "
                f"checksum does not fit; {_AGAIN}"
            )
        self.checked[number] = True


def open_shard(file: RangeFile, size: int, info: DumpInfo | None = None) -> tuple[DumpInfo, Head]:
    """Read a shard's header and index, and check them to the byte.

    Args:
        size: bytes of the file.
        info: what the dump says; None to take the shard's own word for it.

    Raises:
        ShardError: anything that a dump would not have written, or that was altered since.
    """
    text = _header_bytes(file, size)
    wire = parse(text, file.name)
    found = _stated_info(wire, file.name)
    if info is not None and found != info:
        raise ShardError(
            f"{file.name} belongs to another dump: it is of revision {found.revision!r}, fields "
            f"{', '.join(found.schema.names)}, dataset {found.dataset!r}; this folder holds "
            f"revision {info.revision!r}, fields {', '.join(info.schema.names)}, dataset "
            f"{info.dataset!r}. Remove it from this folder"
        )
    layout = _layout(found, wire, text, size, file.name)
    return found, _head(file, layout, found, str(wire["__metadata__"]["index"]))


def entry_of(file: RangeFile, head: Head) -> Entry:
    """Make a shard's entry from the shard alone, after checking every byte of it."""
    head.check(file, [head.layout.data], [head.layout.size])
    whole = xxhash.xxh3_64()
    for piece in pieces(file, head.layout.size):
        whole.update(piece)
    return make_entry(head.ids, head.views, head.layout.size, str(whole.hexdigest()))


def require_entry(head: Head, entry: Entry) -> None:
    """Raise `ShardError` when a shard holds other pairs than its entry says."""
    same = entry.rows == head.rows and entry.pairs == digest(head.ids, head.views)
    if same and entry.runs is not None:
        ids, views = from_runs(entry.runs)
        same = np.array_equal(ids, head.ids) and np.array_equal(views, head.views)
    if not same:
        raise ShardError(
            f"{head.name} holds other samples than the manifest says ({head.rows} rows, expected "
            f"{entry.rows}); {_AGAIN}"
        )


def pieces(file: RangeFile, size: int, step: int = 1 << 22) -> Iterator[memoryview]:
    """A whole file, piece after piece."""
    for start in range(0, size, step):
        yield read_bytes(file, start, min(start + step, size))


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _header_bytes(file: RangeFile, size: int) -> bytes:
    if size < 8:
        raise ShardError(f"{file.name} has {size} bytes; it was cut short: {_AGAIN}")
    length = int.from_bytes(read_bytes(file, 0, 8), "little")
    if not 2 <= length <= min(MAX_HEADER, size - 8):
        raise ShardError(
            f"{file.name} states a header of {length} bytes; expected 2 to "
            f"{min(MAX_HEADER, size - 8)}: it was cut short or altered; {_AGAIN}"
        )
    return bytes(read_bytes(file, 8, 8 + length))


def _stated_info(wire: Mapping[str, object], name: str) -> DumpInfo:
    told = wire["__metadata__"]
    try:
        text = told["dump"] if isinstance(told, dict) else ""
        return DumpInfo.from_wire(json.loads(text))
    except (KeyError, TypeError, ValueError, RecursionError, ManifestError) as error:
        raise ShardError(f"{name}: the header does not describe a dump ({error})") from error


def _layout(
    info: DumpInfo, wire: Mapping[str, object], text: bytes, size: int, name: str
) -> Layout:
    """The layout that the header states, proven by writing the header again."""
    told = wire["__metadata__"]
    index = told.get("index") if isinstance(told, dict) else None
    try:
        rows, totals = _stated(info, wire, size, name)
        layout = plan(info, rows, totals, index if isinstance(index, str) else "")
    except SchemaError as error:
        raise ShardError(f"{name}: its schema cannot be stored: {error}; {_AGAIN}") from error
    if layout.header[8:] != text:
        raise ShardError(f"{name}: the header is not what a dump writes; it was altered; {_AGAIN}")
    if layout.size != size or not rows:
        raise ShardError(
            f"{name} has {size} bytes and {rows} rows; its header promises {layout.size} bytes: it "
            f"was cut short or altered; {_AGAIN}"
        )
    return layout


def _stated(
    info: DumpInfo, wire: Mapping[str, object], size: int, name: str
) -> tuple[int, dict[str, int]]:
    """Rows, and packed rows of every ragged field, as far as the file has room for them."""
    parts, totals = stored_parts(info.schema), {}
    for field in ragged(info.schema):
        first = parts[field][0]
        most = size // width(first) if width(first) else MAX_EMPTY_ROWS
        totals[field] = stated_rows(wire, tensor_name(first.name), name, most)
    return stated_rows(wire, "ids", name, min(size // PAIR, MAX_ROWS)), totals


def _require_pairs(name: str, ids: Ids, views: Ids, size: int) -> None:
    try:
        require_sorted(ids, views)
    except ConfigError as error:
        raise ShardError(f"{name}: {error}; {_AGAIN}") from error
    if ids[-1] >= size:
        raise ShardError(f"{name} holds sample {ids[-1]} of a dataset of {size}; {_AGAIN}")


def _head(file: RangeFile, layout: Layout, info: DumpInfo, stated: str) -> Head:
    """Read the index, and check it by its digest and by what must hold of it."""
    start = len(layout.header)
    data = read_bytes(file, start, layout.data)
    if xxhash.xxh3_64_hexdigest(data) != stated:
        raise ShardError(
            f"{file.name} was altered between bytes {start} and {layout.data}: the checksum of its "
            f"index does not fit; {_AGAIN}"
        )
    columns = {
        name: np.frombuffer(data[r.start - start : r.stop - start], "<i8").astype(np.int64)
        for name, r in layout.index.items()
    }
    offsets = {f: columns[offsets_name(f)] for f in ragged(info.schema)}
    parts = stored_parts(info.schema)
    for name, found in offsets.items():
        total = layout.parts[parts[name][0].name].rows
        # Differences alone could wrap around.
        beyond = found.min() < 0 or found.max() > total
        if beyond or found[0] or found[-1] != total or (np.diff(found) < 0).any():
            raise ShardError(f"{file.name}: the offsets of {name!r} do not rise from 0 to {total}")
    _require_pairs(file.name, columns["ids"], columns["views"], info.size)
    name = file.name.rsplit("/", 1)[-1]
    blocks = columns["blocks"]
    checked = np.zeros(len(blocks), bool)
    return Head(name, layout, columns["ids"], columns["views"], offsets, blocks, checked)
