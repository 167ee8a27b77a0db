"""A dump killed at any step, out of space at any step, or raced, is what it would have been."""

from __future__ import annotations

import os
import signal
import time
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pantheon.store import KnowledgeReader, verify
from tests.chaos.doomed import FULL
from tests.chaos.dumper import SHARD_ROWS, SIZE
from tests.chaos.processes import Doomed

SHARDS = -(-SIZE // SHARD_ROWS)
Files = dict[str, bytes]


@pytest.fixture(scope="module")
def dumpers() -> Iterator[Doomed]:
    made = Doomed("tests.chaos.dumper")
    yield made
    made.close()


def content(path: Path) -> Files:
    """All files of a folder, hidden ones too; none when it was not made."""
    return {f.name: f.read_bytes() for f in path.iterdir()} if path.exists() else {}


@pytest.fixture(scope="module")
def calm(dumpers: Doomed, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """What a dump that nothing disturbs leaves, which is right."""
    path = tmp_path_factory.mktemp("calm")
    assert dumpers.run(path) == 0
    assert verify(path) == []
    with KnowledgeReader(path) as reader:
        square, lengths, tokens = reader.read(np.arange(SIZE))
    assert square.tolist() == [i * i for i in range(SIZE)]
    assert lengths.tolist() == [i % 3 for i in range(SIZE)]
    assert tokens.tolist() == [i for i in range(SIZE) for _ in range(i % 3)]
    assert len(content(path)) == 2 * SHARDS + 1
    return content(path)


def published(path: Path) -> Files:
    """The files of a folder that have a name of their own: not temporary, no claims."""
    return {name: data for name, data in content(path).items() if not name.startswith(".")}


def whole(path: Path, calm: Files) -> bool:
    """Whether every published file is just what it should be, even if some are missing."""
    return published(path).items() <= calm.items()


@pytest.fixture(scope="module")
def steps(dumpers: Doomed, tmp_path_factory: pytest.TempPathFactory) -> int:
    """How many steps a dump takes that nothing disturbs."""

    def killed(at: int) -> bool:
        return dumpers.run(tmp_path_factory.mktemp("steps"), at) == "killed"

    return bisect_left(range(1000), True, key=lambda at: not killed(at))


STRIDES = [7, pytest.param(1, marks=pytest.mark.chaos)]
"""Some steps in every run of the tests, all in the long one."""


@pytest.mark.parametrize("stride", STRIDES)
def test_a_dump_killed_at_any_step_goes_on_and_leaves_the_same_bytes(
    tmp_path: Path, dumpers: Doomed, calm: Files, steps: int, stride: int
) -> None:
    assert steps > 20 * SHARDS
    for at in range(0, steps, stride):
        path = tmp_path / str(at)
        assert dumpers.run(path, at) == "killed"
        assert whole(path, calm), at
        assert dumpers.run(path) == 0
        assert content(path) == calm, at


@pytest.mark.parametrize("stride", STRIDES)
def test_a_dump_killed_again_and_again_gets_done(
    tmp_path: Path, dumpers: Doomed, calm: Files, steps: int, stride: int
) -> None:
    # A dump goes on by whole shards: half the steps are more than one of them takes.
    for at in range(steps // 2, steps, stride):
        path = tmp_path / str(at)
        for _ in range(20):
            if dumpers.run(path, at) == 0:
                break
            assert whole(path, calm), at
        assert content(path) == calm, at


@pytest.mark.parametrize("stride", STRIDES)
def test_a_disk_full_at_any_step_leaves_only_whole_files_and_goes_on(
    tmp_path: Path, dumpers: Doomed, calm: Files, steps: int, stride: int
) -> None:
    ends = set()
    for at in range(0, steps, stride):
        path = tmp_path / str(at)
        ends.add(end := dumpers.run(path, at, "full"))
        # The last steps remove what is not needed any more, which takes no space.
        assert end == FULL or content(path) == calm, at
        assert whole(path, calm), at
        assert content(path) == published(path), at
        assert dumpers.run(path) == 0
        assert content(path) == calm, at
    assert ends <= {FULL, 0}


@pytest.mark.parametrize("stride", STRIDES)
def test_of_two_racing_dumpers_one_may_die_at_any_step(
    tmp_path: Path, dumpers: Doomed, calm: Files, steps: int, stride: int
) -> None:
    for at in range(0, steps, stride):
        path = tmp_path / str(at)
        victim, survivor = dumpers.start(path, at), dumpers.start(path)
        # It does not get to its step if the other does all the work.
        assert dumpers.wait(victim) in ("killed", 0)
        assert dumpers.wait(survivor) == 0
        # A temporary file of the one who died stays, until somebody dumps here again.
        assert published(path) == calm, at
        assert dumpers.run(path) == 0
        assert content(path) == calm, at


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGCONT])
@pytest.mark.parametrize("stride", STRIDES)
def test_of_two_racing_dumpers_one_may_freeze_at_any_step(
    tmp_path: Path, dumpers: Doomed, calm: Files, steps: int, how: signal.Signals, stride: int
) -> None:
    for at in range(0, steps, stride):
        path = tmp_path / str(at)
        frozen = dumpers.start(path, at, "stop")
        assert dumpers.wait(frozen) == "stopped"
        other = dumpers.start(path)
        deadline = time.monotonic() + 20
        # All but the shard that the frozen one may hold.
        while len(list(path.glob("shard-*.safetensors"))) < SHARDS - 1:
            assert time.monotonic() < deadline, at
            time.sleep(0.002)
        os.kill(frozen, how)
        assert dumpers.wait(frozen) == ("killed" if how is signal.SIGKILL else 0)
        assert dumpers.wait(other) == 0
        assert published(path) == calm, at
        assert dumpers.run(path) == 0
        assert content(path) == calm, at
