"""Sequences of different length with per-token top-k take every way with the same bits."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pantheon.knowledge import Ragged, TopKLogits
from student_client import KnowledgeLoader
from teacher_server import Teacher

WAYS = ("tcp", "grpc", "ipc", "inproc", "offline")
EMBEDDING = 16


class Lines:
    """Real text: the lines of a module of Python's own library, as bytes, at most 64 of each."""

    def __init__(self) -> None:
        source = inspect.getsource(inspect).splitlines()
        self.lines = [line.strip().encode()[:64] for line in source if line.strip()][:150]

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, i: int) -> Tensor:
        return torch.tensor(list(self.lines[i]))


class NextByte(torch.nn.Module):
    """A recurrent model: int64 ``[n, tokens]`` and lengths ``[n]`` to ``[n, tokens, 256]``."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = torch.nn.Embedding(256, EMBEDDING)
        self.cell = torch.nn.GRU(EMBEDDING, EMBEDDING, batch_first=True)
        self.head = torch.nn.Linear(EMBEDDING, 256)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Ragged:
        states, _ = self.cell(self.embedding(tokens))
        return Ragged.from_padded(self.head(states), lengths)


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    return Teacher(
        NextByte(),
        Lines(),
        schema={"logits": "topk:8@1,2"},
        buckets=(16, 64),
        deterministic=True,
    )


@pytest.fixture(scope="module")
def ways(teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ragged")
    teacher.dump(str(folder / "dump"), shard_rows=40)
    binds = [
        "tcp://127.0.0.1:0",
        "grpc://127.0.0.1:0",
        f"ipc://{folder}/r.sock",
        "inproc://ragged",
    ]
    with teacher.start(*binds) as server:
        yield dict(zip(WAYS, [*server.addresses, str(folder / "dump")], strict=True))


def tokens(loader: KnowledgeLoader) -> dict[int, TopKLogits]:
    """Every sample's knowledge by its id, after checking its length."""
    found = {}
    for batch in loader:
        field = batch.knowledge["logits"]
        assert isinstance(field, Ragged)
        assert field.lengths.tolist() == [len(line) for line in batch.inputs]
        for row, sample in enumerate(batch.ids.tolist()):
            start, stop = field.offsets[row : row + 2].tolist()
            found[sample] = field.values[start:stop]
    return found


def equal(a: TopKLogits, b: TopKLogits) -> bool:
    """Whether every bit is the same."""
    return all(torch.equal(getattr(a, k), getattr(b, k)) for k in ("values", "indices", "tail"))


def loader(source: Any, request_rows: int) -> KnowledgeLoader:
    """A shuffled student whose inputs are lists of lines."""
    return KnowledgeLoader(
        Lines(),
        batch_size=9,
        shuffle=True,
        teachers={"t": source},
        collate_fn=list,
        request_rows=request_rows,
    )


@pytest.mark.parametrize("cut", [4, 9, 27])
@pytest.mark.parametrize("way", WAYS)
def test_ragged_knowledge_is_bit_equal_to_the_local_teachers(
    teacher: Teacher, ways: dict[str, Any], way: str, cut: int
) -> None:
    with loader(ways[way], cut) as remote, loader(teacher, 9) as local:
        there, here = tokens(remote), tokens(local)
    assert there.keys() == here.keys() == set(range(len(Lines())))
    assert all(equal(there[i], here[i]) for i in here)


def test_a_mixture_of_two_ragged_teachers_keeps_all_the_mass(ways: dict[str, Any]) -> None:
    with KnowledgeLoader(
        Lines(),
        batch_size=9,
        teachers={"a": ways["tcp"], "b": ways["offline"]},
        merge={"logits": "mixture"},
        collate_fn=list,
    ) as both:
        for batch in both:
            kept, left = batch.knowledge["logits"].values.probs_at(2.0)
            torch.testing.assert_close(kept.sum(-1) + left, torch.ones_like(left))


def test_the_dump_of_ragged_knowledge_is_the_same_whatever_its_shards(
    teacher: Teacher, tmp_path: Path
) -> None:
    found = []
    for rows in (7, 150):
        path = str(tmp_path / str(rows))
        teacher.dump(path, shard_rows=rows)
        with loader(path, 9) as offline:
            found.append(tokens(offline))
    assert all(equal(found[0][i], found[1][i]) for i in found[0])
