"""Datasets: what they must offer, what teachers see, and when two are the same."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import IterableDataset, TensorDataset

from pantheon.dataset import Ids, check_map_style, collate, fingerprint, inputs_only, read
from pantheon.errors import DatasetError, IdOutOfRange
from tests.integration.models import Augmented, Vectors


class Endless(IterableDataset[int]):
    """Samples without ids."""

    def __iter__(self) -> Iterator[int]:
        return iter(range(3))


def test_an_iterable_dataset_is_told_what_a_map_style_one_has() -> None:
    with pytest.raises(DatasetError, match="map-style dataset with __len__"):
        check_map_style(Endless())


def test_an_empty_dataset_is_refused() -> None:
    with pytest.raises(DatasetError, match="0 samples"):
        check_map_style([])


@pytest.mark.parametrize("bad", [-1, 3])
def test_an_id_out_of_range_is_named_with_the_range(bad: int) -> None:
    with pytest.raises(IdOutOfRange, match=rf"id {bad} .* 0 to 2"):
        read([1, 2, 3], bad)


def test_a_view_of_a_dataset_without_views_says_what_is_missing() -> None:
    with pytest.raises(DatasetError, match=r"no get\(id, view\)"):
        read({0: "a", 1: "b"}, 0, 5)


def test_a_view_reaches_the_dataset() -> None:
    data = Augmented()
    assert torch.equal(read(data, 3, 2)[0], data.rows[3] + 2)
    assert torch.equal(read(data, 3)[0], data.rows[3])


def test_a_sample_that_cannot_be_read_is_named() -> None:
    class Broken(Vectors):
        def __getitem__(self, i: int) -> Any:
            raise KeyError("file gone")

    with pytest.raises(DatasetError, match=r"sample 7 .*KeyError: 'file gone'"):
        read(Broken(), 7)


@pytest.mark.parametrize("key", ["label", "labels", "target", "targets"])
def test_a_teacher_never_sees_labels(key: str) -> None:
    assert inputs_only({"x": 1, key: 2}) == {"x": 1}


def test_a_tuple_of_three_is_asked_to_say_what_it_is() -> None:
    with pytest.raises(DatasetError, match="tuple of 3"):
        inputs_only((1, 2, 3))


def test_fingerprints_tell_inputs_apart_and_ignore_labels() -> None:
    rows = torch.arange(12.0).view(4, 3)
    base = fingerprint(TensorDataset(rows, torch.zeros(4)))
    assert base == fingerprint(TensorDataset(rows, torch.ones(4))) == fingerprint(list(rows))
    assert base == fingerprint(list(rows.numpy()))
    changed = rows.clone()
    changed[3, 2] += 1e-6 * 11
    others = [list(changed), list(rows[:3]), list(rows.double()), list(rows.view(4, 1, 3))]
    assert len({base, *map(fingerprint, others)}) == 5


def test_the_canonical_encoding_does_not_change() -> None:
    sample = {"b": [1, 2.5, None, "é"], "a": np.array([[1, 2]], np.int16)}
    assert fingerprint([sample] * 3) == "3-04dab8d365f49f86"


def test_a_stated_fingerprint_and_a_hugging_face_datasets_own_are_taken() -> None:
    class Arrow(Vectors):
        _fingerprint = "abc"

    assert fingerprint(Arrow()) == "abc"
    assert fingerprint(Endless(), "mine") == "mine"


def test_a_dataset_that_is_random_inside_is_found_out() -> None:
    class Random(Vectors):
        def __getitem__(self, i: int) -> Any:
            return self.rows[i] + random.random(), i

    with pytest.raises(DatasetError, match="read twice gave different inputs"):
        fingerprint(Random())


def test_what_has_no_encoding_asks_for_a_stated_fingerprint() -> None:
    with pytest.raises(DatasetError, match="dataset_fingerprint="):
        fingerprint([object()])


def test_a_large_dataset_is_fingerprinted_by_a_few_of_its_samples() -> None:
    reads = []

    class Counting(Vectors):
        def __len__(self) -> int:
            return 10**8

        def __getitem__(self, i: int) -> Any:
            reads.append(i)
            return i

    fingerprint(Counting())
    assert len(set(reads)) == 64
    assert {0, 10**8 - 1} <= set(reads)


def test_lists_of_numbers_as_hugging_face_gives_them_become_rows() -> None:
    batch = collate([{"input_ids": [1, 2, 3], "text": "a"}, {"input_ids": [4, 5, 6], "text": "b"}])
    assert batch["input_ids"].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert batch["text"] == ["a", "b"]


def test_read_only_arrays_are_collated_without_a_warning() -> None:
    array = np.arange(3.0)
    array.flags.writeable = False
    assert collate([array, array]).shape == (2, 3)


def test_samples_of_different_length_point_at_buckets() -> None:
    with pytest.raises(DatasetError, match="buckets="):
        collate([torch.zeros(2), torch.zeros(3)])


def test_ids_are_their_own_samples() -> None:
    ids = Ids(5)
    assert [ids[i] for i in range(5)] == list(range(5))
    with pytest.raises(IdOutOfRange):
        ids[5]
