"""Streams without a teacher, and how any stream is cut into others."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from pantheon.errors import ConfigError, ResumeMismatch
from pantheon.sampling.sample_stream import SampleStream
from pantheon.scoring.scorer import Scorer
from pantheon.stream import Batch, KnowledgeStream
from student_client import KnowledgeLoader


class Views:
    """Ten samples: in view v, sample i is 100 v + i, and its target i."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.get(index, 0)

    def get(self, index: int, view: int) -> tuple[Tensor, int]:
        return torch.tensor([100.0 * view + index]), index


def teacherless(**options: Any) -> SampleStream:
    return SampleStream(Views(), 4, **options)


def taught(**options: Any) -> KnowledgeLoader:
    teacher = Scorer(
        lambda x: x + 0.5, Views(), {"y": "float32"}, revision="1", views=options.get("views", 0)
    )
    return KnowledgeLoader(Views(), 4, teachers={"t": teacher}, **options)


Make = Callable[..., Any]
kinds = pytest.mark.parametrize("make", [teacherless, taught])


def seen(batches: Any) -> list[list[float]]:
    return [batch.inputs.flatten().tolist() for batch in batches]


def ids(stream: KnowledgeStream) -> list[int]:
    return [id for batch in stream for id in batch.ids.tolist()]


@kinds
def test_both_kinds_are_streams(make: Make) -> None:
    with make() as stream:
        assert isinstance(stream, KnowledgeStream)


def test_a_stream_without_teachers_reads_in_the_same_order_as_one_with() -> None:
    with (
        teacherless(shuffle=True, seed=3, views=2) as a,
        taught(shuffle=True, seed=3, views=2) as b,
    ):
        for _ in range(3):
            one: list[Batch] = list(a)
            assert seen(one) == seen(b)
            assert [x.targets.tolist() for x in one] == [x.ids.tolist() for x in one]
            assert all(len(x.knowledge.names) == 0 for x in one)


@kinds
def test_a_slice_never_changes(make: Make) -> None:
    with make(shuffle=True, views=3) as stream:
        cut = stream.slice(5, seed=7)
        first, again = seen(cut), seen(cut)
        assert first == again == seen(stream.slice(5, seed=7))
        flat = [value for batch in first for value in batch]
        assert len(set(flat)) == 5
        assert {value // 100 for value in flat} == {1 + 7 % 3}
        assert ids(stream.slice(5, seed=8)) != ids(cut)


@kinds
def test_a_slice_of_everything_holds_everything_once(make: Make) -> None:
    with make(ids=[1, 5, 9]) as stream:
        assert sorted(ids(stream.slice(3))) == [1, 5, 9]
        with pytest.raises(ConfigError, match=r"slice of 4 samples .* expected 1 to 3"):
            stream.slice(4)


@kinds
def test_a_split_shares_the_samples_among_its_parts(make: Make) -> None:
    with make(shuffle=True) as stream:
        parts = stream.split(3, seed=1)
        found = [set(ids(part)) for part in parts]
        assert sorted(len(part) for part in found) == [3, 3, 4]
        assert set().union(*found) == set(range(10))
        with pytest.raises(ConfigError, match="10 samples cannot be split into 11 parts"):
            stream.split(11)


@kinds
def test_reading_a_slice_moves_nothing_in_the_stream_it_was_cut_from(make: Make) -> None:
    with make(shuffle=True) as stream, make(shuffle=True) as other:
        going, alone = iter(stream), iter(other)
        next(going), next(alone)
        list(stream.slice(4)), list(stream.split(2)[0])
        assert stream.state_dict() == other.state_dict()
        assert seen(going) == seen(alone)


def test_a_stream_without_teachers_goes_on_in_the_middle() -> None:
    whole = [b.ids.tolist() for b in teacherless(shuffle=True)] + [[]]
    stream = teacherless(shuffle=True)
    reading = iter(stream)
    next(reading)
    state = json.loads(json.dumps(stream.state_dict()))
    resumed = teacherless(shuffle=True)
    resumed.load_state_dict(state)
    assert [b.ids.tolist() for b in resumed] == whole[1:-1]
    assert resumed.state_dict()["epoch"] == 1
    with pytest.raises(ResumeMismatch, match="seed = 0"):
        teacherless(shuffle=True, seed=1).load_state_dict(state)


def test_a_slice_refuses_the_state_of_a_stream_with_other_views() -> None:
    state = teacherless(views=3, view=1).state_dict()
    with pytest.raises(ResumeMismatch, match="view = 1"):
        teacherless(views=3, view=2).load_state_dict(state)


def test_an_epoch_that_was_left_for_another_one_says_so() -> None:
    stream = teacherless()
    left = iter(stream)
    next(left)
    next(iter(stream))
    with pytest.raises(ConfigError, match="one epoch goes on at a time"):
        next(left)


def test_a_view_that_is_not_there_is_refused() -> None:
    for make in (teacherless, taught):
        with pytest.raises(ConfigError, match="view is 4; expected 0 to 3"):
            make(views=3, view=4)


def test_a_loader_closes_what_was_cut_from_it() -> None:
    stream = taught()
    part = stream.slice(3)
    list(part)
    stream.close()
    with pytest.raises(ConfigError, match="was closed"):
        list(part)


def test_ranks_share_every_batch_of_a_stream_without_teachers() -> None:
    one = [b.ids.tolist() for b in SampleStream(Views(), 4, shuffle=True)]
    a, b = (list(SampleStream(Views(), 2, shuffle=True, rank=r, world=2)) for r in (0, 1))
    joined = [x.ids[x.mask].tolist() + y.ids[y.mask].tolist() for x, y in zip(a, b, strict=True)]
    assert joined == one


@pytest.mark.parametrize("rank", [0, 1])
def test_an_excerpt_is_read_by_each_rank_alone(rank: int) -> None:
    data = TensorDataset(torch.arange(21.0)[:, None])
    shared = SampleStream(data, 8, rank=rank, world=2, drop_last=True)
    some = [int(i) for batch in shared.excerpt(10, seed=3) for i in batch.ids[batch.mask]]
    assert some == [
        int(i)
        for batch in SampleStream(data, 5, rank=0, world=1).slice(10, seed=3)
        for i in batch.ids[batch.mask]
    ]
    every = [int(i) for batch in shared.excerpt(100) for i in batch.ids[batch.mask]]
    assert sorted(every) == list(range(21))
