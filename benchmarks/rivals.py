"""What our way is timed against: a bare pyzmq loop with eight credits, and a pickling queue."""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Iterator
from multiprocessing.managers import BaseManager
from typing import Any

import msgpack
import torch
import zmq
from torch import Tensor

from benchmarks.workloads import TOKENS, Workload
from pantheon.schema import DTYPES
from pantheon.wire.buffers import to_raw

CREDITS = 8
QUEUE = 100


def batches(workload: Workload, tables: list[Tensor]) -> Iterator[list[Tensor]]:
    """The arrays of each batch of a block, as views of the tables."""
    rows = workload.batch * (TOKENS if workload.name == "W3" else 1)
    for i in range(workload.batches):
        at = i % workload.distinct * rows
        yield [t[at : at + rows] for t in tables]


class BareTeacher(threading.Thread):
    """A ROUTER that sends the next batch for every credit it is given."""

    def __init__(self, workload: Workload, tables: list[Tensor]) -> None:
        super().__init__(daemon=True)
        self.workload, self.tables = workload, tables
        self.socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.SNDHWM, 0)
        self.port: int = self.socket.bind_to_random_port("tcp://127.0.0.1")

    def run(self) -> None:
        """Serve one block after another, for ever."""
        while True:
            for arrays in batches(self.workload, self.tables):
                peer, _ = self.socket.recv_multipart()
                raws = [to_raw(a) for a in arrays]
                header = msgpack.packb([(r.dtype, r.shape) for r in raws])
                self.socket.send_multipart([peer, header, *(r.data for r in raws)], copy=False)


class BareStudent:
    """A DEALER that keeps eight credits out and turns frames into tensors."""

    def __init__(self, port: int, batches: int) -> None:
        self.batches = batches
        self.socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        self.socket.setsockopt(zmq.RCVHWM, 0)
        self.socket.connect(f"tcp://127.0.0.1:{port}")

    def block(self) -> int:
        """Receive one block; answers its bytes."""
        received = 0
        for _ in range(min(CREDITS, self.batches)):
            self.socket.send(b"")
        for i in range(self.batches):
            header, *frames = self.socket.recv_multipart(copy=False)
            for (dtype, shape), frame in zip(msgpack.unpackb(header.bytes), frames, strict=True):
                tensor = torch.frombuffer(frame.buffer, dtype=getattr(torch, dtype)).view(shape)
                received += math.prod(tensor.shape) * DTYPES[dtype]
            if i + CREDITS < self.batches:
                self.socket.send(b"")
        return received


class _Manager(BaseManager):
    """The predecessor's way: queues behind a manager process, everything pickled."""


_KEY = b"benchmark"


class QueueTeacher(threading.Thread):
    """Puts one block of pickled batches into the manager's queue for every go."""

    def __init__(self, port: int, workload: Workload, tables: list[Tensor]) -> None:
        super().__init__(daemon=True)
        self.workload, self.tables, self.port = workload, tables, port
        self.goes: queue.SimpleQueue[None] = queue.SimpleQueue()

    def run(self) -> None:
        """Serve blocks, for ever."""
        q = connect_queue(self.port)
        arrays = [{"logits": a[0].numpy()} for a in batches(self.workload, self.tables)]
        while True:
            self.goes.get()
            for knowledge in arrays:
                q.put(knowledge)


def start_manager() -> tuple[_Manager, int]:
    """A manager process that holds the queue; answers it and its port."""
    _Manager.register("get_queue", callable=_the_queue)
    manager = _Manager(("127.0.0.1", 0), _KEY)
    manager.start()
    assert isinstance(manager.address, tuple)
    return manager, int(manager.address[1])


_QUEUE: queue.Queue[Any] = queue.Queue(QUEUE)


def _the_queue() -> queue.Queue[Any]:
    return _QUEUE


def connect_queue(port: int) -> Any:
    """The proxy of the manager's queue."""
    _Manager.register("get_queue")
    manager = _Manager(("127.0.0.1", port), _KEY)
    manager.connect()
    return manager.get_queue()  # type: ignore[attr-defined]
