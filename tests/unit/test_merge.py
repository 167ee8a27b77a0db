"""Merges give the stated numbers in float32, and say which teacher keeps a field from merging."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pantheon.codec import spec_for, top_k
from pantheon.errors import ConfigError, MergeError
from pantheon.knowledge import Ragged, TopKLogits, Value, value_rows
from pantheon.merge import Concat, Custom, Mean, Merge, Mixture, Stack, Sum, Weighted, parse_merge
from pantheon.schema import FieldSpec
from tests.unit.values import logits, value


def specs(**values: Value) -> dict[str, FieldSpec]:
    return {t: spec_for("x", None, v) for t, v in values.items()}


def merged(merge: Merge, **values: Value) -> Tensor:
    """The merged tensor, which is what the merged specification says."""
    n = value_rows(next(iter(values.values())))
    spec = merge.spec("x", specs(**values))
    out = merge("x", values, {}, n)
    rows = out.values if isinstance(out, Ragged) else out
    assert isinstance(rows, Tensor)
    assert (str(rows.dtype), tuple(rows.shape[1:])) == (f"torch.{spec.dtype}", spec.shape)
    assert isinstance(out, Ragged) == (spec.ragged is not None)
    return rows


def test_the_toy_is_bit_exact() -> None:
    x = torch.arange(1000.0)
    assert merged(Mean(), a=2 * x - 1, b=2 * x + 1).equal(2 * x)
    assert merged(Sum(), a=2 * x - 1, b=2 * x + 1).equal(4 * x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_mean_of_large_half_precision_values_is_not_infinite(dtype: torch.dtype) -> None:
    large = torch.full((2, 3), 40000.0).to(dtype)
    for merge in (Mean(), Weighted(a=0.5, b=0.5)):
        out = merged(merge, a=large, b=large)
        assert out.dtype is torch.float32
        assert out.equal(large.float())
    assert merged(Sum(), a=large, b=large).equal(2 * large.float())
    assert merged(Concat(), a=large, b=large).dtype is torch.float32


def test_float64_stays_float64_also_beside_float32() -> None:
    a, b = torch.tensor([1e-12], dtype=torch.float64), torch.tensor([1.0])
    assert merged(Mean(), a=a, b=b).item() == (1e-12 + 1.0) / 2
    assert merged(Weighted(a=1, b=2), a=a, b=a).dtype is torch.float64


def test_inputs_are_not_changed_by_merging() -> None:
    values: dict[str, Value] = {t: logits(3, 2, seed=i) for i, t in enumerate("abc")}
    before = {t: v.clone() for t, v in values.items() if isinstance(v, Tensor)}
    for merge in (Mean(), Sum(), Weighted(a=1, b=2, c=3)):
        merge("x", values, {}, 3)
    assert all(torch.equal(values[t], before[t]) for t in before)  # type: ignore[arg-type]


def test_weights_are_used_as_they_are() -> None:
    out = merged(Weighted({"a": 2.0}, b=-1.0), a=torch.tensor([1.0]), b=torch.tensor([3.0]))
    assert out.tolist() == [-1.0]


def test_concat_and_stack_keep_every_teacher_in_order() -> None:
    a, b = torch.zeros(2, 3), torch.ones(2, 3)
    assert merged(Concat(), a=a, b=b).equal(torch.cat([a, b], 1))
    assert merged(Concat(), a=a, b=b[:, :1]).shape == (2, 4)
    assert merged(Stack(), b=b, a=a).equal(torch.stack([b, a], 1))
    assert merged(Stack(), a=a[:, 0], b=b[:, 0]).shape == (2, 2)
    votes = torch.tensor([[1], [2]])
    assert merged(Concat(), a=votes, b=votes).tolist() == [[1, 1], [2, 2]]


@given(st.lists(st.integers(-(2**62), 2**62 - 1), min_size=1, max_size=5))
def test_sums_of_integers_are_exact(numbers: list[int]) -> None:
    a = torch.tensor(numbers)
    assert merged(Sum(), a=a, b=a.flip(0)).tolist() == [
        x + y for x, y in zip(numbers, reversed(numbers), strict=True)
    ]


def test_sums_of_small_integers_and_booleans_do_not_wrap_around() -> None:
    assert merged(Sum(), a=torch.tensor([200]).byte(), b=torch.tensor([100]).byte()).item() == 300
    assert merged(Sum(), a=torch.tensor([True]), b=torch.tensor([True])).item() == 2


def test_sums_beyond_int64_raise() -> None:
    large = torch.tensor([2**62])
    with pytest.raises(MergeError, match=f"'x' .* by sum: its sums may reach 0 or {2**63}"):
        Sum()("x", {"a": large, "b": large}, {}, 1)


@pytest.mark.parametrize("merge", [Mean(), Weighted(a=1, b=1)])
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
def test_integers_have_no_mean(merge: Merge, dtype: torch.dtype) -> None:
    values: dict[str, Value] = {"a": torch.zeros(2, dtype=dtype), "b": torch.zeros(2, dtype=dtype)}
    for attempt in (
        lambda: merge.spec("votes", specs(**values)),
        lambda: merge("votes", values, {}, 2),
    ):
        with pytest.raises(MergeError, match=rf"'votes'.*{dtype}".replace("torch.", "")):
            attempt()


def test_integers_and_floats_do_not_mix() -> None:
    a, b = torch.zeros(2), torch.zeros(2, dtype=torch.int64)
    for merge in (Mean(), Sum(), Concat(), Stack()):
        with pytest.raises(MergeError, match=r"'x'.*int64"):
            merge.spec("x", specs(a=a, b=b))


@pytest.mark.parametrize("merge", [Mean(), Sum(), Weighted(a=1, b=1), Concat(), Stack()])
@pytest.mark.parametrize("other", ["topk", "dense"])
def test_top_k_is_refused_and_told_of_the_mixture(merge: Merge, other: str) -> None:
    values = {"a": value("topk", 2), "b": value(other, 2)}
    for attempt in (
        lambda: merge.spec("x", specs(**values)),
        lambda: merge("x", values, {}, 2),
    ):
        with pytest.raises(MergeError, match=r"'x'.*'a' serves top-k.*'mixture'"):
            attempt()


@pytest.mark.parametrize("merge", [Mean(), Sum(), Stack(), Weighted(a=1, b=1)])
def test_other_shapes_are_refused_also_where_they_would_broadcast(merge: Merge) -> None:
    values: dict[str, Value] = {"a": torch.zeros(2, 3), "b": torch.zeros(2, 1)}
    with pytest.raises(MergeError, match=r"'x'.*\(3,\).*\(1,\)"):
        merge.spec("x", specs(**values))
    with pytest.raises(MergeError, match=r"'x'.*3.*1"):
        merge("x", values, {}, 2)


def test_concat_needs_a_last_dimension_and_equal_others() -> None:
    for a, b in ((torch.zeros(2), torch.zeros(2)), (torch.zeros(2, 3, 1), torch.zeros(2, 4, 1))):
        with pytest.raises(MergeError, match="differ in their last dimension only"):
            Concat().spec("x", specs(a=a, b=b))


@pytest.mark.parametrize("merge", [Mean(), Sum(), Concat(), Stack(), Mixture()])
def test_a_teacher_that_answered_some_rows_only_is_never_merged_silently(merge: Merge) -> None:
    values: dict[str, Value] = {"a": torch.zeros(4, 2), "b": torch.zeros(3, 2)}
    with pytest.raises(MergeError, match="'b' answered 3 of 4 samples"):
        merge("x", values, {"a": None, "b": torch.tensor([0, 1, 3])}, 4)


def test_ragged_fields_merge_row_by_row() -> None:
    lengths = torch.tensor([2, 0, 1])
    a, b = (Ragged(torch.full((3, 2), float(i)), lengths) for i in (1, 3))
    assert merged(Mean(), a=a, b=b).equal(torch.full((3, 2), 2.0))
    assert merged(Stack(), a=a, b=b).shape == (3, 2, 2)
    assert merged(Concat(), a=a, b=b).shape == (3, 4)


def test_ragged_fields_of_other_lengths_are_refused_by_sample() -> None:
    a = Ragged(torch.zeros(3), torch.tensor([2, 0, 1]))
    b = Ragged(torch.zeros(3), torch.tensor([2, 1, 0]))
    with pytest.raises(MergeError, match="sample 1 of the batch has 0 rows from teacher 'a' and 1"):
        Mean()("x", {"a": a, "b": b}, {}, 3)
    with pytest.raises(MergeError, match="one is ragged, one dense"):
        Mean()("x", {"a": a, "b": torch.zeros(3)}, {}, 3)
    with pytest.raises(MergeError, match="ragged is 'rows' at teacher 'a' and None at 'b'"):
        Mean().spec("x", specs(a=a, b=torch.zeros(3)))


def test_fields_whose_classes_have_other_names_are_not_averaged() -> None:
    a, b = (spec_for("x", None, torch.zeros(1, 2), labels=name) for name in ("coco", "voc"))
    with pytest.raises(MergeError, match="labels is 'coco' at teacher 'a' and 'voc' at 'b'"):
        Mean().spec("x", {"a": a, "b": b})


@pytest.mark.parametrize("merge", [Weighted, Mixture])
def test_weights_must_name_exactly_the_teachers(merge: type[Weighted] | type[Mixture]) -> None:
    served = specs(a=torch.zeros(2, 3), b=torch.zeros(2, 3))
    with pytest.raises(MergeError, match="'b' has no weight; its teachers are a, b"):
        merge(a=1.0).spec("x", served)
    with pytest.raises(MergeError, match="'c' has a weight but does not serve it"):
        merge(a=1.0, b=1.0, c=1.0).spec("x", served)


def test_weights_must_be_numbers_that_make_sense() -> None:
    bad: list[tuple[type[Weighted] | type[Mixture], dict[str, Any]]] = [
        (Weighted, {}),
        (Weighted, {"a": float("nan")}),
        (Weighted, {"a": "x"}),
        (Mixture, {"a": -1.0}),
        (Mixture, {"a": "x"}),
    ]
    for merge, weights in bad:
        with pytest.raises(MergeError, match="weights must be"):
            merge(weights)


def test_a_function_merges_what_it_likes() -> None:
    second = Custom(lambda v: v["b"])
    assert merged(second, a=torch.tensor([1.0]), b=torch.tensor([2.0])).tolist() == [2.0]


def test_a_function_may_take_and_give_top_k_and_ragged() -> None:
    first = Custom(lambda v: v["a"])
    for kind in ("topk", "ragged-topk", "ragged-dense"):
        values = {"a": value(kind, 3), "b": value("dense", 3)}
        served = {t: spec_for("x", None, v) for t, v in values.items()}
        assert first.spec("x", served).shape == served["a"].shape
        assert first("x", values, {}, 3) is values["a"]
    mixed = Custom(lambda v: Mixture()("x", v, {}, 2))
    topk: dict[str, Value] = {t: top_k(logits(2, 5, seed=i), 2) for i, t in enumerate("ab")}
    assert mixed.spec("x", specs(**topk)).shape == (5,)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda v: v["a"][:1], "returned 1 rows for 2 samples"),
        (lambda v: v["a"].sum(), "returned a scalar tensor"),
        (lambda v: 3, "returned a int"),
        (lambda v: v["missing"], "raised KeyError: 'missing'"),
    ],
)
def test_a_function_that_fails_is_named_with_its_field(function: object, message: str) -> None:
    merge = parse_merge(function)  # type: ignore[arg-type]
    with pytest.raises(MergeError, match=f"'x'.*lambda.*{message}"):
        merge("x", {"a": torch.zeros(2)}, {}, 2)
    with pytest.raises(MergeError, match=f"'x'.*lambda.*{message}"):
        merge.spec("x", specs(a=torch.zeros(2)))


@pytest.mark.parametrize("name", ["mean", "sum", "concat", "stack", "mixture"])
def test_merges_are_found_by_name(name: str) -> None:
    merge = parse_merge(name)
    assert merge.name == name
    assert parse_merge(merge) is merge


def test_a_merge_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match="'average'; expected mean, sum"):
        parse_merge("average")
    with pytest.raises(ConfigError, match=r"write Weighted\("):
        parse_merge("weighted")
    with pytest.raises(ConfigError, match="found int"):
        parse_merge(3)  # type: ignore[arg-type]


def test_a_mixture_of_dense_logits_is_the_mean_of_their_probabilities() -> None:
    a, b = logits(3, 5), logits(3, 5, seed=1)
    out = merged(Mixture(a=3.0, b=1.0), a=a, b=b)
    assert torch.allclose(out.softmax(-1), 0.75 * a.softmax(-1) + 0.25 * b.softmax(-1))
    assert torch.allclose(out.exp().sum(-1), torch.ones(3))


def test_a_mixture_refuses_top_k_with_dense_and_other_classes() -> None:
    topk = value("topk", 2)
    assert isinstance(topk, TopKLogits)
    dense = logits(2, 9)
    with pytest.raises(MergeError, match="'a' serves top-k and 'b' dense logits"):
        Mixture().spec("x", specs(a=topk, b=dense))
    with pytest.raises(MergeError, match="'a' serves top-k and 'b' dense logits"):
        Mixture()("x", {"a": topk, "b": dense}, {}, 2)
    with pytest.raises(MergeError, match="same classes and rows"):
        Mixture()("x", {"a": topk, "b": top_k(logits(2, 8), 3)}, {}, 2)
    with pytest.raises(MergeError, match="no logits"):
        Mixture().spec("x", specs(a=torch.zeros(2, 3).int(), b=torch.zeros(2, 3).int()))


def test_a_mixture_needs_a_common_temperature() -> None:
    values: dict[str, Value] = {
        "a": top_k(logits(2, 9), 3, (1.0,)),
        "b": top_k(logits(2, 9), 3, (2.0,)),
    }
    with pytest.raises(MergeError, match="no common temperature"):
        Mixture().spec("x", specs(**values))
    with pytest.raises(MergeError, match="no common temperature"):
        Mixture()("x", values, {}, 2)
