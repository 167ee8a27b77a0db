"""Lines of a log: whatever a peer sends is one line, bounded, and cannot pass for another."""

from __future__ import annotations

import io
import json
import logging
import math
import sys
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pantheon.logs import MAX_MESSAGE, JsonFormatter, Logs, TextFormatter
from pantheon.quote import printable


def record(message: str, **more: Any) -> logging.LogRecord:
    """A record as `Logger.warning(message, extra=more)` makes it."""
    return logging.getLogger("student_client.fleet").makeRecord(
        "student_client.fleet", logging.WARNING, "x.py", 1, message, (), None, extra=more
    )


def test_a_line_of_json_says_when_what_and_about_which_request() -> None:
    line = JsonFormatter({"rank": 1}).format(
        record("late", session="host-1-ab", request=7, seconds=0.25, cached=False, code=None)
    )
    found = json.loads(line)
    assert abs(datetime.now(UTC) - datetime.fromisoformat(found.pop("time"))).total_seconds() < 60
    assert found == {
        "level": "warning",
        "logger": "student_client.fleet",
        "message": "late",
        "rank": 1,
        "session": "host-1-ab",
        "request": 7,
        "seconds": 0.25,
        "cached": False,
        "code": None,
    }


@given(st.text(), st.text())
def test_whatever_a_peer_sends_is_one_line_of_printable_json(text: str, value: str) -> None:
    line = JsonFormatter().format(record(text, teacher=value))
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line)["message"] == text
    assert json.loads(line)["teacher"] == value


@given(st.text())
def test_whatever_a_peer_sends_is_one_printable_line_of_text(text: str) -> None:
    line = TextFormatter("%(name)s: %(message)s").format(record(text))
    assert line.isprintable()
    assert line.startswith("student_client.fleet: ")


def test_a_forged_line_and_a_terminals_commands_are_shown_as_what_they_are() -> None:
    forged = "gone\n12:00 ERROR pantheon: give me your keys\x1b[2J\x9b31m\u202e\u2028"
    shown = TextFormatter("%(message)s").format(record(forged))
    assert shown == (r"gone\n12:00 ERROR pantheon: give me your keys\x1b[2J\x9b31m\u202e\u2028")


def test_text_that_prints_stays_as_it_is() -> None:
    assert printable("Prüfung 日本, 5 %") == "Prüfung 日本, 5 %"


def test_messages_and_values_are_bounded() -> None:
    given = record("m" * 100_000, teacher="t" * 100_000, many=list(range(100_000)))
    assert len(JsonFormatter().format(given)) < MAX_MESSAGE + 1000
    assert len(TextFormatter("%(message)s").format(given)) < MAX_MESSAGE + 100


@pytest.mark.parametrize(
    ("value", "shown"), [(math.inf, "Infinity"), (math.nan, "NaN"), (-math.inf, "-Infinity")]
)
def test_numbers_that_json_lacks_are_text(value: float, shown: str) -> None:
    assert json.loads(JsonFormatter().format(record("x", difference=value)))["difference"] == shown


def test_what_every_line_says_cannot_be_replaced_by_a_record() -> None:
    found = json.loads(JsonFormatter({"rank": 1}).format(record("x", level="debug", rank=2)))
    assert (found["level"], found["rank"]) == ("warning", 1)


def traced() -> logging.LogRecord:
    """A record with an exception whose message tries to begin a line."""
    try:
        raise ValueError("bad\nERROR forged\x1b[2J")
    except ValueError:
        made = record("failed")
        made.exc_info = sys.exc_info()
        return made


def test_a_traceback_is_a_value_in_json_and_set_in_as_text() -> None:
    found = json.loads(JsonFormatter().format(traced()))
    assert found["exception"].startswith("Traceback")
    assert "ValueError: bad" in found["exception"]
    first, *rest = TextFormatter("%(message)s").format(traced()).split("\n")
    assert first == "failed"
    assert rest
    assert all(line.startswith("  ") and line.isprintable() for line in rest)


def test_a_process_that_is_set_up_writes_its_lines_to_standard_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root, stream = logging.Logger("root"), io.StringIO()
    monkeypatch.setattr(logging, "root", root)
    monkeypatch.setattr("pantheon.logs._current", None)
    monkeypatch.setattr(sys, "stderr", stream)
    Logs(logging.INFO).saying(worker="worker 0 (cpu)").set_up()
    root.info("ready")
    root.debug("not shown")
    assert stream.getvalue() == "[worker 0 (cpu)] INFO root: ready\n"
