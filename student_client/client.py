"""TeacherClient: any inputs, at once, as a future of Knowledge."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from pantheon.dataset import as_tensors
from pantheon.errors import ConfigError, DatasetError, TransportError
from pantheon.knowledge import Knowledge
from pantheon.schema import KnowledgeSchema
from pantheon.transport import Security
from pantheon.wire.messages import Score
from student_client.desk import Desk, Query
from student_client.reach import Own, reach
from student_client.requests import raw_inputs
from student_client.sources import kind_of


class TeacherClient:
    """Asks one online teacher about inputs that no dataset holds, such as a student's own samples.

    A thread of its own talks to the teacher, connects again after a loss and asks again what was
    lost. Safe to use from several threads.

    Args:
        address: an online teacher's, or those of identical replicas.
        fields: the fields wanted; all by default.
        revision: the revision the teacher has to have.
        dataset_fingerprint: of the dataset that `query_ids` means.
        patience: seconds to wait for a replica before the queries at hand fail; so does one that
            every replica was asked, and was too busy or silent to begin with, for so long.
        lease: seconds a replica may be silent about a query before another is asked.
        attempts: refusals after which a query is given up, by two replicas where there are two; a
            crash counts half.
        integrity: checksum payloads; None over plain connections between hosts only.
        security: our keys, `Curve` or `Tls`.

    Raises:
        ConfigError: an address that cannot be, or that is no online teacher's.

    Example:
        ::

            with TeacherClient("tcp://teacher:5557") as teacher:
                answer = teacher.query(torch.randn(4, 3, 224, 224))
                logits = answer.result()["logits"]
    """

    def __init__(
        self,
        address: str | Sequence[str],
        *,
        fields: Sequence[str] | None = None,
        revision: str | None = None,
        dataset_fingerprint: str | None = None,
        patience: float = 60.0,
        lease: float = 30.0,
        attempts: int = 3,
        integrity: bool | None = None,
        security: Security = None,
    ) -> None:
        if kind_of(address) != "online":
            raise ConfigError(
                f"a TeacherClient asks a server, found {address!r}; read a dump with "
                "pantheon.store.KnowledgeReader, score in this process with "
                "pantheon.scoring.scorer.Scorer"
            )
        fleet = reach(
            {NAME: address},
            Own(dataset_fingerprint, None),
            patience=patience,
            fields=None if fields is None else {NAME: fields},
            revision=None if revision is None else {NAME: revision},
            integrity=integrity,
            security=security,
            queries=True,
        )
        self._desk = Desk(fleet, lease, attempts)
        # The thread must not keep the client alive, or it would never be collected and closed.
        self._thread = threading.Thread(target=self._desk.run, name="pantheon-client", daemon=True)
        self._thread.start()
        self._shut = weakref.finalize(self, _shut, self._desk, self._thread)

    def query(self, inputs: Any) -> Future[Knowledge]:
        """What the teacher makes of some inputs.

        Args:
            inputs: a tensor ``[n, ...]``, or a dict of them; arrays and lists of numbers are taken
                as tensors. They are copied: change them as soon as this returns.

        Returns:
            A future of Knowledge whose ids count the rows from 0. It raises what went wrong: a
            `TeacherError` (the model raised, refused or returned NaN), `TeacherUnavailable`,
            a `MismatchError`.

        Raises:
            DatasetError: inputs without rows, or with different numbers of them.
        """
        named = raw_inputs(_copied(as_tensors(inputs)))
        rows = {name or "the input": raw.shape[:1] for name, raw in named.items()}
        if len(set(rows.values())) != 1 or () in rows.values() or (0,) in rows.values():
            raise DatasetError(
                "inputs must have the same number of rows, at least one, in their first dimension; "
                f"found {rows}"
            )
        n = next(iter(named.values())).shape[0]
        return self._ask(Score(0, inputs=named), torch.arange(n), None)

    def query_ids(self, ids: ArrayLike, views: ArrayLike | None = None) -> Future[Knowledge]:
        """What the teacher knows of samples of its own dataset; see `query`.

        Args:
            ids: int64 ``[n]``.
            views: int64 ``[n]``, or None for view 0.
        """
        wanted = np.array(ids, np.int64)
        if wanted.ndim != 1 or not len(wanted):
            raise DatasetError(f"ids must be a list of at least one, found shape {wanted.shape}")
        seen = None if views is None else np.broadcast_to(np.array(views, np.int64), wanted.shape)
        seen = None if seen is None else np.ascontiguousarray(seen)
        shown = None if seen is None else torch.from_numpy(seen.copy())
        return self._ask(Score(0, wanted, seen), torch.from_numpy(wanted.copy()), shown)

    def _ask(self, score: Score, ids: Tensor, views: Tensor | None) -> Future[Knowledge]:
        if not self._shut.alive:
            raise TransportError("this TeacherClient was closed; construct another one")
        query = Query(score, ids, views)
        self._desk.put(query)
        return query.future

    def describe(self, timeout: float | None = None) -> KnowledgeSchema:
        """The fields of an answer, once the teacher has been reached.

        Raises:
            TimeoutError: it was not within `timeout` seconds.
        """
        return self._desk.described().result(timeout)

    def close(self) -> None:
        """Leave the teacher; queries not answered raise `TransportError`. Safe to call twice."""
        self._shut()

    def __enter__(self) -> TeacherClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


NAME = "teacher"
"""What the one teacher is called in messages."""


def _copied(inputs: Any) -> Any:
    if isinstance(inputs, Mapping):
        return {k: _copied(v) for k, v in inputs.items()}
    return inputs.detach().clone() if isinstance(inputs, Tensor) else inputs


def _shut(desk: Desk, thread: threading.Thread) -> None:
    desk.stop()
    if thread is not threading.current_thread():
        thread.join()
