"""Workers of a search in processes of their own, beside the one that the command line is."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pantheon.compress.search.config import SearchConfig

logger = logging.getLogger(__name__)

STORAGE = "PANTHEON_SEARCH_STORAGE"
"""The environment variable that has the database's address, which may have a password in it."""

ENDING = 5.0
"""Seconds that a worker has to end in when it is told to."""


@contextmanager
def workers_beside(
    file: Path, config: SearchConfig, asked: Mapping[str, Any], said: Callable[[str], None]
) -> Iterator[None]:
    """All workers of a search but the first; they end with this process, however it ends.

    The search goes on without one that ends with an error, which is told of at once. When the
    budget is spent they end by themselves; one that does not, as it is frozen, is ended.

    Args:
        file: the search's.
        config: what it says, and the command line in its place.
        asked: what the command line was asked that is for every command: how to log, and errors.
        said: called with each line that a worker prints, from a thread of that worker's.
    """
    command = [sys.executable, "-m", "pantheon", *_options(asked)]
    command += ["search", "run", str(file), "--beside"]
    command += ["--trials", str(config.trials), "--workers", str(config.workers)]
    environment = os.environ | {STORAGE: config.url}
    with ExitStack() as stack:
        beside = [_Beside(number, said) for number in range(2, config.workers + 1)]
        for each in beside:
            stack.callback(each.end)
        for each in beside:
            stack.callback(each.stop)  # All of them, before the first is waited for.
            each.begin(command, environment)
        yield
        end = time.monotonic() + config.grace
        for each in beside:
            each.wait(end - time.monotonic())


def _options(asked: Mapping[str, Any]) -> list[str]:
    level, form = asked.get("log_level"), asked.get("log_format")
    return [
        *["-v"] * asked.get("verbose", 0),
        *(["--log-level", level.value] if level else []),
        *(["--log-format", form.value] if form else []),
        *(["--debug"] if asked.get("debug") else []),
    ]


class _Beside:
    """A worker's process, and the thread that reads what it prints."""

    def __init__(self, number: int, said: Callable[[str], None]) -> None:
        self._number, self._said = number, said
        self._process: subprocess.Popen[str] | None = None
        self._reader = threading.Thread(target=self._follow, daemon=True)
        self._stopping = threading.Event()

    def begin(self, command: list[str], environment: Mapping[str, str]) -> None:
        """Start it, in a session of its own: Ctrl-C is for the first, which ends the others."""
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._reader.start()

    def wait(self, seconds: float) -> None:
        """Wait for its end."""
        assert self._process is not None
        try:
            self._process.wait(max(0.0, seconds))
        except subprocess.TimeoutExpired:
            logger.warning("worker %d has nothing left to do, and is ended", self._number)

    def stop(self) -> None:
        """Tell it to end, once: told twice it would leave at once."""
        self._stopping.set()
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)

    def end(self) -> None:
        """Wait for its end, and end it and what it began if that takes long."""
        process = self._process
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.wait(ENDING)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._reader.join(ENDING)
        with contextlib.suppress(OSError):
            process.stdin.close()
        if not self._reader.is_alive():
            process.stdout.close()

    def _follow(self) -> None:
        """Pass on what it prints, and say how it ended where nobody ended it."""
        process = self._process
        assert process is not None
        assert process.stdout is not None
        for line in process.stdout:  # To the end, or the worker would wait for a reader.
            try:
                self._said(line.rstrip("\n"))
            except Exception as error:  # noqa: BLE001 - a storage or a terminal that went away
                logger.warning("a line of worker %d is lost: %s", self._number, error)
        status = process.wait()
        if not status or self._stopping.is_set():
            return
        if status > 0:
            told = f"ended with status {status}; the search goes on without it"
        else:
            told = f"was ended by signal {-status}; what it was at is given to another"
        logger.warning("worker %d %s", self._number, told)
