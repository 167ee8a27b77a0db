"""What is made wrong on purpose is read or refused as documented, in little memory and time.

A fixed set of each format; `make fuzz` searches on, guided by coverage.
"""

from __future__ import annotations

import importlib
import time
import tracemalloc

import pytest

from tests.fuzz import FORMATS
from tests.fuzz.target import MEMORY_BYTES, SECONDS, Target


def target_of(name: str) -> Target:
    found = importlib.import_module(f"tests.fuzz.{name}").TARGET
    assert isinstance(found, Target)
    return found


@pytest.mark.parametrize("name", FORMATS)
def test_well_formed_inputs_are_read(name: str) -> None:
    target = target_of(name)
    assert all(target(seed) for seed in target.seeds())


@pytest.mark.parametrize("name", FORMATS)
def test_nothing_but_documented_errors_comes_out(name: str) -> None:
    target, read, slowest = target_of(name), 0, 0.0
    for data in target.mutations(1, target.count):
        start = time.perf_counter()
        read += target(data)
        slowest = max(slowest, time.perf_counter() - start)
    assert slowest < SECONDS
    # Mutations that are all refused at the door, or all harmless, would prove little.
    assert target.count // 50 < read < target.count * 9 // 10


@pytest.mark.parametrize("name", FORMATS)
def test_an_input_takes_no_more_memory_than_stated(name: str) -> None:
    target = target_of(name)
    tracemalloc.start()
    try:
        for data in target.mutations(2, target.count // 10):
            target(data)
        assert tracemalloc.get_traced_memory()[1] < MEMORY_BYTES
    finally:
        tracemalloc.stop()
