"""How commands end: errors as one message, Ctrl-C with status 130, a traceback only when asked."""

from __future__ import annotations

import atexit
import functools
import logging
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn, ParamSpec

import typer

from pantheon.cli.output import stderr
from pantheon.errors import ConfigError, PantheonError
from pantheon.logs import current
from pantheon.quote import printable

logger = logging.getLogger("pantheon")

WRONG, FAILED, INTERRUPTED = 2, 1, 130
"""Exit statuses: what was asked cannot be; it could, but failed; Ctrl-C."""

P = ParamSpec("P")
_debug = False


def set_debug(debug: bool) -> None:
    """Whether errors are shown with their traceback."""
    global _debug
    _debug = debug


def guarded(command: Callable[P, None]) -> Callable[P, None]:
    """A command whose Pantheon errors end it with one message and a status."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except PantheonError as error:
            if _debug:
                raise
            _leave(error)
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None

    return run


def _leave(error: PantheonError) -> NoReturn:
    logs = current()
    if logs is not None and logs.json:
        logger.error("%s", error, extra={"error": type(error).__name__})
    else:
        stderr.print("error:", style="bold red", end=" ")
        # It may quote a peer; several faults of a file are several lines.
        stderr.print("\n".join(map(printable, str(error).split("\n"))), markup=False)
    raise typer.Exit(WRONG if isinstance(error, ConfigError) else FAILED) from None


def interruptible() -> None:
    """Let the first Ctrl-C clean up and the second one leave at once."""

    def first(signum: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, first)


def leave_at_once(status: int = INTERRUPTED) -> NoReturn:
    """End now that what was begun has been cleaned up.

    Handlers registered for the end still run (they end worker processes); taking the interpreter
    and its libraries apart can take more than a second, and can abort a process whose threads of
    torch.distributed still wait for the interpreter, so it is left out.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
