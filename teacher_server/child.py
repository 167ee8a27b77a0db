"""What runs in the process of one device: a server of its own, for its parent alone."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from pantheon.errors import PantheonError
from pantheon.logs import Logs
from pantheon.scoring.fields import Schema
from pantheon.wire.messages import Limits
from teacher_server.server import start
from teacher_server.teacher import Teacher


@dataclass(frozen=True)
class Work:
    """What a device's process is for; the user's objects go by multiprocessing's own way.

    Args:
        model, dataset, schema, options: as for `Teacher`.
        device: where forwards run.
        threads: of torch.
        limits: of requests and replies.
        logs: how the parent logs; None leaves it to the user's program.
    """

    model: Any
    dataset: Any
    schema: Schema | None
    options: Mapping[str, Any]
    device: str
    threads: int
    limits: Limits
    logs: Logs | None = None


def run(work: Work, address: str, errors: Connection) -> None:
    """Serve the parent until it ends this process, or ends itself.

    Args:
        address: an ``ipc://`` socket in a folder of the parent's.
        errors: told what prevented the start, as ``NameOfError: message`` in UTF-8.
    """
    # Ctrl-C in a terminal reaches the whole group; the parent decides when its workers end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    if work.logs is not None:
        work.logs.saying(worker=multiprocessing.current_process().name).set_up()
    _end_with_parent(address.removeprefix("ipc://"))
    torch.set_num_threads(work.threads)
    try:
        teacher = Teacher(
            work.model, work.dataset, work.schema, devices=[work.device], **work.options
        )
        server = start({"": teacher}, address, limits=work.limits)
    except PantheonError as error:
        errors.send_bytes(f"{type(error).__name__}: {error}".encode())
        sys.exit(1)
    server.wait()


def _end_with_parent(path: str) -> None:
    """Leave at once when the parent is gone, however it went, and leave nothing behind."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        with contextlib.suppress(OSError):
            os.unlink(path)
            os.rmdir(os.path.dirname(path))
        os._exit(1)

    threading.Thread(target=watch, name="pantheon-parent", daemon=True).start()
