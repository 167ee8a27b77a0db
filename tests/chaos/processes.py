"""Replicas as real processes that a test starts, kills, stops and continues."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.integration.programs import ROOT

READY_S = 20.0


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens at, below those the kernel gives to clients."""
    found: list[int] = []
    for port in range(20000 + os.getpid() % 9000, 32000):
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise OSError(f"no {count} free ports")


class Process:
    """A replica's process; its descriptor means this process even after its number is reused."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._fd = os.pidfd_open(pid)

    def send(self, number: signal.Signals) -> None:
        """Send a signal; nothing when it is over."""
        if not self.over(0):
            signal.pidfd_send_signal(self._fd, number)

    def over(self, seconds: float) -> bool:
        """Whether it has ended, within some seconds."""
        return bool(select.select([self._fd], [], [], seconds)[0])

    def close(self) -> None:
        """End it for certain."""
        self.send(signal.SIGKILL)
        assert self.over(READY_S)
        os.close(self._fd)


class Nursery:
    """The process that forks replicas.

    Args:
        within: a command that runs another one in some place, such as ``ip netns exec NAME``.
    """

    def __init__(self, within: Sequence[str] = ()) -> None:
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [*within, sys.executable, "-m", "tests.chaos.nursery"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, address: str, **order: Any) -> Process:
        """Start a replica that listens at an address; see `tests.chaos.lessons.teacher`."""
        return self.start_all([address], **order)[0]

    def start_all(self, addresses: Sequence[str], **order: Any) -> list[Process]:
        """Start several at once; answers when all of them listen."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        with self._lock:
            for address in addresses:
                stdin.write(json.dumps({"address": address} | order) + "\n")
            stdin.flush()
            said = [json.loads(stdout.readline() or '{"error": "over"}') for _ in addresses]
        failed = [s for s in said if "error" in s]
        assert not failed, failed
        by_address = {s["address"]: s["pid"] for s in said}
        return [Process(by_address[a]) for a in addresses]

    def close(self) -> None:
        """End the nursery, and with it all replicas."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(READY_S)
        self._process.stdout.close()


class Doomed:
    """The process that forks others which meet their fate; see `tests.chaos.doomed`.

    Args:
        module: whose ``live`` they call.
    """

    def __init__(self, module: str) -> None:
        command = [sys.executable, "-m", "tests.chaos.doomed", module]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)

    def start(self, path: Path, at: int = -1, how: str = "kill", **order: Any) -> int:
        """Start one that works on a path and meets its fate at a step, or none; the process id."""
        return int(self._ask(path=str(path), at=at, how=how, **order))

    def wait(self, pid: int) -> str | int:
        """How one ended, or ``"stopped"``."""
        answer = self._ask(wait=pid)
        assert isinstance(answer, str | int)
        return answer

    def run(self, path: Path, at: int = -1, how: str = "kill", **order: Any) -> str | int:
        """Start one and wait for it."""
        return self.wait(self.start(path, at, how, **order))

    def close(self) -> None:
        """End it, and with it all that it forked."""
        self._process.communicate(timeout=10)

    def _ask(self, **order: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


class Replica:
    """One replica at a fixed address, in one process after another."""

    def __init__(self, nursery: Nursery, address: str, **order: Any) -> None:
        self.nursery, self.address, self.order = nursery, address, order
        self.process: Process | None = None
        self.starts = 0

    def start(self, **order: Any) -> None:
        """Start it; answers when it listens."""
        self._started(self.nursery.start(self.address, **self.order | order))

    def _started(self, process: Process) -> None:
        self.process, self.starts = process, self.starts + 1

    def _send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send(number)

    def kill(self) -> None:
        """SIGKILL; answers when it is dead."""
        if self.process is not None:
            self.process.close()
            self.process = None

    def stop(self) -> None:
        """SIGSTOP: it lives, its connections stay, and nothing moves."""
        self._send(signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT."""
        self._send(signal.SIGCONT)

    def end(self) -> None:
        """SIGTERM: it finishes what it has accepted."""
        self._send(signal.SIGTERM)


class Crew:
    """Some replicas of one teacher; none runs before it is started.

    Example:
        with Crew(nursery, 3, pace=0.01) as crew:
            crew.start()
            crew.replicas[0].kill()
    """

    def __init__(self, nursery: Nursery, count: int, host: str = "127.0.0.1", **order: Any) -> None:
        self.nursery, self.order = nursery, order
        self.replicas = [
            Replica(nursery, f"tcp://{host}:{port}", **order) for port in free_ports(count)
        ]

    @property
    def addresses(self) -> list[str]:
        """Of all replicas, up or not."""
        return [r.address for r in self.replicas]

    def start(self, *numbers: int) -> None:
        """Start some replicas, all by default, at once; answers when they listen."""
        chosen = [self.replicas[n] for n in numbers or range(len(self.replicas))]
        started = self.nursery.start_all([r.address for r in chosen], **self.order)
        for replica, process in zip(chosen, started, strict=True):
            replica._started(process)

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for replica in self.replicas:
            replica.kill()
