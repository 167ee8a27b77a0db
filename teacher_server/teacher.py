"""A teacher: a model that is served to students, or whose knowledge is dumped to disk."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from numpy.typing import NDArray

from pantheon.dataset import check_map_style
from pantheon.errors import ConfigError
from pantheon.scoring.fields import Schema
from pantheon.scoring.scorer import Scorer
from pantheon.transport import Security
from pantheon.transport.wake import Wake
from pantheon.wire.messages import Limits
from teacher_server.devices import Devices, device_names
from teacher_server.host import Host, describe
from teacher_server.server import DRAIN_S, Ready, Server, serve, start
from teacher_server.workers import ThreadWorker

FIXED_ROWS = 32
"""Rows of a forward in deterministic mode, where they are not stated."""


class Teacher:
    """A model, and the dataset it is asked about.

    Args:
        model: an ``nn.Module``, or a callable whose ``revision`` is stated. It is put into
            evaluation mode and called in inference mode; put back into training mode while it
            serves, it refuses.
        dataset: map-style; None to answer inputs only. `pantheon.dataset.Ids` makes a model that is
            called with ids.
        schema: codec or its name by field, such as ``{"logits": TopK(64)}``.
        revision: states the revision instead of computing it from the weights.
        name: what students call it where a server has several.
        devices: 1 for the device the model is on; a number or a list of devices for a process
            each; ``"auto"`` for every GPU.
        deterministic: every forward has one shape, so that how requests are cut cannot change a
            bit; shape and threads become part of the revision.
        fixed_rows: rows of that shape; implies ``deterministic``.
        options: see `pantheon.scoring.scorer.Scorer`.

    Raises:
        ConfigError: arguments that contradict each other.
        DatasetError: a dataset without ids.

    Example:
        >>> import torch
        >>> teacher = Teacher(torch.nn.Linear(2, 3), [[0.0, 1.0]] * 8, {"logits": "float32"})
        >>> with teacher.start("tcp://127.0.0.1:0") as server:
        ...     server.addresses[0].rpartition(":")[0]
        'tcp://127.0.0.1'
    """

    def __init__(
        self,
        model: Any,
        dataset: Any = None,
        schema: Schema | None = None,
        revision: str | None = None,
        *,
        name: str = "",
        devices: Devices = 1,
        deterministic: bool = False,
        fixed_rows: int | None = None,
        **options: Any,
    ) -> None:
        if dataset is not None:
            check_map_style(dataset)
        known = set(Scorer.__init__.__kwdefaults__ or ())
        unknown = sorted(set(options) - known)
        if unknown:
            raise ConfigError(
                f"Teacher has no argument {unknown[0]!r}; it takes {', '.join(sorted(known))}"
            )
        self.model, self.dataset, self.schema = model, dataset, schema
        self.name = name
        self.devices = device_names(devices, model, options.pop("device", None))
        fixed = fixed_rows if fixed_rows is not None or not deterministic else FIXED_ROWS
        self.options = {"revision": revision, "fixed_rows": fixed, **options}
        self._scorer: Scorer | None = None
        self._lock = threading.Lock()

    @property
    def scorer(self) -> Scorer:
        """The model as a function of ids, in this process; made when it is first asked for."""
        with self._lock:
            if self._scorer is None:
                self._scorer = Scorer(
                    self.model, self.dataset, self.schema, device=self.devices[0], **self.options
                )
            return self._scorer

    def serve(
        self,
        *addresses: str,
        security: Security = None,
        insecure: bool = False,
        limits: Limits | None = None,
        http: str | None = None,
        drain: float = DRAIN_S,
        ready: Ready | None = None,
    ) -> None:
        """Answer students at the addresses until told to stop; see `teacher_server.serve`."""
        serve(
            {self.name: self},
            *addresses,
            security=security,
            insecure=insecure,
            limits=limits,
            http=http,
            drain=drain,
            ready=ready,
        )

    def start(
        self,
        *addresses: str,
        security: Security = None,
        insecure: bool = False,
        limits: Limits | None = None,
        http: str | None = None,
    ) -> Server:
        """Answer students in the background; see `teacher_server.start`."""
        return start(
            {self.name: self},
            *addresses,
            security=security,
            insecure=insecure,
            limits=limits,
            http=http,
        )

    def dump(
        self,
        path: str,
        *,
        ids: Sequence[int] | NDArray[Any] | None = None,
        views: int | None = None,
        **options: Any,
    ) -> Any:
        """Write the knowledge of all samples, or of some ids, to a folder or any fsspec path.

        See `teacher_server.dump.dump` for the options and the report.
        """
        from teacher_server.dump import dump

        return dump(self.scorer, path, ids=ids, views=views, **options)

    def prepare(self) -> None:
        """Find out early what is wrong with the model; with several devices, they find out."""
        if len(self.devices) == 1:
            _ = self.scorer

    def host(self, name: str, wake: Wake, limits: Limits, stopping: Callable[[], bool]) -> Host:
        """What a server needs to answer for this model.

        Args:
            wake: of the server's loop.
            stopping: whether the server was told to stop while it starts.
        """
        rows = self.options.get("fixed_rows") or self.options.get("batch_rows") or 256
        if len(self.devices) == 1:
            worker = ThreadWorker(self.scorer, wake, limits.max_reply_bytes, name or "scorer")
            return Host(describe(name, self.scorer, limits), [worker], rows)
        from teacher_server.processes import start_processes

        return start_processes(self, name, wake, limits, stopping)
