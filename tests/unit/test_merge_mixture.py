"""The mixture of top-k knowledge loses no mass and stays within its stated bound."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pantheon.codec import spec_for, top_k
from pantheon.knowledge import Ragged, TopKLogits, TopKMixture, Value
from pantheon.merge import Mixture
from tests.unit.values import logits, same

CLASSES = 9


@st.composite
def teachers(draw: st.DrawFn) -> list[tuple[float, Tensor, TopKLogits]]:
    """Weight, whole logits and top-k of one to three teachers, two rows each."""
    found = []
    for i in range(draw(st.integers(1, 3))):
        seed, scale = draw(st.integers(0, 10_000)), draw(st.sampled_from([0.1, 1.0, 5.0, 30.0]))
        whole = logits(2, CLASSES, seed=seed, scale=scale)
        weight = draw(st.floats(0.05, 1))
        k = draw(st.integers(1, CLASSES + 1))
        found.append((weight, whole, top_k(whole, k, (1.0, 4.0 + i, 3.0))))
    return found


def mixture_of(parts: list[tuple[float, Tensor, TopKLogits]]) -> TopKMixture:
    weights = {f"t{i}": w for i, (w, _, _) in enumerate(parts)}
    values: dict[str, Value] = {f"t{i}": top for i, (_, _, top) in enumerate(parts)}
    out = Mixture(weights)("logits", values, {}, 2)
    assert isinstance(out, TopKMixture)
    return out


def spread(row_indices: Tensor, row_probs: Tensor) -> dict[int, float]:
    """Probability by class, padding left out."""
    pairs = zip(row_indices.tolist(), row_probs.tolist(), strict=True)
    return {c: p for c, p in pairs if c >= 0}


def bound_of(
    parts: list[tuple[float, Tensor, TopKLogits]], row: int, union: set[int], temperature: float
) -> float:
    """The total variation distance that `TopKMixture` states."""
    total, bound = sum(w for w, _, _ in parts), 0.0
    for w, _, top in parts:
        kept, tail = top.probs_at(temperature)
        unseen = len(union - set(top.indices[row].tolist()))
        bound += w / total * min(tail[row].item(), unseen * kept[row].min().item())
    return bound


@given(teachers(), st.sampled_from([1.0, 3.0]))
def test_the_mixture_is_within_its_bound_of_the_true_one(
    parts: list[tuple[float, Tensor, TopKLogits]], temperature: float
) -> None:
    mixture = mixture_of(parts)
    total = sum(w for w, _, _ in parts)
    probs, left = mixture.probs_at(temperature)
    true = torch.stack([w / total * (x.double() / temperature).softmax(1) for w, x, _ in parts])
    for row in range(2):
        ours = spread(mixture.indices[row], probs[row])
        union = set(ours)
        truth = true.sum(0)[row].tolist()
        rounding = 1e-6 * (1 + max(x[row].abs().max().item() for _, x, _ in parts) / temperature)
        assert union == {c for _, _, top in parts for c in top.indices[row].tolist()}
        assert all(truth[c] - p >= -rounding for c, p in ours.items())
        missed = sum(truth[c] - p for c, p in ours.items())
        beyond = abs(sum(p for c, p in enumerate(truth) if c not in union) - left[row].item())
        bound = bound_of(parts, row, union, temperature)
        assert (missed + beyond) / 2 <= bound + rounding * CLASSES
        assert bound <= left[row].item() + rounding * CLASSES


@given(teachers(), st.sampled_from([1.0, 3.0]))
def test_spreading_the_mass_left_stays_within_the_same_bound(
    parts: list[tuple[float, Tensor, TopKLogits]], temperature: float
) -> None:
    mixture = mixture_of(parts)
    probs, outside = mixture.spread_at(temperature)
    total = sum(w for w, _, _ in parts)
    true = sum(w / total * (x.double() / temperature).softmax(1) for w, x, _ in parts)
    assert isinstance(true, Tensor)
    for row in range(2):
        ours, truth = spread(mixture.indices[row], probs[row]), true[row].tolist()
        rest = sum(p for c, p in enumerate(truth) if c not in ours)
        away = sum(abs(truth[c] - p) for c, p in ours.items()) + abs(rest - outside[row].item())
        rounding = 1e-6 * (1 + max(x[row].abs().max().item() for _, x, _ in parts) / temperature)
        assert away / 2 <= bound_of(parts, row, set(ours), temperature) + rounding * CLASSES
        assert sum(ours.values()) + outside[row].item() == pytest.approx(1, abs=1e-5)
        if len(ours) == CLASSES:
            assert outside[row] == 0


def test_teachers_that_keep_the_same_classes_need_no_spreading() -> None:
    topk = top_k(logits(2, CLASSES), 4)
    mixture = mixture_of([(0.5, torch.empty(0), topk), (0.5, torch.empty(0), topk)])
    kept, tail = topk.probs_at(1)
    ours, outside = mixture.spread_at(1)
    assert torch.allclose(ours.sort(descending=True).values, kept, atol=1e-6)
    assert torch.allclose(outside, tail, atol=1e-6)


@given(teachers())
def test_all_the_mass_is_kept(parts: list[tuple[float, Tensor, TopKLogits]]) -> None:
    mixture = mixture_of(parts)
    total = mixture.probs.sum(-1) + mixture.left
    assert torch.allclose(total, torch.ones_like(total), atol=1e-5)


def test_only_temperatures_that_all_teachers_declared_are_kept() -> None:
    a, b = top_k(logits(2, 9), 3, (1.0, 2.0, 4.0)), top_k(logits(2, 9, seed=1), 3, (4.0, 1.0))
    assert mixture_of([(1.0, logits(2, 9), a), (1.0, logits(2, 9), b)]).temperatures == (1.0, 4.0)


def test_with_every_class_kept_the_mixture_is_exact() -> None:
    a, b = logits(2, CLASSES), logits(2, CLASSES, seed=1)
    mixture = mixture_of([(0.7, a, top_k(a, 9)), (0.3, b, top_k(b, 9))])
    assert mixture.indices.tolist() == [list(range(CLASSES))] * 2
    assert torch.allclose(mixture.probs_at(1)[0], 0.7 * a.softmax(1) + 0.3 * b.softmax(1))
    assert mixture.probs_at(1)[1].tolist() == [0.0, 0.0]


def test_rows_with_smaller_unions_are_padded() -> None:
    a = top_k(torch.tensor([[5.0, 0.0, 0.0], [5.0, 0.0, 0.0]]), 1)
    b = top_k(torch.tensor([[5.0, 0.0, 0.0], [0.0, 0.0, 5.0]]), 1)
    mixture = mixture_of([(0.5, torch.empty(0), a), (0.5, torch.empty(0), b)])
    assert mixture.indices.tolist() == [[0, -1], [0, 2]]
    assert mixture.probs[0, 0, 1] == 0


def test_leading_dimensions_and_ragged_rows_stay() -> None:
    whole = logits(2, 3, CLASSES), logits(2, 3, CLASSES, seed=1)
    deep = Mixture()("x", {t: top_k(w, 2) for t, w in zip("ab", whole, strict=True)}, {}, 2)
    flat = Mixture()(
        "x", {t: top_k(w.view(6, -1), 2) for t, w in zip("ab", whole, strict=True)}, {}, 6
    )
    assert isinstance(deep, TopKMixture)
    assert isinstance(flat, TopKMixture)
    assert deep.probs.shape == (2, 3, 1, flat.k)
    assert deep.probs.view(6, 1, -1).equal(flat.probs)
    lengths = torch.tensor([4, 2])
    packed = {t: Ragged(top_k(w.view(6, -1), 2), lengths) for t, w in zip("ab", whole, strict=True)}
    ragged = Mixture()("x", packed, {}, 2)
    assert isinstance(ragged, Ragged)
    assert same(ragged.values, flat)


def test_how_batches_are_cut_changes_no_probability() -> None:
    tops = {t: top_k(logits(6, 30, seed=i), 4, (1.0, 2.0)) for i, t in enumerate("ab")}
    whole = Mixture()("x", dict(tops), {}, 6)
    parts = [Mixture()("x", {t: v[i : i + 2] for t, v in tops.items()}, {}, 2) for i in (0, 2, 4)]
    assert isinstance(whole, TopKMixture)
    joined = TopKMixture.concat([p for p in parts if isinstance(p, TopKMixture)])
    assert same(joined, whole)


def test_the_merged_specification_says_what_it_holds() -> None:
    served = {t: spec_for("x", "topk:3@1,2", logits(1, 9)) for t in "ab"}
    spec = Mixture().spec("x", served)
    assert (spec.codec, spec.shape, spec.dtype) == ("mixture:6@1,2", (9,), "float32")
