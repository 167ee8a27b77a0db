"""A worker process per device: requests go there and replies come back as frames, undecoded."""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import zmq

from pantheon.errors import RevisionMismatch
from pantheon.logs import current
from pantheon.transport.wake import Wake
from pantheon.wire.messages import Limits, Welcome
from teacher_server.child import Work
from teacher_server.host import Host
from teacher_server.process import ProcessWorker
from teacher_server.server import Interrupted

if TYPE_CHECKING:
    from teacher_server.teacher import Teacher

logger = logging.getLogger(__name__)

INSIDE = 1 << 20
"""Requests a worker process may have; the parent gives it two batches."""


class ProcessHost(Host):
    """A host whose workers are processes, with the folder of their sockets."""

    def __init__(
        self, own: Welcome, workers: Sequence[ProcessWorker], batch_rows: int, folder: str
    ) -> None:
        super().__init__(own, workers, batch_rows)
        self._folder = folder

    def stop(self) -> None:
        """End all processes, together, and remove their sockets."""
        stop_all([w for w in self.workers if isinstance(w, ProcessWorker)], self._folder)


def stop_all(workers: Sequence[ProcessWorker], folder: str) -> None:
    """End processes, all at once, and remove the folder of their sockets."""
    for worker in workers:
        worker.terminate()
    for worker in workers:
        worker.stop()
    shutil.rmtree(folder, ignore_errors=True)


def start_processes(
    teacher: Teacher, name: str, wake: Wake, limits: Limits, stopping: Callable[[], bool]
) -> Host:
    """Start a process per device and wait until each can answer.

    Raises:
        ConfigError: model or dataset cannot be sent to a process.
        PantheonError: what the first process that failed said.
        Interrupted: ``stopping`` became true meanwhile.
    """
    folder = tempfile.mkdtemp(prefix="pantheon-")
    workers = [
        ProcessWorker(_work(teacher, device, limits), number, folder, wake)
        for number, device in enumerate(teacher.devices)
    ]
    try:
        own = _first_welcome(workers, wake, stopping)
    except BaseException:
        stop_all(workers, folder)
        raise
    rows = teacher.options.get("fixed_rows") or teacher.options.get("batch_rows") or 256
    return ProcessHost(replace(own, model=name, limits=limits), workers, int(rows), folder)


def _work(teacher: Teacher, device: str, limits: Limits) -> Work:
    threads = torch.get_num_threads()
    # In deterministic mode the threads are part of the revision: the same as for one device.
    if device == "cpu" and not teacher.options.get("fixed_rows"):
        threads = max(1, threads // len(teacher.devices))
    inside = replace(limits, max_in_flight=INSIDE)
    return Work(
        teacher.model,
        teacher.dataset,
        teacher.schema,
        teacher.options,
        device,
        threads,
        inside,
        logs=current(),
    )


def _first_welcome(
    workers: Sequence[ProcessWorker], wake: Wake, stopping: Callable[[], bool]
) -> Welcome:
    """Wait for all workers; their schema and revision, which must be the same."""
    for worker in workers:
        worker.launch()
    while not all(worker.welcome for worker in workers):
        if stopping():
            raise Interrupted("the server was told to stop while its workers started")
        poller = zmq.Poller()
        poller.register(wake.fd, zmq.POLLIN)
        for pollable in (p for worker in workers for p in worker.pollables):
            poller.register(pollable, zmq.POLLIN)
        poller.poll(100)
        wake.clear()
        for worker in workers:
            worker.collect(time.monotonic())
            if worker.failure is not None and not stopping():
                raise worker.failure
    first = workers[0].welcome
    assert first is not None
    for worker in workers:
        if worker.welcome and worker.welcome.revision != first.revision:
            raise RevisionMismatch(
                f"the worker of {worker.name} has revision {worker.welcome.revision!r}, that of "
                f"{workers[0].name} {first.revision!r}; the model must be the same in every process"
            )
        worker.expect(first)
    return first
