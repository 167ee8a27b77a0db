"""Processes that end with the one that began them, however that one ends."""

from __future__ import annotations

import contextlib
import os
import signal
import threading


def stop_with_stdin(by: signal.Signals = signal.SIGTERM, seconds: float | None = None) -> None:
    """Send this process a signal when its standard input ends, as it does when its writer dies.

    Args:
        by: the signal.
        seconds: how long it may take to end, after which it is ended; by default as long as it
            takes.
    """
    threading.Thread(target=_wait, args=(by, seconds), daemon=True).start()


def _wait(by: signal.Signals, seconds: float | None) -> None:
    # By its number: a thread inside a buffered reader would abort the interpreter at its end.
    with contextlib.suppress(OSError):
        while os.read(0, 1 << 16):
            pass
    os.kill(os.getpid(), by)
    if seconds is not None:
        threading.Event().wait(seconds)
        os.kill(os.getpid(), signal.SIGKILL)
