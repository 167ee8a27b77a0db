"""A bad network between student and teachers: late, cut, silent, damaged bytes change nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from pantheon.transport import Curve, parse_address
from pantheon.transport.keys import generate
from student_client import TeacherClient
from tests.chaos.lessons import BATCH, CLASSES, WIDTH, Lesson, Student, learn
from tests.chaos.processes import Crew, Nursery
from tests.chaos.proxy import Proxy, Weather
from tests.chaos.script import Act, at
from tests.chaos.test_replicas import PACE_S, same


@contextmanager
def behind_proxies(nursery: Nursery, **order: Any) -> Iterator[list[Proxy]]:
    """Three replicas, each behind a proxy of its own."""
    with Crew(nursery, 3, pace=PACE_S, **order) as crew, ExitStack() as stack:
        crew.start()
        yield [
            stack.enter_context(Proxy(parse_address(address).port, seed))
            for seed, address in enumerate(crew.addresses)
        ]


@pytest.fixture
def proxies(nursery: Nursery) -> Iterator[list[Proxy]]:
    """Those of teachers without keys."""
    with behind_proxies(nursery) as made:
        yield made


def addresses(proxies: list[Proxy]) -> list[str]:
    """Where a student finds the teachers."""
    return [p.address for p in proxies]


def test_late_bytes_change_nothing(proxies: list[Proxy], calm: Lesson) -> None:
    for delay, proxy in zip((0.0, 0.02, 0.2), proxies, strict=True):
        proxy.weather.delay = delay
    same(learn(addresses(proxies), 2), calm)


def test_connections_cut_now_and_then_change_nothing(proxies: list[Proxy], calm: Lesson) -> None:
    acts = {20 + 10 * i: proxies[i % 3].cut for i in range(20)}
    lesson = learn(addresses(proxies), 2, at(acts))
    same(lesson, calm)
    assert lesson.stats["teachers"]["expert"]["losses"] >= 10
    assert lesson.stats["requeued"] > 0


def test_connections_cut_anywhere_in_a_message_change_nothing(
    proxies: list[Proxy], calm: Lesson
) -> None:
    for proxy in proxies:
        proxy.weather.cut = 0.02
    lesson = learn(addresses(proxies), 2)
    same(lesson, calm)
    assert sum(p.cuts for p in proxies) > 5


def test_a_request_whose_connection_breaks_again_and_again_is_not_called_poison(
    nursery: Nursery,
) -> None:
    with Crew(nursery, 1, pace=0.6) as crew:
        crew.start()
        port = parse_address(crew.addresses[0]).port
        with Proxy(port, weather=Weather(lives=2, life=0.3)) as proxy:
            student = Student({"expert": proxy.address}, attempts=1)
            batch = next(iter(student.loader))
            stats = student.loader.stats()
            student.loader.close()
    assert len(batch.ids) == BATCH
    assert stats.as_dict()["teachers"]["expert"]["losses"] == 2


def test_a_query_whose_connection_breaks_again_and_again_is_not_called_poison(
    nursery: Nursery,
) -> None:
    with Crew(nursery, 1, pace=0.6) as crew:
        crew.start()
        port = parse_address(crew.addresses[0]).port
        with (
            Proxy(port, weather=Weather(lives=2, life=0.3)) as proxy,
            TeacherClient(proxy.address, attempts=1) as client,
        ):
            answer = client.query(torch.zeros(4, WIDTH)).result(30)
            assert proxy.cuts == 2
    assert answer["logits"].shape == (4, CLASSES)


def test_a_black_hole_changes_nothing(proxies: list[Proxy], calm: Lesson) -> None:
    acts = {30: lambda: proxies[0].hole(), 60: lambda: proxies[0].hole(False)}
    lesson = learn(addresses(proxies), 2, at(acts))
    same(lesson, calm)
    assert lesson.stats["requeued"] > 0


def test_a_replica_that_was_a_black_hole_from_the_start_is_not_waited_for(
    proxies: list[Proxy], calm: Lesson
) -> None:
    proxies[2].hole()
    same(learn(addresses(proxies), 2), calm)


def damage(proxies: list[Proxy], flips: int) -> Act:
    """Has each proxy turn over some bits from then on."""

    def begin() -> None:
        for proxy in proxies:
            proxy.weather = Weather(flip=0.02, flips=flips)

    return begin


MORE = [3, pytest.param(10, marks=pytest.mark.chaos)]


@pytest.mark.parametrize("flips", MORE)
def test_damaged_bytes_change_nothing(proxies: list[Proxy], calm: Lesson, flips: int) -> None:
    acts = {10: damage(proxies, flips)}
    lesson = learn(addresses(proxies), 2, at(acts), integrity=True)
    same(lesson, calm)
    assert sum(p.flipped for p in proxies) >= 3


@pytest.mark.parametrize("flips", MORE)
def test_damaged_bytes_change_nothing_under_keys(
    nursery: Nursery, calm: Lesson, tmp_path: Path, flips: int
) -> None:
    generate(tmp_path)
    with behind_proxies(nursery, keys=str(tmp_path)) as proxies:
        acts = {10: damage(proxies, flips)}
        lesson = learn(addresses(proxies), 2, at(acts), security=Curve(tmp_path))
        same(lesson, calm)
        assert sum(p.flipped for p in proxies) >= 3
        assert lesson.stats["teachers"]["expert"]["losses"] > 0
