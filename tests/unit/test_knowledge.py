"""Knowledge is cut, joined and picked without losing or mixing a row, whatever its values are."""

from __future__ import annotations

from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pantheon.errors import SchemaError, UndeclaredTemperature
from pantheon.knowledge import (
    Knowledge,
    Ragged,
    TopKLogits,
    TopKMixture,
    concat_values,
    map_value,
    slice_value,
    split_value,
    take_value,
    value_rows,
)
from tests.unit.values import KINDS, logits, same, tensors_of, value

kinds = st.sampled_from(KINDS)


@given(kinds, st.integers(1, 9), st.integers(1, 10))
def test_split_values_join_to_the_same_bits(kind: str, n: int, batch: int) -> None:
    whole = value(kind, n)
    parts = split_value(whole, batch)
    assert [value_rows(p) for p in parts] == [min(batch, n - a) for a in range(0, n, batch)]
    assert same(concat_values(parts), whole)


@given(kinds, st.integers(1, 9), st.data())
def test_a_slice_has_the_rows_that_taking_them_gives(
    kind: str, n: int, data: st.DataObject
) -> None:
    whole = value(kind, n)
    start = data.draw(st.integers(0, n))
    stop = data.draw(st.integers(start, n))
    part = slice_value(whole, start, stop)
    assert same(part, take_value(whole, torch.arange(start, stop)))


@given(kinds, st.integers(1, 9), st.randoms())
def test_taking_a_permutation_and_its_inverse_changes_nothing(
    kind: str, n: int, random: Random
) -> None:
    order = list(range(n))
    random.shuffle(order)
    there = torch.tensor(order)
    whole = value(kind, n)
    assert same(take_value(take_value(whole, there), there.argsort()), whole)


@pytest.mark.parametrize("kind", KINDS)
def test_slices_are_views(kind: str) -> None:
    whole = value(kind, 6)
    for part in (slice_value(whole, 2, 5), split_value(whole, 3)[1]):
        storages = {t.untyped_storage().data_ptr() for t in tensors_of(whole)}
        assert {t.untyped_storage().data_ptr() for t in tensors_of(part)} <= storages


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_part_is_returned_as_it_is(kind: str) -> None:
    whole = value(kind, 3)
    assert concat_values([whole]) is whole


@pytest.mark.parametrize("kind", KINDS)
def test_every_tensor_of_a_value_moves(kind: str) -> None:
    moved = map_value(value(kind, 3), lambda t: t.to("meta"))
    assert all(t.is_meta for t in tensors_of(moved))


@pytest.mark.parametrize(
    ("a", "b"), [("dense", "topk"), ("topk", "mixture"), ("dense", "ragged-dense")]
)
def test_values_of_different_kinds_are_not_joined(a: str, b: str) -> None:
    with pytest.raises(SchemaError, match="cannot be joined"):
        concat_values([value(a, 2), value(b, 2)])


def test_top_k_of_other_temperatures_or_classes_is_not_joined() -> None:
    one = value("topk", 2)
    assert isinstance(one, TopKLogits)
    other = TopKLogits(one.values, one.indices, one.tail, (1.0, 4.0), 9)
    with pytest.raises(SchemaError, match=r"\(1.0, 2.0\).*\(1.0, 4.0\)"):
        concat_values([one, other])


def test_joined_mixtures_are_padded_to_the_widest_union() -> None:
    def tail(u: int) -> tuple[Tensor, Tensor]:
        return torch.zeros(1, 1), torch.zeros(1, 1, u)

    narrow, wide = (
        TopKMixture(torch.ones(1, 1, u), torch.arange(u).int()[None], *tail(u), (1.0,), 9)
        for u in (1, 3)
    )
    joined = TopKMixture.concat([narrow, wide])
    assert joined.indices.tolist() == [[0, -1, -1], [0, 1, 2]]
    assert joined.probs[0].tolist() == [[1.0, 0.0, 0.0]]


@pytest.mark.parametrize("kind", ["topk", "mixture"])
def test_probabilities_and_the_tail_add_up_to_one_at_each_declared_temperature(kind: str) -> None:
    top = value(kind, 5)
    assert isinstance(top, TopKLogits | TopKMixture)
    for temperature in (1.0, 2):
        kept, left = top.probs_at(temperature)
        assert torch.allclose(kept.sum(-1) + left, torch.ones(5))
        log_kept, log_left = top.log_probs_at(temperature)
        assert torch.allclose(log_kept.exp(), kept)
        assert torch.allclose(log_left.exp(), left)


@pytest.mark.parametrize("kind", ["topk", "mixture"])
def test_another_temperature_raises_and_names_the_declared_ones(kind: str) -> None:
    top = value(kind, 1)
    assert isinstance(top, TopKLogits | TopKMixture)
    with pytest.raises(UndeclaredTemperature, match=r"temperatures 1, 2, not 4"):
        top.probs_at(4)


def test_ragged_rows_are_those_of_their_sample() -> None:
    words = Ragged(torch.arange(6), torch.tensor([2, 0, 3, 1]))
    assert [words[i].tolist() for i in range(4)] == [[0, 1], [], [2, 3, 4], [5]]  # type: ignore[union-attr]
    assert words[-1].tolist() == [5]  # type: ignore[union-attr]
    assert words.offsets.tolist() == [0, 2, 2, 5, 6]
    assert words[1:3].offsets.tolist() == [0, 0, 3]
    assert same(words[::2], words.take(torch.tensor([0, 2])))
    with pytest.raises(IndexError):
        words[4]


