"""How commands log: to standard error, as text for people or JSON for programs."""

from __future__ import annotations

import logging
import os
from enum import StrEnum

from rich.logging import RichHandler

from pantheon.cli.output import stderr
from pantheon.logs import Logs


class LogFormat(StrEnum):
    """What a line of the log is."""

    TEXT = "text"
    JSON = "json"


class LogLevel(StrEnum):
    """The least that is shown."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"

    @property
    def number(self) -> int:
        """As `logging` counts."""
        return logging.getLevelNamesMapping()[self.name]


VERBOSE = (logging.CRITICAL, logging.INFO, logging.DEBUG)
"""What ``-v``, given so many times, shows at least."""


def log_to_stderr(verbosity: int, level: LogLevel, style: LogFormat) -> None:
    """Show what is at least of a level; ``-v`` and ``-vv`` show more. A rank says which it is."""
    logs = Logs(
        min(level.number, VERBOSE[min(verbosity, 2)]), style is LogFormat.JSON, always=_rank()
    )
    logs.set_up(RichHandler(console=stderr, show_path=False, rich_tracebacks=False))


def _rank() -> dict[str, int]:
    """Which of torchrun's ranks this is; nothing where it is the only one."""
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return {"rank": int(os.environ.get("RANK", "0"))} if several else {}
