"""What a student's log says of requests that went wrong, in fields that programs read."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pantheon.delivery.ledger import Assignment, Poisoned
from pantheon.logs import JsonFormatter
from pantheon.wire.messages import Refused
from student_client.replica import Replica
from student_client.trace import Trace

ONE = {"session": "s", "teacher": "t", "address": "tcp://one:1"}


def replica(address: str = "tcp://one:1") -> Replica:
    """A replica of which only the name matters."""
    return cast(Replica, SimpleNamespace(teacher="t", address=address, failures=3))


class Told:
    """The one line that something is told in."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self.trace, self._caplog = Trace("s"), caplog

    def line(self) -> dict[str, Any]:
        (record,) = self._caplog.records
        line: dict[str, Any] = json.loads(JsonFormatter().format(record))
        assert line["logger"] == "student_client.trace"
        return line


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Told:
    caplog.set_level("DEBUG", "student_client.trace")
    return Told(caplog)


def contains(line: dict[str, Any], **expected: Any) -> None:
    assert {name: line.get(name) for name in expected} == expected


def test_an_expired_lease_is_told_with_its_rows(told: Told) -> None:
    told.trace.expired(Assignment("t", "tcp://one:1", 7, 3, 30, 40), 60.0)
    line = told.line()
    contains(line, level="warning", **ONE, request=7, start=30, rows=10, seconds=60.0)
    assert "nothing was said of it for 60 s" in line["message"]


def test_a_late_replica_is_told_with_all_that_it_held(told: Told) -> None:
    told.trace.suspected("t", "tcp://one:1", [4, 5], 3.0)
    contains(told.line(), level="warning", **ONE, requests=[4, 5], seconds=3.0)


def test_poison_is_told_with_every_number_it_had(told: Told) -> None:
    found = Poisoned("t", 3, 30, 40, 2, ("one: no", "two: out of memory"), (7, 9))
    told.trace.poisoned(found, "error")
    line = told.line()
    contains(line, level="error", session="s", teacher="t", requests=[7, 9], code="error")
    contains(line, start=30, rows=10)
    assert line["message"].endswith("failed 2 times on rows 30 to 39: two: out of memory")


def test_a_disagreement_is_told_with_both_replicas_and_numbers(told: Told) -> None:
    told.trace.disagreed((replica(), 9), (replica("tcp://two:2"), 7), 0.5, "they disagree")
    line = told.line()
    contains(line, level="warning", **ONE, request=9, first=7, other="tcp://two:2", difference=0.5)
    assert line["message"] == "they disagree"


@pytest.mark.parametrize(("code", "level"), [("error", "warning"), ("busy", "debug")])
def test_a_refusal_is_told_as_loud_as_it_matters(told: Told, code: str, level: str) -> None:
    told.trace.refused(replica(), Refused(7, code, "no"))
    contains(told.line(), level=level, **ONE, request=7, code=code)


def test_one_lost_again_and_again_is_told_with_its_wait(told: Told) -> None:
    told.trace.greeted_later(replica(), 4.25)
    line = told.line()
    contains(line, level="warning", **ONE, seconds=4.25)
    assert "3 times in a row" in line["message"]


def test_a_wait_without_end_is_told_with_the_row_it_is_for(told: Told) -> None:
    told.trace.stalled("t", ["tcp://one:1"], 40, 60.0)
    line = told.line()
    contains(line, level="warning", session="s", teacher="t", start=40, seconds=60.0)
    assert "tcp://one:1" in line["message"]