@given(st.lists(st.integers(0, 4), min_size=1, max_size=6))
def test_padding_and_packing_are_inverse(sizes: list[int]) -> None:
    packed = Ragged(logits(sum(sizes), 2), torch.tensor(sizes))
    padded, mask = packed.padded(fill=-1.0)
    assert padded.shape == (len(sizes), max(sizes), 2)
    assert mask.sum(1).tolist() == sizes
    assert bool((padded[~mask] == -1).all())
    assert same(Ragged.from_padded(padded, packed.lengths), packed)


def test_padded_top_k_is_packed_too() -> None:
    lengths = torch.tensor([1, 3])
    whole = value("topk", 6)
    assert isinstance(whole, TopKLogits)
    padded = whole.map(lambda t: t.view(2, 3, -1))
    assert same(Ragged.from_padded(padded, lengths).values, whole[torch.tensor([0, 3, 4, 5])])


@pytest.mark.parametrize(
    "lengths",
    [[2, 2], [-1, 6], [2**63 - 1, 2**63 - 1, 7]],
    ids=["too few", "negative", "wrapping around"],
)
def test_lengths_that_do_not_fit_the_rows_are_refused(lengths: list[int]) -> None:
    with pytest.raises(SchemaError, match="lengths"):
        Ragged(torch.zeros(5), torch.tensor(lengths))


@pytest.mark.parametrize(
    "lengths", [torch.tensor([1.0]), torch.tensor([[1]]), torch.tensor([True])]
)
def test_lengths_must_be_integers_per_sample(lengths: Tensor) -> None:
    with pytest.raises(SchemaError, match=r"integers \[n\]"):
        Ragged(torch.zeros(1), lengths)


def test_padded_values_too_short_for_their_lengths_are_refused() -> None:
    with pytest.raises(SchemaError, match="up to 4 rows"):
        Ragged.from_padded(torch.zeros(2, 3), torch.tensor([1, 4]))


def test_top_k_has_no_padded_form() -> None:
    ragged = value("ragged-topk", 2)
    assert isinstance(ragged, Ragged)
    with pytest.raises(SchemaError, match="no padded form"):
        ragged.padded()


def knowledge(n: int, masked: bool = True) -> Knowledge:
    mask = {"dense": torch.arange(n) % 2 == 0} if masked else None
    fields = {kind: value(kind, n) for kind in KINDS}
    return Knowledge(torch.arange(n) * 10, fields, torch.arange(n) + 1, mask)


def same_knowledge(a: Knowledge, b: Knowledge) -> bool:
    assert a.views is not None
    assert b.views is not None
    pairs = [(a[k], b[k]) for k in a.names] + [(a.mask[k], b.mask[k]) for k in a.names]
    pairs += [(a.ids, b.ids), (a.views, b.views)]
    return a.names == b.names and all(same(x, y) for x, y in pairs)


@given(st.integers(1, 9), st.integers(1, 10))
def test_split_knowledge_joins_to_the_same(n: int, batch: int) -> None:
    whole = knowledge(n)
    parts = whole.split(batch)
    assert same_knowledge(Knowledge.concat(parts), whole)
    for i, part in enumerate(parts):
        assert same_knowledge(part, whole.slice(i * batch, (i + 1) * batch))
        assert same_knowledge(part, whole.take(torch.arange(n)[i * batch : (i + 1) * batch]))


def test_masks_are_all_true_where_nothing_was_left_out() -> None:
    two = knowledge(3)
    assert two.mask["dense"].tolist() == [True, False, True]
    assert two.mask["topk"].tolist() == [True] * 3
    assert set(two.mask) == set(two.names)


def test_an_unknown_field_is_named_with_the_known_ones() -> None:
    one = Knowledge(torch.tensor([1]), {"logits": torch.zeros(1)})
    with pytest.raises(SchemaError, match="'logit'; this knowledge has logits"):
        one["logit"]
    with pytest.raises(SchemaError, match="'logit'"):
        one.select(["logit"])
    assert "logits" in one


def test_selected_fields_keep_ids_views_and_masks() -> None:
    some = knowledge(3).select(["dense"])
    assert some.names == ("dense",)
    assert some.mask["dense"].tolist() == [True, False, True]
    assert some.views is not None


def test_views_of_parts_without_any_are_zero_when_joined() -> None:
    a = Knowledge(torch.tensor([1]), {}, torch.tensor([5]))
    b = Knowledge(torch.tensor([2]), {})
    joined = Knowledge.concat([a, b])
    assert joined.views is not None
    assert joined.views.tolist() == [5, 0]


def test_knowledge_of_other_fields_is_not_joined() -> None:
    a, b = (Knowledge(torch.tensor([1]), {name: torch.zeros(1)}) for name in "ab")
    with pytest.raises(SchemaError, match="knowledge of a cannot be joined with knowledge of b"):
        Knowledge.concat([a, b])


@pytest.mark.parametrize("what", ["field", "views", "mask"])
def test_rows_that_are_not_as_many_as_ids_are_refused(what: str) -> None:
    three, two = torch.zeros(3, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
    sized = {k: two if k == what else three for k in ("field", "views", "mask")}
    with pytest.raises(SchemaError, match=f"{what}.* 2 rows, but there are 3 sample ids"):
        Knowledge(three, {"x": sized["field"]}, sized["views"], {"x": sized["mask"]})


def test_ids_must_be_int64() -> None:
    with pytest.raises(SchemaError, match=r"int64 \[n\], found torch.int32"):
        Knowledge(torch.zeros(3, dtype=torch.int32), {})


def test_knowledge_moves_with_all_it_has() -> None:
    moved = knowledge(2).to("meta")
    assert moved.ids.is_meta
    assert moved.views is not None
    assert moved.views.is_meta
    assert all(t.is_meta for k in KINDS for t in tensors_of(moved[k]))
