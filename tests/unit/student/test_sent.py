"""What a student sends is told from what others send, without a trace in what it trains with."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pantheon.errors import DatasetError
from pantheon.sampling.reading import Reader
from student_client.sent import inputs_digest

SIZE = 1000


class Texts:
    """Sample i is i % 60 numbers; view v begins with v."""

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, i: int) -> list[int]:
        return [i] * (i % 60)

    def get(self, i: int, view: int) -> list[int]:
        return [view, *self[i]]


def padded(items: list[Any], most: int = 60, value: int = 0) -> dict[str, Tensor]:
    """Texts cut and filled up to one length."""
    rows = [(item + [value] * most)[:most] for item in items]
    return {"tokens": torch.tensor(rows), "length": torch.tensor([len(i) for i in items])}


def digest(collate: Any = padded, view: int = 0) -> str:
    return inputs_digest(Reader(Texts(), collate), SIZE, view)


def test_the_same_inputs_are_told_to_be_the_same() -> None:
    assert digest() == digest(lambda items: padded(list(items)))


@pytest.mark.parametrize(
    "other",
    [
        lambda items: padded(items, value=1),
        lambda items: padded(items, most=61),
        lambda items: padded(items, most=55),
        lambda items: {k: v.int() for k, v in padded(items).items()},
        lambda items: {f"{k}_": v for k, v in padded(items).items()},
    ],
)
def test_other_padding_cutting_dtypes_and_names_are_told_apart(other: Any) -> None:
    assert digest(other) != digest()


def test_views_are_told_apart() -> None:
    assert len({digest(view=v) for v in range(3)}) == 3


def test_looking_draws_nothing_from_the_global_generators() -> None:
    def drawing(items: list[Any]) -> dict[str, Tensor]:
        torch.rand(1), random.random(), np.random.rand()
        return padded(items)

    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    wanted = torch.rand(1), random.random(), np.random.rand()
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    digest(drawing)
    assert (torch.rand(1), random.random(), np.random.rand()) == wanted


def test_inputs_drawn_at_random_are_refused() -> None:
    with pytest.raises(DatasetError, match=r"differs each time .* with views="):
        digest(lambda items: {k: v + torch.rand(1) for k, v in padded(items).items()})
