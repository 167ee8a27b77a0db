"""Leaving a forward whose answer nobody will get."""

from __future__ import annotations

import ctypes
import threading

ABANDON_JOIN_S = 0.3
"""Seconds a thread that is scoring may take to end."""


class Abandoned(BaseException):
    """Raised inside a forward whose answer nobody will get; no model's handler stops it."""


def abandon(thread: threading.Thread) -> None:
    """Have a thread leave the forward it is in between two of its operations, and wait a moment.

    A thread that computes while the interpreter goes down aborts the process.
    """
    if thread.is_alive() and thread.ident is not None:
        ident = ctypes.c_ulong(thread.ident)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, ctypes.py_object(Abandoned))
        thread.join(ABANDON_JOIN_S)
