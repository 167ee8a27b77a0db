"""What strangers at a teacher's port cost its students.

Run ``python -m benchmarks.strangers [--rounds 5] [--scheme grpc]``. A student reads for
8 seconds from a teacher with keys (CURVE, or mutual TLS), in a process of its own, alone and while
strangers are at the same port:

- *no key*: 8 students without keys, or certificates, that try again and again.
- *wrong key*: 8 students whose keys are not on the allow-list, or whose certificates another
  authority signed.
- *garbage*: 8 connections that send random bytes and connect again when they are dropped.
- *slow*: 200 connections that send one byte a second.
- *many*: 1,000 connections that say nothing, opened anew every 3 seconds, when the teacher has
  dropped them.

Rounds are interleaved; each ratio is a rate beside strangers over the rate alone in the same round.
The strangers share the machine with teacher and student, so what they cost as processes of their
own counts too. The control is the rate beside a process that takes as much processor time as the
strangers' own (at most one core) and connects to nobody. Goal: at least 0.9.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import multiprocessing
import os
import shutil
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import trustme

from pantheon.dataset import Ids
from pantheon.transport import Connected, Curve, Security, Tls, connect
from pantheon.transport.keys import generate
from student_client import KnowledgeLoader
from teacher_server import Teacher

SIZE, CLASSES, BATCH, SECONDS = 1 << 17, 256, 256, 8.0
STRANGERS = 8


def serve(scheme: str, security: Security, pipe: Any) -> None:
    """The teacher, until the pipe closes."""
    torch.set_num_threads(1)
    table = torch.nn.Embedding(SIZE, CLASSES)
    teacher = Teacher(table, Ids(SIZE), {"y": "float32"}, revision="1")
    with teacher.start(f"{scheme}://127.0.0.1:0", security=security) as server:
        pipe.send(server.addresses[0])
        with contextlib.suppress(EOFError):
            pipe.recv()


def knock(address: str, security: Security, ready: Any) -> None:
    """Students that are not let in."""
    ready.set()
    while True:
        connections = [connect(address, security=security) for _ in range(STRANGERS)]
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


def burn(share: float, ready: Any) -> None:
    """A share of a core, and no connection."""
    ready.set()
    while True:
        end = time.thread_time() + share * 0.02
        begin = time.monotonic()
        while time.thread_time() < end:
            pass
        time.sleep(max(0.0, begin + 0.02 - time.monotonic()))


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
    host, _, port = address.partition("://")[2].rpartition(":")
    return [socket.create_connection((host, int(port))) for _ in range(count)]


def rate(address: str, security: Security) -> float:
    """Samples a second, epoch after epoch."""
    with KnowledgeLoader(batch_size=BATCH, teachers={"t": address}, security=security) as loader:
        loader.describe()
        begin, seen = time.perf_counter(), 0
        for batch in itertools.chain.from_iterable(itertools.repeat(loader)):
            seen += len(batch)
            if (spent := time.perf_counter() - begin) > SECONDS:
                break
        return seen / spent


@contextlib.contextmanager
def beside(run: Callable[..., None], *arguments: Any) -> Iterator[Callable[[], float]]:
    """Strangers in a process of their own; yields what tells its seconds of processor time."""
    ready = multiprocessing.Event()
    process = multiprocessing.Process(target=run, args=(*arguments, ready), daemon=True)
    process.start()
    ready.wait(30)
    try:
        yield lambda: busy(process.pid)
    finally:
        process.kill()
        process.join()


def busy(pid: int | None) -> float:
    """Seconds of processor time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def curves(folder: Path) -> tuple[Security, Security, Security]:
    """Our keys, none, and keys on no allow-list."""
    home, other = folder / "keys", folder / "other"
    generate(home), generate(other)
    shutil.copy(home / "server.key", other / "server.key")
    return Curve(home), None, Curve(other)


def certificates(folder: Path) -> tuple[Security, Security, Security]:
    """Our certificate, none, and one of another authority."""
    ours, theirs = issued(folder / "ours"), issued(folder / "theirs")
    return ours, Tls(ours.ca), Tls(ours.ca, theirs.certificate, theirs.key)


def issued(folder: Path) -> Tls:
    """A new authority and a certificate that it signed."""
    folder.mkdir()
    authority = trustme.CA()
    leaf = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    leaf.cert_chain_pems[0].write_to_path(folder / "own.pem")
    leaf.private_key_pem.write_to_path(folder / "own.key")
    (folder / "own.key").chmod(0o600)
    return Tls(folder / "ca.pem", folder / "own.pem", folder / "own.key")


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scheme", choices=["tcp", "grpc"], default="tcp")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        make = curves if given.scheme == "tcp" else certificates
        keys = make(Path(folder))
        ours, theirs = multiprocessing.Pipe()
        arguments = (given.scheme, keys[0], theirs)
        process = multiprocessing.Process(target=serve, args=arguments, daemon=True)
        process.start()
        measure(ours.recv(), keys, given.rounds)
        ours.close()
        theirs.close()
        process.kill()


def measure(address: str, keys: tuple[Security, Security, Security], rounds: int) -> None:
    """Interleaved rounds, and a line for each kind of stranger."""
    own, none, wrong = keys
    kinds: dict[str, tuple[Any, ...]] = {
        "no key": (knock, address, none),
        "wrong key": (knock, address, wrong),
        "garbage": (shout, address),
        "slow": (drip, address),
        "many": (crowd, address),
    }
    rate(address, own)
    ratios: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
    for _ in range(rounds):
        for kind, (run, *arguments) in kinds.items():
            alone = rate(address, own)
            with beside(run, *arguments) as took:
                before, begin = took(), time.monotonic()
                found = rate(address, own)
                share = (took() - before) / (time.monotonic() - begin)
            with beside(burn, min(share, 1.0)):
                ratios[kind].append((found / alone, rate(address, own) / alone))
    for kind, pairs in ratios.items():
        here, control = (quartiles(column) for column in zip(*pairs, strict=True))
        print(f"{kind:10} {here} of the rate alone; control {control}", flush=True)


def quartiles(values: Sequence[float]) -> str:
    """The median and the quartiles around it."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    main()
