"""Students with a cache, each in a process of its own: ``python -m tests.integration.cacher JSON``.

The process forks its students, before it has a thread or a socket, so that there can be many. The
JSON has the teacher's ``address`` and the folder ``cache``, and

- ``students``: the loader's keywords of students that run at the same time for an epoch each; a
  line of JSON for each says what its loader counted. Or
- ``kill``: students are killed at their first step on disk, the second, and so on, each on a folder
  of its own below ``cache``, and each followed by one that is left alone; a line for each of these.
"""

from __future__ import annotations

import builtins
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pantheon.dataset import Ids
from pantheon.store import KnowledgeReader, rebuild, verify
from pantheon.store import folder as folder_module
from pantheon.store.manifest import SHARD_NAME
from student_client import KnowledgeLoader, cache_writer

SIZE = 200
WIDTH = 32
SHARD_BYTES = 100 * (WIDTH * 4 + 16)


def truth(ids: torch.Tensor) -> torch.Tensor:
    """What the teacher says."""
    return ids.float()[:, None] + torch.arange(float(WIDTH))


def read(address: str, cache: str, **options: Any) -> dict[str, Any]:
    """Read an epoch and compare it with the truth; what the loader counted."""
    cache_writer.SHARD_BYTES = SHARD_BYTES
    settings = {"batch_size": 20, "request_rows": 20, "dataset_fingerprint": "ids"} | options
    epoch = settings.pop("epoch", 0)
    with KnowledgeLoader(Ids(SIZE), teachers={"t": address}, cache=cache, **settings) as loader:
        loader.set_epoch(epoch)
        rows = 0
        for batch in loader:
            assert torch.equal(batch.knowledge["y"], truth(batch.ids))
            rows += len(batch.ids)
    return loader.stats().as_dict()["teachers"]["t"] | {"rows": rows}


def forked(work: Callable[[], dict[str, Any]]) -> tuple[int, Any]:
    """Start work in a process of its own; its id, and the end of a pipe with its answer."""
    end, start = os.pipe()
    child = os.fork()
    if child:
        os.close(start)
        return child, end
    status = 1
    try:
        torch.set_num_threads(1)
        os.write(start, json.dumps(work()).encode())
        status = 0
    finally:
        os._exit(status)


def ended(child: int, end: int) -> tuple[int, Any]:
    """How a process ended, and its answer."""
    with os.fdopen(end, "rb") as pipe:
        answer = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status, json.loads(answer) if answer else None


class Steps:
    """Counts everything done to files of a folder, and kills this process before one of them.

    A write that is to be the last is done by half.
    """

    def __init__(self, last: int) -> None:
        self.left = last
        for name in ("link", "replace", "unlink", "fsync"):
            setattr(os, name, self._counting(getattr(os, name)))
        folder_module.open = self._open  # type: ignore[attr-defined]

    def _step(self) -> bool:
        self.left -= 1
        return self.left == 0

    def _counting(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any) -> Any:
            if self._step():
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args)

        return counted

    def _open(self, path: str, mode: str) -> Any:
        file = builtins.open(path, mode)  # noqa: SIM115  # the caller closes it
        write = file.write

        def counted(data: memoryview) -> int:
            if self._step():
                write(data[: len(data) // 2])
                file.flush()
                os.kill(os.getpid(), signal.SIGKILL)
            return int(write(data))

        return _Wrapped(file, counted)


class _Wrapped:
    """A file whose writes are counted."""

    def __init__(self, file: Any, write: Callable[[memoryview], int]) -> None:
        self._file, self.write = file, write

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()


def killed(step: int, address: str, cache: str) -> dict[str, Any]:
    """Read an epoch, but die at a step."""
    Steps(step)
    return read(address, cache)


def left(cache: Path) -> dict[str, Any]:
    """What is in a cache: files that are no whole shard, wrong ones, samples."""
    found: dict[str, Any] = {"rows": 0, "wrong": [], "hidden": 0, "manifest": False}
    for path in cache.glob("*/*"):
        names = os.listdir(path)
        found["hidden"] += sum(n.startswith(".") for n in names)
        found["manifest"] = "manifest.json" in names
        if any(SHARD_NAME.fullmatch(n) for n in names):
            rebuild(path)
            found["wrong"] += verify(path)
            with KnowledgeReader(path) as reader:
                (values,) = reader.read(reader.ids)
                found["rows"] += len(reader.ids)
                if not torch.equal(values, truth(torch.from_numpy(reader.ids))):
                    found["wrong"].append("values")
                assert len(np.unique(reader.ids)) == sum(e.rows for e in reader.shards)
    return found


def kill_at_every_step(address: str, cache: Path) -> None:
    """Kill a student at every step, one after another, until one gets to its end."""
    step, status = 0, -signal.SIGKILL
    while status == -signal.SIGKILL:
        step += 1
        path = cache / f"{step:03d}"
        status, _ = ended(*forked(lambda: killed(step, address, str(path))))  # noqa: B023
        _, torn = ended(*forked(lambda: left(path)))  # noqa: B023
        again, resumed = ended(*forked(lambda: read(address, str(path))))  # noqa: B023
        _, whole = ended(*forked(lambda: left(path)))  # noqa: B023
        say(step=step, status=status, torn=torn, again=again, resumed=resumed, whole=whole)


def say(**line: Any) -> None:
    """A line of JSON."""
    print(json.dumps(line), flush=True)


def main() -> None:
    """Do what the JSON says."""
    order = json.loads(sys.argv[1])
    address, cache = order["address"], order["cache"]
    if order.get("kill"):
        kill_at_every_step(address, Path(cache))
        return
    students = [forked(lambda o=o: read(address, cache, **o)) for o in order["students"]]
    for status, answer in [ended(*s) for s in students]:
        say(status=status, **(answer or {}))


if __name__ == "__main__":
    main()
