"""The student's own samples, however they are read and collated."""

from __future__ import annotations

import random
from collections import UserDict
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from pantheon.errors import ConfigError, DatasetError
from pantheon.sampling.itinerary import Itinerary
from pantheon.sampling.order import Order
from pantheon.sampling.reading import Reader
from pantheon.sampling.samples import Pairing, Samples, pinned, should_pin

PAIRS = [(torch.tensor([float(i)]), i) for i in range(7)]
DICTS = [{"text": [i, i], "label": i} for i in range(7)]


class NamedTuplePair(NamedTuple):
    """Two inputs with names."""

    left: torch.Tensor
    right: torch.Tensor


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


class Encoding(UserDict[str, Any]):
    """A mapping that is no dict, as the collators of Hugging Face's transformers return."""


@pytest.mark.parametrize("kind", [dict, Encoding])
def test_the_labels_of_a_collated_mapping_are_the_targets(kind: Any) -> None:
    def collate(items: list[dict[str, Any]]) -> Any:
        text = torch.tensor([item["text"] for item in items])
        return kind(text=text, labels=torch.tensor([item["label"] for item in items]))

    (inputs, targets), *_ = read(DICTS, collate_fn=collate)
    assert list(inputs) == ["text"]
    assert targets.tolist() == [0, 1, 2]
    shown = Reader(DICTS, collate).batch(np.arange(3), None)
    assert list(shown) == ["text"], "a teacher never sees labels"
    assert torch.equal(shown["text"], inputs["text"])


def test_a_teacher_takes_apart_what_is_collated_as_its_student_does() -> None:
    inputs, targets = Pairing(list)(PAIRS[:2])
    assert targets is None
    assert Reader(PAIRS, list).batch(np.arange(2), None) == inputs == PAIRS[:2]


def test_pinning_reaches_every_tensor_of_any_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    reached: list[Any] = []
    monkeypatch.setattr(
        torch.Tensor, "pin_memory", lambda tensor: reached.append(tensor.item()) or tensor
    )
    one, two, three, four = map(torch.tensor, (1, 2, 3, 4))
    pair = NamedTuplePair(three, four)
    made = pinned((Encoding(a=one, b="text"), [two, ["t", "u"]], pair))
    assert reached == [1, 2, 3, 4]
    assert made[0]["b"] == "text"
    assert made[1][1] == ["t", "u"]
    assert type(made[2]) is NamedTuplePair


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to pin memory for")
def test_pinned_memory_without_a_gpu_is_refused_at_once() -> None:
    assert should_pin(None) is False
    with pytest.raises(ConfigError, match="pin_memory=True, but torch finds no GPU"):
        should_pin(True)


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


def drawn(items: list[Any]) -> torch.Tensor:
    """Numbers that are other ones for every batch."""
    return torch.tensor([torch.rand(1).item(), random.random(), np.random.rand()])


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_draw_the_same_for_a_batch_after_a_resume_and_in_any_number(
    num_workers: int,
) -> None:
    itinerary = Itinerary(Order(7, 2))

    def epoch(workers: int, step: int) -> list[list[float]]:
        samples = Samples(PAIRS, itinerary, num_workers=workers, collate_fn=drawn, sockets=False)
        made = [inputs.tolist() for inputs, _ in samples.begin(1, step)]
        samples.close()
        return made

    whole = epoch(2, 0)
    assert len({tuple(numbers) for numbers in whole}) == 4
    assert epoch(num_workers, 2) == whole[2:]
