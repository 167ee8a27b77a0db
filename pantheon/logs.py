"""Lines of a log: one JSON object each for programs, or text for people.

Libraries only log; `Logs.set_up` is for the command line and the worker processes it starts.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from pantheon.quote import printable, quoted, shortened

MAX_MESSAGE = 4096
"""Characters of the longest message, which may quote a peer."""

MAX_VALUE = 256
"""Characters of the longest text beside the message."""

MAX_LIST = 64
"""Numbers of the longest list beside the message."""

MAX_TRACE = 1 << 15
"""Characters of the longest traceback; its end is kept."""

OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""What every record has; everything else was given with ``extra=``."""

logger = logging.getLogger("pantheon")

Extra = Mapping[str, str | int]


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ``time`` (RFC 3339, UTC), ``level``, ``logger``, ``message``.

    Then what was given with ``extra=``, such as ``session`` and ``request``, and ``exception``, a
    traceback. It is ASCII, without control characters, whatever a peer sent.

    Args:
        always: what every line says besides, such as a rank.

    Example:
        >>> given = {"created": 0.5, "levelname": "INFO", "name": "x", "msg": "a\\nb", "request": 7}
        >>> print(JsonFormatter({"rank": 1}).format(logging.makeLogRecord(given)))
        ... # doctest: +NORMALIZE_WHITESPACE
        {"time": "1970-01-01T00:00:00.500000Z", "level": "info", "logger": "x", "message": "a\\nb",
         "rank": 1, "request": 7}
    """

    def __init__(self, always: Extra | None = None) -> None:
        super().__init__()
        self._always = dict(always or {})

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds")
        line: dict[str, Any] = {
            "time": time.removesuffix("+00:00") + "Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": shortened(record.getMessage(), MAX_MESSAGE),
            **self._always,
        }
        for name, value in vars(record).items():
            if name not in OWN:
                line.setdefault(name, _plain(value))
        if record.exc_info and record.exc_info[0]:
            line["exception"] = self.formatException(record.exc_info)[-MAX_TRACE:]
        return json.dumps(line, allow_nan=False).replace("\x7f", "\\u007f")


def _plain(value: Any) -> Any:
    """A value as JSON has it, and short; numbers that are not finite as text."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else json.dumps(value)
    if isinstance(value, list | tuple) and all(isinstance(v, int) for v in value[:MAX_LIST]):
        return list(value[:MAX_LIST])
    return shortened(value, MAX_VALUE) if isinstance(value, str) else quoted(value)


class TextFormatter(logging.Formatter):
    """Lines for people: a message is one line, and nothing in it moves a terminal's cursor.

    A traceback keeps its lines, each set in by two spaces.

    Example:
        >>> record = logging.makeLogRecord({"msg": "hello\\n\\x1b[31mERROR", "name": "x"})
        >>> print(TextFormatter("%(name)s: %(message)s").format(record))
        x: hello\\n\\x1b[31mERROR
    """

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The message as it is shown."""
        record.message = printable(shortened(record.message, MAX_MESSAGE))
        return super().formatMessage(record)

    def formatException(
        self,
        ei: tuple[type[BaseException], BaseException, TracebackType | None]
        | tuple[None, None, None],
    ) -> str:
        """The traceback as it is shown."""
        lines = super().formatException(ei)[-MAX_TRACE:].split("\n")
        return "\n".join(f"  {printable(line)}" for line in lines)


@dataclass(frozen=True, slots=True)
class Logs:
    """How a process logs, to standard error.

    Args:
        level: of `logging`, the least that is shown.
        json: JSON for programs instead of text for people.
        always: what every line says besides, such as a rank.

    Example:
        >>> Logs(logging.INFO, always={"rank": 1}).saying(worker="worker 0 (cpu)").always
        {'rank': 1, 'worker': 'worker 0 (cpu)'}
    """

    level: int = logging.WARNING
    json: bool = False
    always: Extra = field(default_factory=dict)

    def saying(self, **more: str | int) -> Logs:
        """The same, with more in every line."""
        return replace(self, always={**self.always, **more})

    def set_up(self, handler: logging.Handler | None = None) -> None:
        """Log like this from now on; what nobody catches is a line too where lines are JSON.

        Args:
            handler: shows text to people; plain lines by default.
        """
        global _current
        _current = self
        named = [v if isinstance(v, str) else f"{name} {v}" for name, v in self.always.items()]
        shown = "".join(f"[{name}] " for name in named)
        if self.json:
            handler = logging.StreamHandler()
            handler.setFormatter(JsonFormatter(self.always))
            logging.captureWarnings(True)
            sys.excepthook = _uncaught
            threading.excepthook = _uncaught_in_thread
        elif handler is None:
            handler = logging.StreamHandler()
            handler.setFormatter(TextFormatter(f"{shown}%(levelname)s %(name)s: %(message)s"))
        else:
            handler.setFormatter(TextFormatter(f"{shown}%(name)s: %(message)s"))
        logging.basicConfig(level=self.level, handlers=[handler])


_current: Logs | None = None


def current() -> Logs | None:
    """How this process was set up to log; None where that is left to the program."""
    return _current


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
    else:
        logger.critical("ended by %s", kind.__name__, exc_info=(kind, error, trace))


def _uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None and args.exc_type is not SystemExit:
        found = (args.exc_type, args.exc_value, args.exc_traceback)
        logger.critical("a thread ended by %s", args.exc_type.__name__, exc_info=found)
