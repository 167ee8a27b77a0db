"""Who is asked for which rows, and what becomes of several teachers' fields."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pantheon.errors import ConfigError, MergeError
from pantheon.merge import Route
from pantheon.schema import FieldSpec, KnowledgeSchema
from student_client.plan import MergePlan, parse_merges


def schema(*names: str) -> KnowledgeSchema:
    return KnowledgeSchema(tuple(FieldSpec(n, "float32", (2,)) for n in names))


def plan(schemas: dict[str, KnowledgeSchema], **merges: Any) -> MergePlan:
    return MergePlan(schemas, parse_merges(merges))


def test_a_field_of_one_teacher_is_handed_on_as_it_is() -> None:
    made = plan({"a": schema("x"), "b": schema("y")})
    x, y = torch.zeros(3, 2), torch.ones(3, 2)
    merged = made.merge({"a": ({"x": x}, None), "b": ({"y": y}, None)}, np.arange(3))
    assert merged["x"] is x
    assert merged["y"] is y
    assert made.schema == schema("x", "y")
    assert made.rowwise
    assert not made.routed


def test_a_field_of_several_teachers_needs_a_merge() -> None:
    with pytest.raises(MergeError, match=r"'x'.*a, b"):
        plan({"a": schema("x"), "b": schema("x", "y")})


def test_a_merge_for_a_field_nobody_serves_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'z'.*x"):
        plan({"a": schema("x")}, z="mean")


def test_only_teachers_in_routes_alone_are_asked_for_some_rows() -> None:
    route = Route([0, 1, 1, 0], {0: "a", 1: "b"})
    made = plan({"a": schema("x"), "b": schema("x", "y"), "c": schema("z")}, x=route)
    assert made.routed == {"a"}
    wanted = made.wanted(np.array([3, 2, 0]))
    assert {t: rows.tolist() for t, rows in wanted.items() if rows is not None} == {"a": [0, 2]}


def test_rows_come_from_the_teacher_they_are_routed_to_however_many_it_answered() -> None:
    route = Route([0, 1, 1, 0], {0: "a", 1: "b"})
    made = plan({"a": schema("x"), "b": schema("x", "y")}, x=route)
    ids = np.array([3, 2, 0])
    some = torch.tensor([[30.0, 30], [10, 10]])
    everything = torch.tensor([[3.0, 3], [2, 2], [0, 0]])
    answers = {
        "a": ({"x": some}, np.array([0, 2])),
        "b": ({"x": everything, "y": everything}, None),
    }
    merged = made.merge(answers, ids)
    assert torch.equal(merged["x"], torch.tensor([[30.0, 30], [2, 2], [10, 10]]))
    assert merged["y"] is everything


def test_two_routes_ask_for_the_rows_of_both() -> None:
    first = Route([0, 1, 1], {0: "a", 1: "b"})
    second = Route([1, 1, 0], {0: "a", 1: "b"})
    made = plan({"a": schema("x", "y"), "b": schema("x", "y")}, x=first, y=second)
    wanted = made.wanted(np.arange(3))
    assert {t: rows.tolist() for t, rows in wanted.items() if rows is not None} == {
        "a": [0, 2],
        "b": [0, 1, 2],
    }


def test_a_callable_is_called_batch_by_batch() -> None:
    made = plan({"a": schema("x"), "b": schema("x")}, x=lambda values: values["a"])
    assert not made.rowwise
