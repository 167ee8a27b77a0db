"""A teacher that was dumped: shards read by a few threads while the student trains."""

from __future__ import annotations

import queue
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pantheon.errors import PantheonError, RefusedError
from pantheon.store import KnowledgeReader
from pantheon.wire.messages import Score, Welcome
from student_client.answering import Answering

READERS = 2
"""Threads that read one dump."""


class OfflineConnection(Answering):
    """A folder of shards (any fsspec path) as a connection.

    Raises:
        StoreError: there is no dump, or it contradicts itself; a damaged shard raises when it is
            touched.
    """

    def __init__(self, teacher: str, path: str) -> None:
        self._reader = KnowledgeReader(path)
        super().__init__(teacher, path)
        self._pool = ThreadPoolExecutor(READERS, f"pantheon-read-{teacher}")
        self._read: queue.SimpleQueue[tuple[Score, list[Tensor] | Exception]] = queue.SimpleQueue()
        self._cancelled: set[int] = set()

    def welcome(self, fields: tuple[str, ...] | None) -> Welcome:
        """What the manifest says, its schema narrowed to `fields`."""
        reader = self._reader
        return Welcome(
            model="",
            revision=reader.revision,
            schema=reader.schema if fields is None else reader.schema.select(fields),
            dataset=reader.dataset,
            size=reader.size,
            views=reader.views,
            accepts_inputs=False,
        )

    def ask(self, score: Score) -> None:
        """Have a thread read a request's rows."""
        if score.ids is None:
            raise RefusedError(
                f"teacher {self.teacher!r} ({self.address}) is a dump: it answers ids, not inputs"
            )
        self._pool.submit(self._fetch, score, score.ids)

    def _fetch(self, score: Score, ids: NDArray[np.int64]) -> None:
        if score.request in self._cancelled:
            self._cancelled.discard(score.request)
            return
        answer: Any
        try:
            answer = self._reader.read(ids, score.views, self._fields)
        except Exception as error:  # noqa: BLE001  # raised in the caller's thread instead
            answer = error
        self._read.put((score, answer))
        self._wake.set()

    def cancel(self, requests: frozenset[int]) -> None:
        """Forget requests no thread has begun with; what is read all the same is dropped later."""
        self._cancelled |= requests

    def work(self) -> None:
        """Take over what the threads have read."""
        while not self._read.empty():
            score, answer = self._read.get()
            if isinstance(answer, PantheonError):
                raise self._named(answer, score) from answer
            if isinstance(answer, Exception):
                raise answer
            self._events.append(self._scored(score, answer))

    def _busy(self) -> bool:
        return bool(self._events)

    def close(self) -> None:
        """Let the threads end and close the shards. Safe to call twice."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        super().close()
        self._reader.close()
