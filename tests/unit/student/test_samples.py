"""The student's own samples, however they are read and collated."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import default_collate

from pantheon.errors import DatasetError
from pantheon.order import Order
from student_client.itinerary import Itinerary
from student_client.samples import Pairing, Samples

PAIRS = [(torch.tensor([float(i)]), i) for i in range(7)]
DICTS = [{"text": [i, i], "label": i} for i in range(7)]


def read(dataset: Any, **options: Any) -> list[tuple[Any, Any]]:
    samples = Samples(dataset, Itinerary(Order(len(dataset), 3)), **options)
    try:
        return list(samples.begin(0, 0))
    finally:
        samples.close()


def test_pairs_are_inputs_and_targets() -> None:
    (inputs, targets), *_, (_, last) = read(PAIRS)
    assert inputs.tolist() == [[0.0], [1.0], [2.0]]
    assert targets.tolist() == [0, 1, 2]
    assert last.tolist() == [6]


def test_dicts_are_inputs_by_name_and_their_label() -> None:
    (inputs, targets), *_ = read(DICTS)
    assert inputs["text"].tolist() == [[0, 0], [1, 1], [2, 2]]
    assert targets.tolist() == [0, 1, 2]


def test_samples_without_targets_have_none() -> None:
    (inputs, targets), *_ = read([1.0, 2.0, 3.0])
    assert inputs.tolist() == [1.0, 2.0, 3.0]
    assert targets is None


@pytest.mark.parametrize(
    ("collate_fn", "inputs", "targets"),
    [
        (list, PAIRS[:2], None),
        (len, 2, None),
        (lambda items: (len(items), "targets"), 2, "targets"),
        (lambda items: (1, 2, 3), (1, 2, 3), None),
    ],
)
def test_a_tuple_of_two_is_inputs_and_targets_and_nothing_else_is(
    collate_fn: Any, inputs: Any, targets: Any
) -> None:
    assert Pairing(collate_fn)(PAIRS[:2]) == (inputs, targets)


def test_what_torch_makes_of_pairs_is_a_pair() -> None:
    inputs, targets = Pairing(default_collate)(PAIRS[:2])
    assert (inputs.tolist(), targets.tolist()) == ([[0.0], [1.0]], [0, 1])


class Batched(list[Any]):
    """Reads many samples at once, as Hugging Face's datasets do."""

    asked: list[list[int]]

    def __getitems__(self, ids: list[int]) -> list[Any]:
        self.asked.append(ids)
        return [self[i] for i in ids]


def test_a_dataset_that_reads_many_at_once_is_asked_so() -> None:
    dataset = Batched(PAIRS)
    dataset.asked = []
    read(dataset)
    assert dataset.asked == [[0, 1, 2], [3, 4, 5], [6]]


def test_an_epoch_can_be_begun_at_any_step() -> None:
    samples = Samples(PAIRS, Itinerary(Order(7, 3)))
    assert [t.tolist() for _, t in samples.begin(0, 1)] == [[3, 4, 5], [6]]
    assert [t.tolist() for _, t in samples.begin(1, 2)] == [[6]]


def test_reading_samples_draws_nothing_from_the_users_random_numbers() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    read(PAIRS)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_cannot_be_handed_to_spawned_workers_is_refused_and_named() -> None:
    with pytest.raises(DatasetError, match="num_workers=0"):
        read(PAIRS, num_workers=1, collate_fn=lambda items: items, sockets=True)
