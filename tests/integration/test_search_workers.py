"""Workers of one study that are killed: the budget is filled exactly, and nothing hangs."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from pantheon.compress.search.samplers import sampler_of
from pantheon.compress.search.storage import storage_at, study_in
from pantheon.compress.search.task import directions
from pantheon.compress.search.trials import TOLD, Fate, Tally, fate_of
from tests.integration.searcher import searching

TRIALS, WORKERS, FEW = 40, 4, 10


def begun(url: str, log: Path, seconds: float, trials: int = TRIALS) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.integration.searcher", url, str(log)]
    return subprocess.Popen([*command, str(trials), str(seconds)], stdout=subprocess.DEVNULL)


def killed_until_done(url: str, log: Path, every: float, limit: float) -> int:
    """Kill a worker every few seconds and begin another, until one comes to the end of the work.

    Returns:
        How many were killed.
    """
    chance, killed = random.Random(0), 0
    workers = [begun(url, log, 0.5) for _ in range(WORKERS)]
    end, next_kill = time.monotonic() + limit, time.monotonic() + every
    try:
        while all(worker.poll() is None for worker in workers):
            assert time.monotonic() < end, "the budget was not filled in time"
            if time.monotonic() > next_kill:
                doomed = chance.choice(workers)
                doomed.send_signal(signal.SIGKILL)
                doomed.wait()
                workers[workers.index(doomed)] = begun(url, log, 0.5)
                killed, next_kill = killed + 1, next_kill + every
            time.sleep(0.05)
        for worker in workers:
            assert worker.wait(end - time.monotonic()) == 0
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    return killed


def check_filled(url: str, log: Path, killed: int) -> None:
    task = searching(log, 0)
    sampler = sampler_of("random", task.space.choices, 0, TRIALS)
    study = study_in(storage_at(url, 1, 3), "killed", {}, directions(task.objectives), sampler)
    trials = study.get_trials(deepcopy=False)
    tally = Tally.of(trials)
    assert tally.told == TRIALS
    assert tally[Fate.RUNNING] == tally[Fate.WAITING] == 0
    assert 0 < tally[Fate.LOST] <= killed
    # What was trained: all that counts, and what killed workers were at, which has no place.
    trained = Counter(log.read_text().split("\n")[:-1])
    told = [" ".join(str(t.params[n]) for n in "abcdef") for t in trials if fate_of(t) in TOLD]
    assert set(told) <= set(trained)
    assert TRIALS <= sum(trained.values()) <= TRIALS + killed
    assert all(trained[line] <= 2 for line in trained)
    # No point that breaks the limit was trained.
    assert all(1 + sum(map(int, line.split())) <= 28 for line in trained)
    assert tally[Fate.INFEASIBLE] > 0


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_study_in_sqlite_is_filled_exactly_whoever_dies(tmp_path: Path) -> None:
    url, log = f"sqlite:///{tmp_path}/search.db", tmp_path / "trained.txt"
    killed = killed_until_done(url, log, every=2.0, limit=150)
    assert killed >= 2
    check_filled(url, log, killed)


@pytest.mark.timeout(60)
def test_a_worker_that_was_frozen_tells_nothing_twice(tmp_path: Path) -> None:
    url, log = f"sqlite:///{tmp_path}/search.db", tmp_path / "trained.txt"
    task = searching(log, 0)
    sampler = sampler_of("random", task.space.choices, 0, FEW)
    study = study_in(storage_at(url, 1, 3), "killed", {}, directions(task.objectives), sampler)
    frozen = begun(url, log, 3.0, FEW)
    try:
        while not any(fate_of(t) is Fate.RUNNING for t in study.get_trials(deepcopy=False)):
            time.sleep(0.1)
        time.sleep(1)
        os.kill(frozen.pid, signal.SIGSTOP)
        other = begun(url, log, 0.1, FEW)
        assert other.wait(40) == 0
        os.kill(frozen.pid, signal.SIGCONT)
        assert frozen.wait(10) == 0
    finally:
        frozen.kill()
        frozen.wait()
    tally = Tally.of(study.get_trials(deepcopy=False))
    assert tally.told == FEW
    assert tally[Fate.LOST] == 1
