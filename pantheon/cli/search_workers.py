"""Workers of a search in processes of their own, beside the one that the command line is."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pantheon.compress.search.config import SearchConfig

logger = logging.getLogger(__name__)

STORAGE = "PANTHEON_SEARCH_STORAGE"
"""The environment variable that has the database's address, which may have a password in it."""

ENDING = 5.0
"""Seconds that a worker has to end in when it is told to."""


@contextmanager
def workers_beside(file: Path, config: SearchConfig, said: Callable[[str], None]) -> Iterator[None]:
    """All workers of a search but the first; they end with this process, however it ends.

    One that ends with an error is told of at once; what it was at is given to another.

    Args:
        file: the search's.
        config: what it says, and the command line in its place.
        said: called with each line that a worker prints, from a thread of that worker's.
    """
    command = [sys.executable, "-m", "pantheon", "search", "run", str(file), "--beside"]
    command += ["--trials", str(config.trials), "--workers", str(config.workers)]
    environment = os.environ | {STORAGE: config.url}
    stopping = threading.Event()
    found: list[subprocess.Popen[str]] = []
    readers: list[threading.Thread] = []
    with ExitStack() as stack:
        try:
            for number in range(2, config.workers + 1):
                process = stack.enter_context(_begun(command, environment))
                found.append(process)
                told = (number, process, said, stopping)
                readers.append(threading.Thread(target=_follow, args=told, daemon=True))
                readers[-1].start()
            yield
            # They see for themselves that the budget is spent.
            for reader in readers:
                reader.join()
        finally:
            stopping.set()
            for process in found:
                process.terminate()
            for process, reader in zip(found, readers, strict=True):
                _end(process)
                reader.join()


def _begun(command: list[str], environment: Mapping[str, str]) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    # In a session of its own: Ctrl-C is for the first process, which ends the others.
    return subprocess.Popen(
        command, stdin=pipe, stdout=pipe, env=environment, text=True, start_new_session=True
    )


def _end(process: subprocess.Popen[str]) -> None:
    try:
        process.wait(ENDING)
    except subprocess.TimeoutExpired:
        process.kill()


def _follow(
    number: int,
    process: subprocess.Popen[str],
    said: Callable[[str], None],
    stopping: threading.Event,
) -> None:
    """Pass on what a worker prints, and say how it ended where nobody ended it."""
    assert process.stdout is not None
    for line in process.stdout:
        said(line.rstrip("\n"))
    status = process.wait()
    if not status or stopping.is_set():
        return
    how = f"ended with status {status}" if status > 0 else f"was ended by signal {-status}"
    logger.warning("worker %d %s; what it was at is given to another", number, how)
