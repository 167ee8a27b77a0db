"""Whatever gets lost, repeated, delayed or damaged on the way, an epoch is what it always is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from pantheon import errors
from pantheon.transport import Connection
from student_client import KnowledgeLoader, LoaderStats
from student_client import sources as module
from teacher_server import Server, Teacher
from tests.chaos.faulty import Calm, Faults, Faulty
from tests.integration.toy import SIZE, Line, Numbers

SEEDS = range(6)


@pytest.fixture(scope="module")
def servers() -> Iterator[list[Server]]:
    """Two replicas of 2x - 1 and two of 2x + 1."""
    running = [
        Teacher(
            Line(shift), Numbers(), schema={"sum_float32": "float32"}, dataset_fingerprint="toy"
        ).start(f"inproc://chaos-{i}")
        for i, shift in enumerate((-1.0, -1.0, 1.0, 1.0))
    ]
    yield running
    for server in running:
        server.stop()


def epochs(
    servers: list[Server], monkeypatch: pytest.MonkeyPatch, faults: Faults, seed: int
) -> LoaderStats:
    """Read two epochs through faults and compare every value; answers the loader's numbers."""
    faulty: list[Faulty] = []
    addresses = [s.addresses[0] for s in servers]
    minus, plus = Calm(), Calm()
    calm = dict(zip(addresses, (minus, minus, plus, plus), strict=True))
    connect = module.connect

    def connect_badly(address: str, **options: Any) -> Connection:
        faulty.append(
            Faulty(connect(address, **options), faults, calm[address], seed * 100 + len(faulty))
        )
        return faulty[-1]

    monkeypatch.setattr(module, "connect", connect_badly)
    with KnowledgeLoader(
        Numbers(),
        batch_size=30,
        shuffle=True,
        seed=seed,
        teachers={"minus": addresses[:2], "plus": addresses[2:]},
        merge={"sum_float32": "sum"},
        request_rows=(20, 30, 90)[seed % 3],
        lease=0.2,
        integrity=True,
        dataset_fingerprint="toy",
    ) as loader:
        for _ in range(2):
            seen: list[int] = []
            for batch in loader:
                value = batch.knowledge["sum_float32"]
                assert isinstance(value, Tensor)
                assert torch.equal(value.flatten(), 4.0 * batch.ids)
                seen += batch.ids.tolist()
            assert sorted(seen) == list(range(SIZE))
        assert sum(f.injected for f in faulty)
        return loader.stats()


@pytest.mark.parametrize("seed", SEEDS)
def test_lost_answers_are_asked_for_again(
    servers: list[Server], monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    stats = epochs(servers, monkeypatch, Faults(drop=0.05), seed)
    assert stats.expired + stats.suspected > 0


@pytest.mark.parametrize("seed", SEEDS)
def test_repeated_and_delayed_answers_count_once(
    servers: list[Server], monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    assert epochs(servers, monkeypatch, Faults(repeat=0.3, delay=0.3), seed).duplicates > 0


@pytest.mark.parametrize("seed", SEEDS)
def test_damaged_answers_are_asked_for_again(
    servers: list[Server], monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    stats = epochs(servers, monkeypatch, Faults(flip=0.1), seed)
    assert sum(t.corrupt for t in stats.teachers.values()) > 0


@pytest.mark.parametrize("seed", SEEDS)
def test_connections_that_break_and_come_back_lose_no_sample(
    servers: list[Server], monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    stats = epochs(servers, monkeypatch, Faults(part=0.05), seed)
    assert sum(t.losses for t in stats.teachers.values()) > 0


@pytest.mark.parametrize("seed", SEEDS)
def test_all_faults_together_change_nothing(
    servers: list[Server], monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    epochs(servers, monkeypatch, Faults(0.02, 0.1, 0.1, 0.03, 0.02), seed)


def test_a_way_that_damages_everything_is_given_up_and_named(
    servers: list[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(errors.IntegrityError, match=r"(?s)ids .*checksum"):
        epochs(servers, monkeypatch, Faults(flip=1.0, most=100), seed=0)
