"""Forks dumpers that meet their fate at a chosen step: ``python -m tests.chaos.doomed``.

A step is anything that changes the folder: a file made, half a write, a sync, a link, a rename, a
removal. One line of JSON in starts a dumper or waits for one, one line out answers. All dumpers end
with this process, which ends when its standard input is closed.
"""

from __future__ import annotations

import ctypes
import errno
import io
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pantheon.errors import DiskFullError
from pantheon.schema import FieldSpec, KnowledgeSchema
from pantheon.store import folder
from pantheon.store.pairs import Ids
from teacher_server.dump import dump

PR_SET_PDEATHSIG = 1
SIZE, SHARD_ROWS = 20, 8
FULL = 28
"""Exit code of a dumper whose disk was full."""

CHANGES = frozenset(("open", "os.link", "os.rename", "os.remove", "os.mkdir", "fcntl.flock"))
TAKES_SPACE = frozenset(("open", "write", "fsync", "os.link", "os.rename", "os.mkdir"))


class Squares:
    """Sample i has i squared, and i % 3 tokens."""

    schema = KnowledgeSchema(
        (
            FieldSpec("square", "float32", ()),
            FieldSpec("tokens", "int64", (), "raw", ragged="tokens"),
        )
    )
    revision, dataset_fingerprint, size, batch_rows = "r1", "d1", SIZE, 4

    def score(self, ids: Ids, views: Ids | None = None) -> list[Tensor]:
        numbers = torch.from_numpy(ids)
        return [numbers.float() ** 2, numbers % 3, numbers.repeat_interleave(numbers % 3)]


class Fate:
    """Counts the steps on a folder, and strikes at one of them.

    Args:
        path: the folder.
        at: the step struck at, from 0; negative for none.
        how: ``"kill"``, ``"stop"``, or ``"full"``: this and all later steps find no space.
    """

    def __init__(self, path: str, at: int, how: str) -> None:
        self._path, self._left, self._how = path, at, how

    def step(self, what: str) -> None:
        """Strike, if it is time."""
        self._left -= 1
        if self._left == -1 and self._how != "full":
            os.kill(os.getpid(), signal.SIGKILL if self._how == "kill" else signal.SIGSTOP)
        if self._left < 0 and self._how == "full" and what in TAKES_SPACE:
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
        sys.addaudithook(self.heard)
        os.fsync = self.before("fsync", os.fsync)
        step = self.step

        class Halves(io.FileIO):
            """A file whose every write is two, so that it can be torn."""

            def write(self, data: Any, /) -> int:
                middle = len(data) // 2
                step("write")
                first = super().write(data[:middle])
                step("write")
                return first + super().write(data[middle:])

        folder.open = Halves  # type: ignore[attr-defined]

    def before(self, what: str, then: Callable[..., Any]) -> Callable[..., Any]:
        """A function that is a step."""

        def stepped(*arguments: Any) -> Any:
            self.step(what)
            return then(*arguments)

        return stepped


def start(path: str, at: int, how: str) -> int:
    """Fork a dumper; its process id."""
    pid = os.fork()
    if pid:
        return pid
    code = 0
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if at >= 0:
            Fate(path, at, how).install()
        dump(Squares(), path, shard_rows=SHARD_ROWS)
    except DiskFullError:
        code = FULL
    except BaseException:  # noqa: BLE001  # it must not go on as a second parent
        code = 1
        traceback.print_exc()
    os._exit(code)


def wait(pid: int) -> str | int:
    """The exit code of a dumper, or ``"killed"`` or ``"stopped"``."""
    status = os.waitpid(pid, os.WUNTRACED)[1]
    if os.WIFSTOPPED(status):
        return "stopped"
    return "killed" if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def main() -> None:
    """Do what the lines say."""
    torch.set_num_threads(1)
    for line in sys.stdin:
        order = json.loads(line)
        done = wait(order["wait"]) if "wait" in order else start(**order)
        print(json.dumps(done), flush=True)


if __name__ == "__main__":
    main()
