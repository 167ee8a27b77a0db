"""Top-k keeps the largest logits exactly and the mass of the rest at each declared temperature."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pantheon.codec import TopK, decode, encode, spec_for, top_k
from pantheon.errors import CodecError, UndeclaredTemperature
from pantheon.knowledge import TopKLogits, TopKMixture
from pantheon.schema import KnowledgeSchema
from tests.unit.values import logits, same, value

numbers = st.floats(-1e4, 1e4, width=32)


def through(codec: str | TopK | None, given: Tensor | TopKLogits) -> TopKLogits:
    schema = KnowledgeSchema((spec_for("x", codec, given),))
    back = decode(schema, encode(schema, {"x": given}))["x"]
    assert isinstance(back, TopKLogits)
    return back


@given(
    st.lists(st.lists(numbers, min_size=7, max_size=7), min_size=1, max_size=4),
    st.integers(1, 9),
    st.lists(st.floats(0.1, 20), min_size=1, max_size=3),
)
def test_kept_logits_are_exact_and_the_tail_is_that_of_the_others(
    rows: list[list[float]], k: int, temperatures: list[float]
) -> None:
    whole = torch.tensor(rows)
    top = through(TopK(k, temperatures), whole)
    assert top.values.equal(whole.sort(descending=True).values[:, :k])
    assert top.values.equal(whole.gather(1, top.indices.long()))
    for temperature in top.temperatures:
        heated = whole.double() / temperature
        rest = heated.scatter(1, top.indices.long(), -math.inf).logsumexp(1)
        error = (top.tail_at(temperature).double() - rest).abs().nan_to_num()
        assert bool((error <= 1e-6 * heated.abs().amax(1) + 1e-5).all())


@given(st.integers(0, 1000), st.integers(1, 9), st.sampled_from([1.0, 2.0, 4.0]))
def test_probabilities_are_those_of_the_whole_logits(seed: int, k: int, temperature: float) -> None:
    whole = logits(3, 7, seed=seed)
    top = through(TopK(k, (1, 2, 4)), whole)
    kept, tail = top.probs_at(temperature)
    exact = (whole.double() / temperature).softmax(1)
    here = exact.gather(1, top.indices.long())
    assert torch.allclose(kept.double(), here, atol=1e-6)
    assert torch.allclose(tail.double(), 1 - here.sum(1), atol=1e-6)


def test_a_tail_far_below_the_kept_logits_is_not_lost_to_cancellation() -> None:
    # One minus the kept probability would be 0 in float32; the tail is e**-60 of them.
    whole = torch.tensor([[60.0, 0.0, 0.0]])
    top = through("topk:1", whole)
    assert top.tail_at(1).item() == pytest.approx(math.log(2))
    assert top.probs_at(1)[1].item() == pytest.approx(2 * math.exp(-60), rel=1e-5)


@pytest.mark.parametrize("k", [5, 6, 1000])
def test_with_every_class_kept_nothing_is_left(k: int) -> None:
    whole = logits(2, 5)
    top = through(f"topk:{k}@1,4", whole)
    assert bool((top.tail == -math.inf).all())
    kept, tail = top.probs_at(4)
    assert tail.tolist() == [0.0, 0.0]
    assert torch.allclose(
        torch.zeros(2, 5).scatter(1, top.indices.long(), kept), (whole / 4).softmax(1)
    )


@pytest.mark.parametrize("shape", [(3, 9), (2, 4, 9), (2, 3, 4, 9)])
def test_leading_dimensions_stay(shape: tuple[int, ...]) -> None:
    top = through("topk:2@1,2", logits(*shape))
    assert top.values.shape == top.indices.shape == (*shape[:-1], 2)
    assert top.tail.shape == (*shape[:-1], 2)
    assert (top.values.dtype, top.indices.dtype) == (torch.float32, torch.int32)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_kept_logits_in_half_precision_stay_within_their_bound(dtype: str) -> None:
    whole = logits(4, 9)
    codec = TopK(3, dtype=dtype)
    kept, exact = through(codec, whole).values, whole.topk(3).values
    assert bool(((kept.double() - exact).abs() <= codec.bound(exact)).all())
    with pytest.raises(CodecError, match="'x' has the value 1e"):
        spec_for("x", TopK(1, dtype=dtype), torch.tensor([[1e39, 0]], dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_floating_dtype_has_its_top_k(dtype: torch.dtype) -> None:
    whole = logits(3, 9).to(dtype)
    assert through("topk:9", whole).values.equal(whole.sort(descending=True).values.float())


def test_masked_logits_keep_their_minus_infinity() -> None:
    top = through("topk:2", torch.tensor([[1.0, -math.inf, -math.inf, -math.inf]]))
    assert top.values.tolist() == [[1.0, -math.inf]]
    assert top.tail.tolist() == [[-math.inf]]
    assert top.probs_at(1)[0].tolist() == [[1.0, 0.0]]


def test_top_k_that_the_teacher_computed_travels_as_it_is() -> None:
    own = top_k(logits(3, 9), 4, (1.0, 2.0))
    assert same(through("topk:4@1,2", own), own)
    assert same(through(None, own), own)
    narrowed = through("topk:4@2", own)
    assert narrowed.tail[:, 0].equal(own.tail[:, 1])


def test_top_k_without_a_declared_temperature_is_refused() -> None:
    with pytest.raises(UndeclaredTemperature, match=r"'x' declares temperature 4.* 1, 2 only"):
        spec_for("x", "topk:4@1,4", top_k(logits(3, 9), 4, (1.0, 2.0)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": 8}, "top-k of 8 classes"),
        ({"values": torch.zeros(3, 3)}, "values, indices and tail"),
        ({"indices": torch.zeros(2, 4, dtype=torch.int32)}, "values, indices and tail"),
        ({"indices": torch.full((3, 4), 9, dtype=torch.int32)}, "from 9 to 9; expected 0 to 8"),
        ({"indices": torch.full((3, 4), -1, dtype=torch.int32)}, "from -1 to -1"),
        ({"indices": torch.zeros(3, 4)}, "indices of torch.float32"),
        ({"tail": torch.zeros(3, 2)}, "values, indices and tail"),
    ],
)
def test_top_k_that_is_not_what_its_field_says_is_refused(
    change: dict[str, object], message: str
) -> None:
    own = top_k(logits(3, 9), 4)
    spec = spec_for("x", "topk:4", logits(3, 9))
    with pytest.raises(CodecError, match=f"'x'.*{message}"):
        TopK(4).encode(replace(own, **change), spec)  # type: ignore[arg-type]


def test_indices_beyond_the_classes_are_refused_on_arrival() -> None:
    spec = spec_for("x", "topk:2", logits(1, 9))
    parts = TopK(2).encode(logits(1, 9), spec)
    parts[1][0, 1] = 9
    with pytest.raises(CodecError, match=r"'x' has top-k indices from .* to 9; expected 0 to 8"):
        TopK(2).decode(parts, spec)


def test_a_mixture_is_never_coded() -> None:
    mixture = value("mixture", 2)
    assert isinstance(mixture, TopKMixture)
    with pytest.raises(CodecError, match="merged value"):
        spec_for("x", "topk:2", mixture)
    with pytest.raises(CodecError, match="cannot send a TopKMixture"):
        TopK(2).encode(mixture, spec_for("x", "topk:2", logits(1, 9)))


def test_top_k_needs_a_top_k_codec() -> None:
    with pytest.raises(CodecError, match="'x' has the codec float16; expected a tensor"):
        spec_for("x", "float16", top_k(logits(3, 9), 4))


def test_decoding_shares_the_memory_of_its_parts() -> None:
    spec = spec_for("x", "topk:2", logits(3, 9))
    parts = TopK(2).encode(logits(3, 9), spec)
    top = TopK(2).decode(parts, spec)
    assert isinstance(top, TopKLogits)
    assert [t.data_ptr() for t in (top.values, top.indices, top.tail)] == [
        p.data_ptr() for p in parts
    ]
