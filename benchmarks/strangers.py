"""What strangers at a teacher's port cost its students.

Run ``python -m benchmarks.strangers [--rounds 5]``. A student reads 40 epochs from a teacher with
keys, in a process of its own, alone and while strangers are at the same port:

- *no key*: 8 students without keys that try again and again.
- *wrong key*: 8 students whose keys are not on the allow-list.
- *garbage*: 8 connections that send random bytes and connect again when they are dropped.
- *slow*: 200 connections that send one byte a second.
- *many*: 1,000 connections that say nothing, opened anew every 3 seconds, when the teacher has
  dropped them.

Rounds are interleaved; each ratio is a rate beside strangers over the rate alone in the same round.
The strangers share the machine with teacher and student, so what they cost as processes of their
own counts too. Goal: at least 0.9.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import shutil
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from pantheon.dataset import Ids
from pantheon.transport import Connected, Curve, connect
from pantheon.transport.keys import generate
from student_client import KnowledgeLoader
from teacher_server import Teacher

SIZE, CLASSES, BATCH, EPOCHS = 1 << 17, 256, 256, 40
STRANGERS = 8


def serve(folder: str, pipe: Any) -> None:
    """The teacher, until the pipe closes."""
    torch.set_num_threads(1)
    table = torch.nn.Embedding(SIZE, CLASSES)
    teacher = Teacher(table, Ids(SIZE), {"y": "float32"}, revision="1")
    with teacher.start("tcp://127.0.0.1:0", security=Curve(folder)) as server:
        pipe.send(server.addresses[0])
        with contextlib.suppress(EOFError):
            pipe.recv()


def knock(address: str, curve: Curve | None, ready: Any) -> None:
    """Students that are not let in."""
    ready.set()
    while True:
        connections = [connect(address, security=curve) for _ in range(STRANGERS)]
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            assert not any(isinstance(c.receive(), Connected) for c in connections)
            time.sleep(0.05)
        for connection in connections:
            connection.close()


def shout(address: str, ready: Any) -> None:
    """Random bytes, again and again."""
    ready.set()
    while True:
        for sock in opened(address, STRANGERS):
            with contextlib.suppress(OSError), sock:
                sock.sendall(os.urandom(4096))
        time.sleep(0.05)


def drip(address: str, ready: Any) -> None:
    """One byte a second on many connections."""
    socks = opened(address, 200)
    ready.set()
    while True:
        for i, sock in enumerate(socks):
            try:
                sock.sendall(b"\xff")
            except OSError:
                sock.close()
                socks[i] = opened(address, 1)[0]
        time.sleep(1.0)


def crowd(address: str, ready: Any) -> None:
    """Connections that say nothing."""
    while True:
        socks = opened(address, 1000)
        ready.set()
        time.sleep(3.0)
        for sock in socks:
            sock.close()


def opened(address: str, count: int) -> list[socket.socket]:
    """Connections to the teacher's port."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    return [socket.create_connection((host, int(port))) for _ in range(count)]


def rate(address: str, folder: str) -> float:
    """Samples a second of some epochs."""
    with KnowledgeLoader(
        batch_size=BATCH, teachers={"t": address}, security=Curve(folder)
    ) as loader:
        loader.describe()
        begin = time.perf_counter()
        seen = sum(len(batch) for _ in range(EPOCHS) for batch in loader)
        assert seen == EPOCHS * SIZE
        return seen / (time.perf_counter() - begin)


@contextlib.contextmanager
def beside(run: Callable[..., None], *arguments: Any) -> Iterator[None]:
    """Strangers in a process of their own."""
    ready = multiprocessing.Event()
    process = multiprocessing.Process(target=run, args=(*arguments, ready), daemon=True)
    process.start()
    ready.wait(30)
    try:
        yield
    finally:
        process.kill()
        process.join()


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        home, other = str(Path(folder, "keys")), str(Path(folder, "other"))
        generate(home), generate(other)
        shutil.copy(Path(home, "server.key"), Path(other, "server.key"))
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.Process(target=serve, args=(home, theirs), daemon=True)
        process.start()
        address = ours.recv()
        measure(address, home, other, rounds)
        ours.close()
        theirs.close()
        process.kill()


def measure(address: str, home: str, other: str, rounds: int) -> None:
    """Interleaved rounds, and a line for each kind of stranger."""
    kinds: dict[str, tuple[Any, ...]] = {
        "no key": (knock, address, None),
        "wrong key": (knock, address, Curve(other)),
        "garbage": (shout, address),
        "slow": (drip, address),
        "many": (crowd, address),
    }
    rate(address, home)
    ratios: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(rounds):
        for kind, (run, *arguments) in kinds.items():
            alone = rate(address, home)
            with beside(run, *arguments):
                ratios[kind].append(rate(address, home) / alone)
    for kind, found in ratios.items():
        low, middle, high = statistics.quantiles(found, n=4)
        print(f"{kind:10} {middle:.2f} of the rate alone ({low:.2f} to {high:.2f})", flush=True)


if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    main()
