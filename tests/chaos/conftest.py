"""What all chaos tests share: one nursery, and what an undisturbed student becomes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chaos.lessons import Lesson, learn
from tests.chaos.processes import Crew, Nursery


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """The process that forks replicas."""
    made = Nursery()
    yield made
    made.close()


@pytest.fixture(scope="session")
def calm(nursery: Nursery) -> Lesson:
    """Two epochs that nothing disturbs, with one replica."""
    with Crew(nursery, 1) as crew:
        crew.start()
        lesson = learn(crew.addresses, epochs=2)
    assert lesson.stats["requeued"] == lesson.stats["expired"] == 0
    return lesson
