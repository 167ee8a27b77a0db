"""Replicas in processes of their own whose model does nothing but take a fixed time."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import torch
from torch import Tensor

from pantheon.dataset import Ids
from teacher_server import Teacher, serve

ROWS, CLASSES = 32, 10
"""Of a request, which is a batch, and of its answer."""

SAMPLES = ROWS * 1_000_000
"""An epoch outlasts every measurement."""


class Delay:
    """Answers ids (int64 ``[n]``) with zeros (float32 ``[n, classes]``) after some seconds."""

    def __init__(self, seconds: float, classes: int) -> None:
        self.seconds, self.classes = seconds, classes

    def __call__(self, ids: Tensor) -> Tensor:
        time.sleep(self.seconds)
        return torch.zeros(len(ids), self.classes)


def teach(address: str, seconds: float, classes: int, pipe: Connection) -> None:
    """Serve until a signal comes; one forward is one request."""
    torch.set_num_threads(1)
    model = Delay(seconds, classes)
    schema = {"logits": "float32"}
    teacher = Teacher(model, Ids(SAMPLES), schema, revision="delay", batch_rows=ROWS)
    serve({"": teacher}, address, ready=lambda addresses: pipe.send(addresses[0]))


class Replica:
    """One replica; started again it has its old address.

    Args:
        seconds: that each of its requests takes.
    """

    def __init__(self, seconds: float, classes: int = CLASSES) -> None:
        self.seconds, self.classes = seconds, classes
        self.address = "tcp://127.0.0.1:0"
        self._process: BaseProcess | None = None
        self.start()

    def start(self) -> None:
        """Start it; answers when it listens."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["benchmarks.replicas"])
        ours, theirs = context.Pipe()
        arguments = (self.address, self.seconds, self.classes, theirs)
        self._process = context.Process(target=teach, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        self.address = ours.recv()
        ours.close()

    @property
    def pid(self) -> int:
        """Of the process that runs now."""
        assert self._process is not None
        assert self._process.pid is not None
        return self._process.pid

    def kill(self) -> None:
        """SIGKILL; does not wait."""
        os.kill(self.pid, signal.SIGKILL)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """SIGSTOP while the block lasts."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """End it."""
        assert self._process is not None
        self._process.kill()
        self._process.join()


@contextmanager
def replicas(*seconds: float, classes: int = CLASSES) -> Iterator[list[Replica]]:
    """Some replicas, each with the seconds its requests take, while the block lasts."""
    made = [Replica(s, classes) for s in seconds]
    try:
        yield made
    finally:
        for replica in made:
            replica.close()
