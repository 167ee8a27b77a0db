"""Processes that end with the one that began them, however that one ends."""

from __future__ import annotations

import contextlib
import os
import signal
import threading


def stop_with_stdin() -> None:
    """Send this process SIGTERM when its standard input ends, as it does when its writer dies."""
    threading.Thread(target=_wait, daemon=True).start()


def _wait() -> None:
    # By its number: a thread inside a buffered reader would abort the interpreter at its end.
    with contextlib.suppress(OSError):
        while os.read(0, 1 << 16):
            pass
    os.kill(os.getpid(), signal.SIGTERM)
