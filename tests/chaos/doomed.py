"""Forks processes that meet their fate at a chosen step: ``python -m tests.chaos.doomed MODULE``.

The module is imported once, before any thread or socket exists, so a process is there at once. A
step is anything that changes a folder (a file made, half a write, a sync, a link, a rename, a
removal), and whatever else the module calls one. One line of JSON in starts a process, which calls
the module's ``live``, or waits for one; one line out answers. All of them end with this process,
which ends when its standard input is closed.
"""

from __future__ import annotations

import ctypes
import errno
import importlib
import io
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

import torch

PR_SET_PDEATHSIG = 1
FULL = 28
"""Exit code of a process whose disk was full."""

CHANGES = frozenset(("open", "os.link", "os.rename", "os.remove", "os.mkdir", "fcntl.flock"))
TAKES_SPACE = frozenset(("open", "write", "fsync", "os.link", "os.rename", "os.mkdir"))


class Fate:
    """Counts the steps on a folder, and strikes at one of them.

    Args:
        path: the folder.
        at: the step struck at, from 0; negative for none.
        how: ``"kill"``, ``"stop"``, or ``"full"``: this and all later steps find no space.

    Attributes:
        doomed: whether it watches at all.
        taken: steps so far.
    """

    def __init__(self, path: str, at: int, how: str) -> None:
        self._path, self._at, self._how = path, at, how
        self.doomed, self.taken = at >= 0, 0

    def step(self, what: str) -> None:
        """Strike, if it is time."""
        self.taken += 1
        if self.taken == self._at + 1 and self._how != "full":
            os.kill(os.getpid(), signal.SIGKILL if self._how == "kill" else signal.SIGSTOP)
        if self.doomed and self.taken > self._at and self._how == "full" and what in TAKES_SPACE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        """What Python tells an audit hook before it does it."""
        if event not in CHANGES:
            return
        if event == "open" and not arguments[2] & (os.O_CREAT | os.O_RDWR | os.O_WRONLY):
            return
        if event == "fcntl.flock" or str(arguments[0]).startswith(self._path):
            self.step(event)

    def install(self) -> None:
        """Watch this process from now on."""
        if self.doomed:
            sys.addaudithook(self.heard)
            os.fsync = self.before("fsync", os.fsync)

    def before(self, what: str, then: Callable[..., Any]) -> Callable[..., Any]:
        """A function that is a step."""

        def stepped(*arguments: Any) -> Any:
            self.step(what)
            return then(*arguments)

        return stepped

    def opener(self) -> Callable[..., Any]:
        """What opens files whose every write is two, so that they can be torn."""
        if not self.doomed:
            return open
        step = self.step

        class Halves(io.FileIO):
            def write(self, data: Any, /) -> int:
                middle = len(data) // 2
                step("write")
                first = super().write(data[:middle])
                step("write")
                return first + super().write(data[middle:])

        return Halves


def start(live: Callable[..., int], path: str, at: int, how: str, **order: Any) -> int:
    """Fork a process; its process id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        fate = Fate(path, at, how)
        fate.install()
        code = live(fate, path, **order)
    except BaseException:  # noqa: BLE001  # it must not go on as a second parent
        traceback.print_exc()
    os._exit(code)


def wait(pid: int) -> str | int:
    """The exit code of a process, or ``"killed"`` or ``"stopped"``."""
    status = os.waitpid(pid, os.WUNTRACED)[1]
    if os.WIFSTOPPED(status):
        return "stopped"
    return "killed" if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def main(module: str) -> None:
    """Do what the lines say."""
    torch.set_num_threads(1)
    live = importlib.import_module(module).live
    for line in sys.stdin:
        order = json.loads(line)
        done = wait(order["wait"]) if "wait" in order else start(live, **order)
        print(json.dumps(done), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
