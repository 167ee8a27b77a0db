"""Workers of one study that die, and a server that does: the budget is filled exactly."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.pruners import MedianPruner
from optuna.storages import RDBStorage
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import text

from benchmarks.postgres import PASSWORD, Server, lacking, server
from pantheon.compress.search import patient
from pantheon.compress.search.address import address_of
from pantheon.compress.search.samplers import sampler_of
from pantheon.compress.search.space import Point
from pantheon.compress.search.storage import ABOUT, storage_at, study_in
from pantheon.compress.search.task import Report, directions
from pantheon.compress.search.trials import TOLD, Fate, Tally, fate_of
from pantheon.compress.search.worker import Worker
from pantheon.errors import DivergedError, MismatchError, StoreError
from tests.integration.searcher import searching

TRIALS, WORKERS, FEW = 40, 4, 10


@pytest.fixture(scope="module")
def postgres() -> Iterator[Server]:
    if why := lacking():
        pytest.skip(why)
    with server("fsync=off") as made:
        yield made


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/search.db"
    made: Server = request.getfixturevalue("postgres")
    return made.fresh()


def begun(
    url: str, log: Path, seconds: float, trials: int = TRIALS, patience: float = 60
) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.integration.searcher", url, str(log)]
    command += [str(trials), str(seconds), str(patience)]
    with (log.parent / "said.txt").open("a") as said:
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said, text=True)


@contextmanager
def looked_at(url: str) -> Iterator[Study]:
    """The study that `begun` works on."""
    task = searching(Path(), 0)
    sampler = sampler_of("random", task.space.choices, 0, TRIALS)
    with closing(storage_at(url, 1, 3)) as storage:
        yield study_in(storage, "killed", {}, directions(task.objectives), sampler)


def trials_of(url: str) -> list[FrozenTrial]:
    with looked_at(url) as study:
        return study.get_trials(deepcopy=False)


def until_lines(log: Path, count: int, limit: float = 30) -> None:
    """Wait until so many points were trained."""
    end = time.monotonic() + limit
    while not log.exists() or log.read_text().count("\n") < count:
        assert time.monotonic() < end, "too slow"
        time.sleep(0.05)


def killed_until_done(url: str, log: Path, every: float, limit: float) -> int:
    """Kill a worker every few seconds and begin another, until one comes to the end of the work.

    There is time for some points between two kills, however slowly workers begin.

    Returns:
        How many were killed.
    """
    chance, killed, before = random.Random(0), 0, 0
    workers = [begun(url, log, 0.5) for _ in range(WORKERS)]
    end, next_kill = time.monotonic() + limit, time.monotonic() + every
    try:
        while all(worker.poll() is None for worker in workers):
            assert time.monotonic() < end, "the budget was not filled in time"
            done = log.read_text().count("\n") if log.exists() else 0
            if time.monotonic() > next_kill and done >= before + WORKERS:
                doomed = chance.choice(workers)
                doomed.send_signal(signal.SIGKILL)
                doomed.wait()
                workers[workers.index(doomed)] = begun(url, log, 0.5)
                killed, next_kill, before = killed + 1, time.monotonic() + every, done
            time.sleep(0.05)
        for worker in workers:
            assert worker.wait(end - time.monotonic()) == 0
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    return killed


def check_filled(url: str, log: Path, killed: int) -> None:
    trials = trials_of(url)
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
def test_a_study_is_filled_exactly_whoever_dies(url: str, tmp_path: Path) -> None:
    log = tmp_path / "trained.txt"
    killed = killed_until_done(url, log, every=2.0, limit=150)
    assert killed >= 2
    check_filled(url, log, killed)


@pytest.mark.timeout(60)
def test_a_worker_that_was_frozen_tells_nothing_twice(url: str, tmp_path: Path) -> None:
    log = tmp_path / "trained.txt"
    frozen = begun(url, log, 3.0, FEW)
    try:
        with looked_at(url) as study:
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
    tally = Tally.of(trials_of(url))
    assert tally.told == FEW
    assert tally[Fate.LOST] == 1


@pytest.mark.timeout(60)
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
def test_workers_go_on_when_the_server_is_back(
    postgres: Server, tmp_path: Path, how: signal.Signals
) -> None:
    url, log = postgres.fresh(), tmp_path / "trained.txt"
    workers = [begun(url, log, 0.5, FEW) for _ in range(2)]
    try:
        until_lines(log, 3)
        name = url.rpartition("/")[2]
        held = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}'"
        assert 0 < int(postgres.ask(held)) <= 2 * len(workers)
        postgres.stop(how)
        time.sleep(4)  # Longer than workers may be silent, so that all seem dead.
        postgres.start()
        assert [worker.wait(30) for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    tally = Tally.of(trials_of(url))
    # One that nobody was told of may have been made when the server went.
    assert tally.told == len(log.read_text().splitlines()) == FEW
    assert tally[Fate.LOST] <= len(workers)
    assert tally[Fate.RUNNING] == tally[Fate.WAITING] == 0
    said = (tmp_path / "said.txt").read_text()
    assert "is away, and is asked again for 60 s" in said
    assert " is back after " in said
    assert "Traceback" not in said
    assert PASSWORD not in said


@pytest.mark.timeout(60)
def test_a_server_that_stays_away_ends_the_worker_and_loses_nothing(
    postgres: Server, tmp_path: Path
) -> None:
    url, log = postgres.fresh(), tmp_path / "trained.txt"
    worker = begun(url, log, 0.2, FEW, patience=1)
    try:
        until_lines(log, 2)
        postgres.stop()
        assert worker.wait(20) == 1
    finally:
        worker.kill()
        worker.wait()
        postgres.start()
    said = (tmp_path / "said.txt").read_text()
    (last,) = said.splitlines()[-1:]
    assert last.startswith("pantheon.errors.StoreError: the storage postgresql")
    assert "went away, and was not back after 1 s" in last
    assert "is the server up?" in last
    assert PASSWORD not in said
    trained = len(log.read_text().splitlines())
    assert begun(url, log, 0.0, FEW).wait(40) == 0
    tally = Tally.of(trials_of(url))
    assert tally.told == FEW
    assert tally[Fate.RUNNING] == tally[Fate.WAITING] == 0
    assert len(log.read_text().splitlines()) <= FEW + 1
    assert trained < FEW


def test_workers_that_begin_at_once_make_one_study(url: str) -> None:
    def begin(_: int) -> int:
        with looked_at(url) as study:
            return study._study_id

    with ThreadPoolExecutor(6) as pool:
        assert len(set(pool.map(begin, range(6)))) == 1


def test_a_study_of_another_search_or_version_is_refused(url: str) -> None:
    sampler = sampler_of("random", searching(Path(), 0).space.choices, 0, TRIALS)
    with closing(storage_at(url, 1, 3)) as storage:

        def opened(space: str) -> Study:
            return study_in(storage, "one", {"space": space}, [StudyDirection.MAXIMIZE], sampler)

        study = opened("wide")
        assert opened("wide").user_attrs == study.user_attrs
        with pytest.raises(MismatchError, match="'one' has space 'wide', and this search 'narrow'"):
            opened("narrow")
        study.set_user_attr(ABOUT, {"version": 0, "space": "wide"})
        with pytest.raises(MismatchError, match="has version 0, and this search 1"):
            opened("wide")


def test_servers_that_let_nobody_in_are_told_without_the_password(postgres: Server) -> None:
    url = postgres.fresh()
    for wrong, said in {
        url.replace(str(postgres.port), "1"): "create a connection to host 127.0.0.1 and port 1",
        url.replace(PASSWORD, "a-wrong-word"): 'password authentication failed for user "pantheon"',
        url.replace(f":{PASSWORD}", ""): "asks for a password, and the address has none",
        f"{url}x": 'database ".*x" does not exist',
    }.items():
        with pytest.raises(StoreError, match=said) as told:
            storage_at(wrong, 1, 3)
        assert "pantheon:***@127.0.0.1" in str(told.value) or PASSWORD not in wrong
        assert "is the server up, and are the address, the user and the password right?" in str(
            told.value
        )
        assert PASSWORD not in str(told.value)
        assert "a-wrong-word" not in str(told.value)


def test_a_worker_that_is_frozen_in_a_change_stops_nobody(
    postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patient, "FROZEN", 1)
    url = postgres.fresh()
    with looked_at(url) as study, closing(storage_at(url, 1, 3)) as other:
        frozen = other.engine.connect()
        frozen.execute(text("SELECT * FROM studies FOR UPDATE"))
        begin = time.monotonic()
        study.enqueue_trial({"a": 1})
        assert 0.5 < time.monotonic() - begin < 20
        with warnings.catch_warnings():  # pg8000 cannot say goodbye, and leaves its socket.
            warnings.simplefilter("ignore", ResourceWarning)
            frozen.invalidate()
            frozen.close()
            gc.collect()


def test_what_is_written_is_what_optuna_reads(postgres: Server, tmp_path: Path) -> None:
    plain = searching(tmp_path / "log", 0)

    def score(point: Point, report: Report) -> dict[str, float]:
        if point["b"] % 2:
            raise DivergedError("odd")
        for step in range(3):
            report(step, float(point["a"]))
        return plain.score(point, report)

    url, task = postgres.fresh(), replace(plain, score=score)
    sampler = sampler_of("tpe", task.space.choices, 0, TRIALS)
    with closing(storage_at(url, 1, 3)) as storage, closing(storage_at(url, 1, 3)) as fresh:
        pruner = MedianPruner(n_startup_trials=3)
        study = study_in(storage, "one", {}, directions(task.objectives), sampler, pruner)
        tally = Worker(study=study, task=task, trials=TRIALS).run()
        assert tally[Fate.STOPPED] > 0
        assert tally[Fate.DIVERGED] > 0
        assert tally[Fate.INFEASIBLE] > 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            optunas = RDBStorage(address_of(url).url)
        with closing(optunas.engine.connect()):
            expected = optunas.get_all_trials(study._study_id)
        assert study.get_trials() == expected
        assert fresh.get_all_trials(study._study_id) == expected
        assert [fresh.get_trial(trial._trial_id) for trial in expected] == expected
        optunas.engine.dispose()


@pytest.mark.filterwarnings("ignore:Heartbeat of storage")
def test_whoever_reads_a_running_trial_knows_what_was_noted_last(postgres: Server) -> None:
    url = postgres.fresh()
    with looked_at(url) as study, closing(storage_at(url, 1, 3)) as other:
        first, second = (
            optuna.load_study(study_name=study.study_name, storage=other) for _ in range(2)
        )
        study.tell(study.ask(), 0.0)
        trial = study.ask()
        for step in range(3):
            trial.report(float(step), step)
            time.sleep(0.1)
            for reader in (first, second, first):
                seen = reader.get_trials()[1]
                assert list(seen.intermediate_values) == list(range(step + 1))
        study.tell(trial, 1.0)
        time.sleep(0.1)
        assert [r.get_trials()[1].state for r in (first, second)] == [TrialState.COMPLETE] * 2
        assert other.get_all_trials(study._study_id)[1].state == TrialState.COMPLETE


def test_a_waiting_trial_is_taken_once(url: str) -> None:
    with looked_at(url) as study:
        for _ in range(60):
            study.enqueue_trial({"a": 1})
        waiting = [trial._trial_id for trial in study.get_trials(deepcopy=False)]
    together = threading.Barrier(WORKERS)

    def taken() -> list[int]:
        with closing(storage_at(url, 1, 3)) as storage:
            found = []
            for trial in waiting:
                together.wait(30)
                with contextlib.suppress(UpdateFinishedTrialError):
                    if storage.set_trial_state_values(trial, TrialState.RUNNING):
                        found.append(trial)
            return found

    with ThreadPoolExecutor(WORKERS) as pool:
        found = [pool.submit(taken) for _ in range(WORKERS)]
    assert sorted(trial for each in found for trial in each.result()) == sorted(waiting)
