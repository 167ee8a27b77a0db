"""Replicas of a teacher, and teachers of a student, have to agree; what does not is named."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest

from pantheon import errors
from pantheon.schema import FieldSpec, KnowledgeSchema
from pantheon.wire.messages import Refused, Welcome
from student_client.handshake import Agreement, check_together, refused_hello

SCHEMA = KnowledgeSchema((FieldSpec("logits", "float32", (10,)),))
OTHER = KnowledgeSchema((FieldSpec("logits", "float32", (12,)),))
WELCOME = Welcome("bert", "r1", SCHEMA, dataset="d1", size=100)


def agreement(**options: Any) -> Agreement:
    return Agreement("bert", **options)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"schema": OTHER}, errors.SchemaMismatch, ["logits", "(10,)", "(12,)"]),
        ({"revision": "r2"}, errors.RevisionMismatch, ["r1", "r2"]),
        ({"dataset": "d2"}, errors.DatasetMismatch, ["d1", "d2"]),
        ({"size": 99}, errors.DatasetMismatch, ["99", "100"]),
        ({"version": 9}, errors.VersionMismatch, ["9"]),
    ],
)
def test_replicas_that_differ_are_both_named(
    change: dict[str, Any], error: type[Exception], words: list[str]
) -> None:
    said = agreement()
    said.accept(WELCOME, "tcp://a:1")
    said.accept(WELCOME, "tcp://b:1")
    with pytest.raises(error) as caught:
        said.accept(replace(WELCOME, **change), "tcp://c:1")
    assert all(w in str(caught.value) for w in ["bert", "tcp://c:1", *words])


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"stated": "r9"}, errors.RevisionMismatch, ["r1", "r9"]),
        ({"dataset": "d9"}, errors.DatasetMismatch, ["d1", "d9"]),
        ({"size": 1000}, errors.DatasetMismatch, ["100", "1000"]),
    ],
)
def test_what_the_student_expects_is_compared(
    options: dict[str, Any], error: type[Exception], words: list[str]
) -> None:
    with pytest.raises(error) as caught:
        agreement(**options).accept(WELCOME, "tcp://a:1")
    assert all(w in str(caught.value) for w in words)


def test_an_unknown_revision_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    said = agreement()
    with caplog.at_level(logging.WARNING):
        said.accept(replace(WELCOME, revision=""), "tcp://a:1")
        said.accept(replace(WELCOME, revision=""), "tcp://b:1")
    assert len(caplog.records) == 1


def test_a_stated_revision_stands_for_one_that_is_not_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        agreement(stated="r1").accept(replace(WELCOME, revision=""), "tcp://a:1")
    assert not caplog.records


def test_inputs_can_only_be_sent_by_a_student_that_has_them() -> None:
    without = replace(WELCOME, accepts_ids=False, dataset=None, size=None)
    agreement(size=100).accept(without, "grpc://a:1")
    with pytest.raises(errors.DatasetMismatch, match="no dataset"):
        agreement().accept(without, "grpc://a:1")


@pytest.mark.parametrize("change", [{"size": 50}, {"dataset": "d2"}])
def test_teachers_of_two_datasets_are_both_named(change: dict[str, Any]) -> None:
    both = {"a": Agreement("a"), "b": Agreement("b")}
    both["a"].accept(WELCOME, "tcp://a:1")
    both["b"].accept(replace(WELCOME, **change), "tcp://b:1")
    with pytest.raises(errors.DatasetMismatch, match=r"'a'.*'b'"):
        check_together(both)


def test_teachers_without_a_dataset_do_not_disagree() -> None:
    both = {"a": Agreement("a", size=100), "b": Agreement("b", size=100)}
    both["a"].accept(WELCOME, "tcp://a:1")
    both["b"].accept(replace(WELCOME, dataset=None, size=None, accepts_ids=False), "grpc://b:1")
    assert check_together(both) == 100


@pytest.mark.parametrize(
    ("code", "error"),
    [("schema", errors.SchemaMismatch), ("model", errors.RefusedError), ("draining", None)],
)
def test_a_refused_hello_raises_unless_asking_later_can_help(
    code: str, error: type[Exception] | None
) -> None:
    found = refused_hello("bert", "tcp://a:1", Refused(None, code, "because"))
    assert type(found) is (error or type(None))
    assert error is None or "because" in str(found)
