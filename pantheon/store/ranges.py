"""Positional reads: bytes of a file into memory given, from several threads at once."""

from __future__ import annotations

import os
import weakref
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pantheon.errors import ShardError
from pantheon.store.locks import is_at

Array = NDArray[Any]
Rows = NDArray[np.int64]


class RangeFile(ABC):
    """A file that never changes, read at offsets."""

    name: str
    gap: int
    """Bytes between two wanted ranges that are cheaper read than skipped."""

    @abstractmethod
    def read(self, offsets: Sequence[int], buffers: Sequence[memoryview]) -> None:
        """Fill every buffer from its offset; `ShardError` when the file ends before."""

    @abstractmethod
    def size(self) -> int:
        """Bytes of the file; `FileNotFoundError` when it is gone."""

    def current(self) -> bool:
        """Whether its name still means this file, and not another that was published since."""
        return True


class LocalFile(RangeFile):
    """A file of this machine, through `preadv`: no seek, so threads and forks do not meet.

    It is closed when its last user lets go of it.
    """

    gap = 4096

    def __init__(self, path: str) -> None:
        self.name = path
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._close = weakref.finalize(self, os.close, self._fd)

    def read(self, offsets: Sequence[int], buffers: Sequence[memoryview]) -> None:
        fd, preadv = self._fd, os.preadv
        for offset, buffer in zip(offsets, buffers, strict=True):
            got = preadv(fd, (buffer,), offset)
            if got != buffer.nbytes:
                self._read_on(offset, buffer, got)

    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def current(self) -> bool:
        return is_at(self._fd, self.name)

    def _read_on(self, offset: int, buffer: memoryview, got: int) -> None:
        while got < buffer.nbytes:
            more = os.preadv(self._fd, (buffer[got:],), offset + got)
            if not more:
                raise _ends_early(self.name, offset, buffer.nbytes, got)
            got += more


class RemoteFile(RangeFile):
    """A file of any fsspec file system, through `cat_ranges`, by its name at each read."""

    gap = 1 << 16

    def __init__(self, fs: Any, path: str) -> None:
        self.name = path
        self._fs = fs

    def read(self, offsets: Sequence[int], buffers: Sequence[memoryview]) -> None:
        ends = [o + b.nbytes for o, b in zip(offsets, buffers, strict=True)]
        paths = [self.name] * len(ends)
        found = self._fs.cat_ranges(paths, list(offsets), ends, on_error="raise")
        for offset, buffer, data in zip(offsets, buffers, found, strict=True):
            if len(data) != buffer.nbytes:
                raise _ends_early(self.name, offset, buffer.nbytes, len(data))
            buffer[:] = data

    def size(self) -> int:
        return int(self._fs.size(self.name))


def read_bytes(file: RangeFile, start: int, stop: int) -> memoryview:
    """The bytes from `start` to `stop`, in memory of their own."""
    buffer = np.empty(stop - start, np.uint8).data
    if buffer.nbytes:
        file.read([start], [buffer])
    return buffer


def gather(file: RangeFile, base: int, rows: Rows, out: Array, where: Rows) -> None:
    """Read rows of a tensor into chosen rows of an array.

    Rows that lie close to each other are read together; what is neither wanted nor between two
    wanted rows is not read.

    Args:
        base: offset of the tensor's row 0 in the file.
        rows: int64 ``[n]``, rows wanted, in any order, repeats allowed.
        out: uint8 ``[m, width]``, C order.
        where: int64 ``[n]``, the row of `out` that each goes to.
    """
    width = out.shape[1]
    if not len(rows) or not width:
        return
    step = rows[1:] - rows[:-1]
    if (step < 0).any():
        order = rows.argsort(kind="stable")
        rows, where = rows[order], where[order]
        step = rows[1:] - rows[:-1]
    in_step = (step == 1) & (where[1:] - where[:-1] == 1)
    if width >= file.gap or in_step.all():
        first, last = _spans(~in_step)
        _read_straight(file, base, out, rows[first], rows[last] + 1, where[first])
        return
    first, last = _spans((step - 1) * width > file.gap)
    astray = np.concatenate(([0], (~in_step).cumsum()))
    straight = astray[last] == astray[first]
    begin, end = first[straight], last[straight]
    _read_straight(file, base, out, rows[begin], rows[end] + 1, where[begin])
    for k in (~straight).nonzero()[0].tolist():
        here = slice(int(first[k]), int(last[k]) + 1)
        _scatter(file, base, out, rows[here], where[here])


def _spans(cut: Array) -> tuple[Rows, Rows]:
    """The first and last places of the spans between cuts; cut k lies after place k."""
    after = cut.nonzero()[0]
    return np.concatenate(([0], after + 1)), np.concatenate((after, [len(cut)]))


def _read_straight(
    file: RangeFile, base: int, out: Array, start: Rows, stop: Rows, to: Rows
) -> None:
    """Spans whose rows lie in `out` as they lie in the file: straight into place."""
    width = out.shape[1]
    flat = out.reshape(-1).data
    offsets = (base + start * width).tolist()
    begins = (to * width).tolist()
    ends = ((to + stop - start) * width).tolist()
    if offsets:
        file.read(offsets, [flat[a:b] for a, b in zip(begins, ends, strict=True)])


def _scatter(file: RangeFile, base: int, out: Array, rows: Rows, where: Rows) -> None:
    """One span whose rows go here and there: through memory of its own."""
    width = out.shape[1]
    low, high = int(rows[0]), int(rows[-1]) + 1
    span = np.empty((high - low, width), np.uint8)
    file.read([base + low * width], [span.reshape(-1).data])
    opaque = np.dtype((np.void, width))
    target, source = out.view(opaque).reshape(-1), span.view(opaque).reshape(-1)
    target[where] = source[rows - low]


def _ends_early(name: str, offset: int, wanted: int, got: int) -> ShardError:
    return ShardError(
        f"{name} ends at byte {offset + got}; expected {wanted} bytes from {offset} on. It was cut "
        "short: run the dump again to make it new"
    )
