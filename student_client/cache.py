"""The caches of a student's online teachers: what they hold is read instead of asked for."""

from __future__ import annotations

import logging
import os
import queue
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from pantheon.delivery.ledger import Assignment
from pantheon.errors import DatasetError
from pantheon.store.arranged import Answer
from pantheon.store.cache import KnowledgeCache, Some
from pantheon.store.folder import Folder
from pantheon.store.manifest import DumpInfo
from pantheon.store.pairs import Ids
from pantheon.transport.wake import Wake
from pantheon.wire.buffers import from_raw
from pantheon.wire.messages import RawTensor
from student_client.cache_writer import CacheWriter
from student_client.fleet import Fleet
from student_client.known import KnownTeacher
from student_client.requests import Held, Request
from student_client.sent import inputs_digest

logger = logging.getLogger(__name__)

READERS = 2
"""Threads that read all caches of a student."""

SETTLE_S = 30.0
"""Seconds an epoch waits, at its start, for what was written to be there."""

CLOSE_S = 10.0
"""Seconds a loader waits, at its end, for what is not written yet."""

LEAST = 0.125
"""Part of a request that has to be in the cache for it to be read; less is asked with the rest."""

Parts = tuple[RawTensor, ...]
Taker = Callable[[Assignment, Held | None], None]
"""Whoever takes in what was read; None where it could not be."""


@dataclass(frozen=True, slots=True)
class Read:
    """What a thread has read, and for whom."""

    taker: Taker
    assignment: Assignment
    held: Held | None


class Caches:
    """All caches of one loader; every method is for the student's thread.

    Args:
        path: a folder at any fsspec path; None keeps nothing.
        limit: bytes that everything in it may take; None for no bound.

    Raises:
        StoreError: no file system reads the path.
    """

    def __init__(self, path: str | os.PathLike[str] | None, limit: int | None) -> None:
        if path is not None:
            # Raises at once where no file system reads such a path.
            Folder(path)
        self._path, self._limit = path, limit
        self._writers: dict[str, CacheWriter] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._read: queue.SimpleQueue[Read] = queue.SimpleQueue()
        self._wake: Wake | None = None
        self.taker: Taker | None = None

    def open(
        self,
        teachers: Mapping[str, KnownTeacher],
        fleet: Fleet,
        dataset: str | None,
        size: int | None,
        view: int,
    ) -> None:
        """Begin with the teachers' caches, once they are known.

        Args:
            teachers: those to keep.
            dataset, size: the student's own dataset's, None where it has none.
            view: the one that its first epoch shows.
        """
        if self._path is None or not teachers:
            return
        for name, teacher in teachers.items():
            info = _info(teacher, fleet.agreements[name].stated, dataset, size)
            if info is None:
                continue
            try:
                inputs = _inputs(teacher, size, view)
            except DatasetError as error:
                logger.warning("teacher %r is not cached: %s", name, error)
                continue
            cache = KnowledgeCache(self._path, name, info, self._limit, inputs)
            teacher.cache = self._writers[name] = CacheWriter(cache, self._limit)
        self._pool = ThreadPoolExecutor(READERS, "pantheon-cache-read")
        self._wake = Wake()
        fleet.watch(self._wake.fd, self._deliver)

    def settle(self) -> None:
        """Wait until what was kept before is there to be read.

        Raises:
            StoreError: the path cannot be used at all.
        """
        self.flush()
        until = time.monotonic() + SETTLE_S
        for name, writer in self._writers.items():
            if not writer.wait(until):
                logger.warning(
                    "the cache of teacher %r is not ready after %g s; what is not there is asked "
                    "again",
                    name,
                    SETTLE_S,
                )

    def flush(self) -> None:
        """Have all that was kept written soon."""
        for writer in self._writers.values():
            writer.flush()

    def find(self, teacher: KnownTeacher, request: Request) -> Some | None:
        """Which of the ids wanted are there, and where; None where the teacher is to be asked."""
        if teacher.cache is None or teacher.name in request.held:
            return None
        ids, views = _pairs(request, teacher.name)
        some = teacher.cache.cache.find_some(ids, views)
        if some is None or len(some[0]) < len(ids):
            teacher.cache.miss()
        return some if some is not None and len(some[0]) >= LEAST * len(ids) else None

    def fetch(self, teacher: KnownTeacher, assignment: Assignment, some: Some) -> None:
        """Have an answer read; the taker gets it while the fleet is pumped."""
        if self._pool is not None and self.taker is not None and teacher.cache is not None:
            self._pool.submit(self._fetch, teacher.cache.cache, self.taker, assignment, some)

    def stuck(self, teacher: KnownTeacher, seconds: float) -> None:
        """A cache has not answered for so long that the teacher is asked from now on."""
        if teacher.cache is not None:
            teacher.cache.cache.give_up(f"nothing came from the disk for {seconds:g} s")

    def keep(self, teacher: KnownTeacher, request: Request, parts: Parts) -> None:
        """Have an answer written, as it came."""
        if teacher.cache is not None and teacher.cache.state == "on":
            # Copied: the student may change its batch in place before it is on disk.
            copied = [from_raw(p).clone() for p in parts]
            teacher.cache.put(Answer(*_pairs(request, teacher.name), copied))

    def close(self) -> None:
        """Write what is left, within `CLOSE_S`, and let the threads end. Safe to call twice."""
        until = time.monotonic() + CLOSE_S
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
        for writer in self._writers.values():
            writer.close(until)
        if self._wake is not None:
            self._wake.close()

    def _fetch(
        self, cache: KnowledgeCache, taker: Taker, assignment: Assignment, some: Some
    ) -> None:
        # Nobody waits any more once the taker has changed.
        parts = cache.read(some[1]) if taker == self.taker else None
        held = None if parts is None else Held(some[0], parts)
        self._read.put(Read(taker, assignment, held))
        if self._wake is not None:
            self._wake.set()

    def _deliver(self) -> None:
        if self._wake is not None:
            self._wake.clear()
        while not self._read.empty():
            read = self._read.get()
            if read.taker == self.taker:
                read.taker(read.assignment, read.held)


def _pairs(request: Request, teacher: str) -> tuple[Ids, Ids]:
    ids = request.ids_for(teacher)
    views = request.views
    return ids, np.zeros_like(ids) if views is None else views[: len(ids)]


def _inputs(teacher: KnownTeacher, size: int | None, view: int) -> str | None:
    """What tells the inputs sent to a teacher from others; None where it reads its own."""
    if teacher.reader is None or size is None:
        return None
    return inputs_digest(teacher.reader, size, view)


def _info(
    teacher: KnownTeacher, stated: str | None, dataset: str | None, size: int | None
) -> DumpInfo | None:
    """What a teacher's knowledge is kept as; None where nobody could tell it from other."""
    welcome = teacher.welcome
    revision = welcome.revision or stated
    named = welcome.dataset if welcome.dataset is not None else dataset
    samples = welcome.size if welcome.size is not None else size
    if revision and named is not None and samples is not None:
        return DumpInfo(welcome.schema, revision, named, samples)
    lacking = (
        "its revision; state it with revision="
        if not revision
        else ("which dataset its ids are of; state it with dataset_fingerprint=")
    )
    logger.warning("teacher %r is not cached: nobody tells %s", teacher.name, lacking)
    return None
