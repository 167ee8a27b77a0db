"""Route gives each sample the knowledge of the one teacher its key names, in the batch's order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pantheon.codec import spec_for
from pantheon.errors import MergeError
from pantheon.knowledge import Value, take_value
from pantheon.merge import Route
from tests.unit.values import KINDS, logits, same, value

LANGUAGES = ["en", "de", "fr", "en"]
TEACHERS = {"en": "bert", "de": "gbert", "fr": "bert"}


@pytest.mark.parametrize(
    "keys",
    [
        LANGUAGES,
        tuple(LANGUAGES),
        np.array(LANGUAGES),
        dict(enumerate(LANGUAGES)),
        lambda ids: [LANGUAGES[i] for i in ids],
        lambda ids: np.array(LANGUAGES)[ids],
    ],
    ids=["list", "tuple", "array", "mapping", "function", "function to array"],
)
def test_keys_may_come_in_any_form(keys: Any) -> None:
    assert Route(keys, TEACHERS).assign(np.array([3, 1, 2])).tolist() == ["bert", "gbert", "bert"]


def test_keys_may_be_numbers_in_arrays_and_tensors() -> None:
    for keys in (np.array([7, 8]), torch.tensor([7, 8]), [7, 8]):
        route = Route(keys, {7: "a", 8: "b"})  # type: ignore[arg-type]
        assert route.assign(np.array([1, 0])).tolist() == ["b", "a"]


def test_an_unknown_key_is_refused_with_its_sample() -> None:
    with pytest.raises(MergeError, match=r"sample 2 has the key 'fr'.* its keys are 'en', 'de'"):
        Route(LANGUAGES, {"en": "a", "de": "b"}).assign(np.array([0, 2]))


@pytest.mark.parametrize("keys", [LANGUAGES, np.array(LANGUAGES), dict(enumerate(LANGUAGES))])
@pytest.mark.parametrize("sample", [4, -1])
def test_a_sample_without_a_key_is_refused(keys: Any, sample: int) -> None:
    with pytest.raises(MergeError, match=f"sample {sample} has no key"):
        Route(keys, TEACHERS).assign(np.array([0, sample]))


def test_a_function_must_give_a_key_for_every_id() -> None:
    with pytest.raises(MergeError, match="1 keys for 2 ids"):
        Route(lambda ids: ["en"], TEACHERS).assign(np.array([0, 1]))


@given(st.sampled_from(KINDS), st.lists(st.sampled_from("abc"), min_size=1, max_size=8))
def test_every_row_comes_from_its_teacher(kind: str, owners: list[str]) -> None:
    n = len(owners)
    full = {t: value(kind, n, seed=i) for i, t in enumerate("abc")}
    if "mixture" in kind:
        full = dict.fromkeys("abc", full["a"])
    rows = {t: torch.tensor([i for i, o in enumerate(owners) if o == t]).long() for t in "abc"}
    values = {t: take_value(full[t], rows[t]) for t in "abc" if len(rows[t]) or t == "a"}
    out = Route(owners, {t: t for t in "abc"})("x", values, rows, n)
    for i, owner in enumerate(owners):
        assert same(take_value(out, torch.tensor([i])), take_value(full[owner], torch.tensor([i])))


def test_a_teacher_that_has_all_the_rows_is_not_copied() -> None:
    whole = logits(3, 2)
    assert Route(["k"] * 3, {"k": "a"})("x", {"a": whole}, {"a": None}, 3) is whole


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"a": [0, 1], "b": [1, 2]}, "row 1 of 3 was answered 2 times"),
        ({"a": [0], "b": [1]}, "row 2 of 3 was answered 0 times"),
        ({"a": [0, 1], "b": [3]}, "row 3 of 3"),
    ],
)
def test_rows_answered_twice_or_not_at_all_are_refused(
    rows: dict[str, list[int]], message: str
) -> None:
    at = {t: torch.tensor(r) for t, r in rows.items()}
    values: dict[str, Value] = {t: torch.zeros(len(r)) for t, r in rows.items()}
    with pytest.raises(MergeError, match=message):
        Route(LANGUAGES, {"en": "a", "de": "b"})("x", values, at, 3)


def test_values_that_have_not_the_rows_they_claim_are_refused() -> None:
    with pytest.raises(MergeError, match="'a' gave 2 rows for 1 samples"):
        Route(["en"], {"en": "a"})("x", {"a": torch.zeros(2)}, {"a": torch.tensor([0])}, 1)
    with pytest.raises(MergeError, match="no teacher answered"):
        Route(["en"], {"en": "a"})("x", {}, {}, 0)


def test_specifications_must_be_alike_and_served_by_every_teacher_named() -> None:
    route = Route(LANGUAGES, TEACHERS)
    dense, topk = (spec_for("x", c, logits(1, 9)) for c in ("float16", "topk:2"))
    other = spec_for("x", "topk:3", logits(1, 9))
    assert route.spec("x", {"bert": dense, "gbert": dense}) == dense
    with pytest.raises(MergeError, match="codec is 'topk:2' at teacher 'bert' and 'topk:3'"):
        route.spec("x", {"bert": topk, "gbert": other})
    with pytest.raises(MergeError, match="codec is 'float16'"):
        route.spec("x", {"bert": dense, "gbert": topk})
    with pytest.raises(MergeError, match="'gbert' does not serve it"):
        route.spec("x", {"bert": dense})
    with pytest.raises(MergeError, match="no key has a teacher"):
        Route(LANGUAGES, {})
