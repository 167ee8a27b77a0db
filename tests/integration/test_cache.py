"""What comes online is kept on disk, and read instead of asked for again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pantheon.knowledge import Value
from pantheon.ragged import Ragged
from pantheon.topk import TopKLogits
from student_client import KnowledgeLoader
from teacher_server import Server, Teacher

SIZE = 600
BATCH = 50


class Words:
    """Sample i is i % 4 words of the number i; view v adds v to each."""

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, i: int) -> Tensor:
        return self.get(i, 0)

    def get(self, i: int, view: int) -> Tensor:
        return torch.tensor([float(i) + 1000 * view])


class Many(torch.nn.Module):
    """A field of every kind."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(factor))

    def forward(self, x: Tensor) -> dict[str, Value]:
        y = self.factor * x + torch.linspace(-3, 3, 16)
        lengths = x.flatten().long() % 4
        packed = y.repeat_interleave(lengths, 0)
        return {"dense": y, "small": y, "top": y, "words": Ragged(packed[:, :3], lengths)}


SCHEMA = {"dense": "float32", "small": "int8", "top": "topk:4@1,2", "words": "float16"}


def serving(factor: float = 1.0, **options: Any) -> Server:
    """A teacher that is being served in a thread here."""
    with torch.no_grad():
        teacher = Teacher(Many(factor).eval(), Words(), schema=SCHEMA, views=3, **options)
        return teacher.start("tcp://127.0.0.1:0")


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


def reading(server: Server, cache: Path, **options: Any) -> KnowledgeLoader:
    """A student of that teacher."""
    settings = {"batch_size": BATCH, "shuffle": True, "patience": 10.0, "cache": cache} | options
    return KnowledgeLoader(Words(), teachers={"t": server.addresses[0]}, **settings)


def bits(value: Value) -> list[Tensor]:
    """Everything a value is made of."""
    if isinstance(value, Ragged):
        return [value.lengths, *bits(value.values)]
    if isinstance(value, TopKLogits):
        return [value.values, value.indices, value.tail]
    assert isinstance(value, Tensor)
    return [value]


def epoch(loader: KnowledgeLoader) -> dict[int, list[Tensor]]:
    """One epoch's knowledge by id, every part of every field."""
    seen: dict[int, list[Tensor]] = {}
    for batch in loader:
        for sample, row in zip(batch.ids.tolist(), batch.knowledge.split(1), strict=True):
            seen[sample] = [part for f in sorted(SCHEMA) for part in bits(row[f])]
    assert len(seen) == SIZE
    return seen


def same(a: dict[int, list[Tensor]], b: dict[int, list[Tensor]]) -> bool:
    """Whether two epochs' knowledge is the same to the bit."""
    return a.keys() == b.keys() and all(
        torch.equal(x, y) for i in a for x, y in zip(a[i], b[i], strict=True)
    )


def test_the_second_epoch_asks_no_teacher_and_is_the_same_to_the_bit(
    server: Server, tmp_path: Path
) -> None:
    with reading(server, tmp_path) as loader:
        first = epoch(loader)
        asked = server.stats().requests
        assert asked > 0
        assert loader.stats().teachers["t"].cached == 0
        second = epoch(loader)
        stats = loader.stats().as_dict()["teachers"]["t"]
    assert server.stats().requests == asked
    assert same(first, second)
    assert stats["cached"] == stats["stored"] == SIZE
    assert 0 < stats["cached_bytes"] == stats["bytes"] / 2
    assert stats["cache"] == "on"
