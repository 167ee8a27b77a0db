"""How a search goes faster with more workers: processes on one PostgreSQL server.

Run ``python -m benchmarks.search_scaling [--workers 1 2 4 8 16] [--each 20] [--seconds 2]``. A
point's score does nothing but take some seconds; points are chosen at random of a million. The
server is started here, with PostgreSQL's own settings. Workers are processes that do not import
torch, and begin at the same time, when all are ready: each has imported what it needs and has made
one trial of a study of its own, unless there is ``--cold``. A process's first trial costs a tenth
of a second of CPU, as what it asks is put together once, which 16 processes on two processors pay
for at the same time.

A number of workers has so many times ``--each`` trials: 320 with 16, but only 20 with one, which
would take ten minutes otherwise. Given for each: seconds from the first trial's beginning to the
last one's end, both as the database has them; the fraction of linear, which is trials x seconds /
workers / seconds taken; connections at the server, halfway; and a worker's own CPU time per trial.
Goal: 0.95 of linear, with every number of workers; the exit status is 1 if one misses it. With
``--rounds``, all are measured several times, in another order each time, and the median counts.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

from optuna.storages import BaseStorage

from benchmarks.postgres import Server, lacking, server
from pantheon.compress.search.samplers import sampler_of
from pantheon.compress.search.space import Choice, Point
from pantheon.compress.search.storage import storage_at, study_in
from pantheon.compress.search.task import Report, Task, directions
from pantheon.compress.search.trials import TOLD, fate_of
from pantheon.compress.search.worker import Worker

GOAL = 0.95
NAME = "scaling"


class Wide:
    """A space of a million points."""

    choices = tuple(Choice(name, tuple(range(10))) for name in "abcdef")
    told: Mapping[str, Any] = {"wide": 1}
    start = None

    def canonical(self, point: Point) -> Point:
        """Every point is another model."""
        return point

    def artifact(self, point: Point) -> Any:
        """There are no models."""
        raise NotImplementedError


def sleeping(seconds: float) -> Task:
    """A search whose scores take some seconds."""

    def score(point: Point, report: Report) -> dict[str, float]:
        time.sleep(seconds)
        return {"sum": float(sum(point.values()))}

    return Task(Wide(), {"sum": "maximise"}, score)


def worker_at(storage: BaseStorage, trials: int, seconds: float, name: str = NAME) -> Worker:
    """A worker of a study in a database."""
    task = sleeping(seconds)
    sampler = sampler_of("random", task.space.choices, 0, trials)
    study = study_in(storage, name, {}, directions(task.objectives), sampler)
    return Worker(study=study, task=task, trials=trials)


def work(url: str, trials: int, seconds: float, cold: bool) -> None:
    """Be a worker: say that it is ready, wait for a line, work, and say what CPU time it took."""
    storage = storage_at(url, 20, 60)
    if not cold:
        worker_at(storage, 1, 0.0, f"of {os.getpid()}").run()
    worker = worker_at(storage, trials, seconds)
    print("ready", flush=True)
    sys.stdin.readline()
    begin = time.process_time()
    worker.run()
    if "torch" in sys.modules:
        raise SystemExit("a worker imported torch, which a search on its own does not need")
    print(time.process_time() - begin, flush=True)


def measured(
    made: Server, workers: int, trials: int, seconds: float, cold: bool = False
) -> Mapping[str, float]:
    """Figures of one number of workers, on a database of their own."""
    url = made.fresh()
    command = [sys.executable, "-m", "benchmarks.search_scaling", "--be-a-worker", url]
    command += ["--trials", str(trials), "--seconds", str(seconds)]
    command += ["--cold"] if cold else []
    pipe = subprocess.PIPE
    running = [
        subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(workers)
    ]
    try:
        for process in running:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise SystemExit("a worker did not begin; see above")
        for process in running:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        time.sleep(trials * seconds / workers / 2)
        name = url.rpartition("/")[2]
        held = made.ask(f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}'")
        limit = 4 * trials * seconds / workers + 60
        spent = [float(process.communicate(timeout=limit)[0]) for process in running]
    finally:
        for process in running:
            process.kill()
            process.wait()
    taken = _taken(url, trials, seconds)
    return {
        "seconds": taken,
        "linear": trials * seconds / workers / taken,
        "connections": float(held),
        "cpu": sum(spent) / trials,
    }


def _taken(url: str, trials: int, seconds: float) -> float:
    """Seconds from the first beginning to the last end of what counts."""
    with closing(storage_at(url, 20, 60)) as storage:
        trials_of = worker_at(storage, trials, seconds).study.get_trials(deepcopy=False)
    told = [trial for trial in trials_of if fate_of(trial) in TOLD]
    if len(told) != trials:
        raise SystemExit(f"{len(told)} trials were told; expected {trials}")
    begun = [trial.datetime_start for trial in told if trial.datetime_start]
    ended = [trial.datetime_complete for trial in told if trial.datetime_complete]
    return (max(ended) - min(begun)).total_seconds()


def main() -> int:
    """Measure, and tell whether the goal is met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--each", type=int, default=20, help="trials, for each worker")
    parser.add_argument("--seconds", type=float, default=2.0, help="that a score takes")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--cold", action="store_true", help="count processes' first trials too")
    parser.add_argument("--be-a-worker", metavar="URL", help=argparse.SUPPRESS)
    parser.add_argument("--trials", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.be_a_worker:
        work(options.be_a_worker, options.trials, options.seconds, options.cold)
        return 0
    if why := lacking():
        raise SystemExit(why)
    found: dict[int, list[Mapping[str, float]]] = {count: [] for count in options.workers}
    with server() as made:
        for _ in range(options.rounds):
            for count in random.sample(options.workers, len(options.workers)):
                trials = count * options.each
                found[count].append(measured(made, count, trials, options.seconds, options.cold))
                _say(count, trials, found[count][-1])
    return _judged(found)


def _say(workers: int, trials: int, row: Mapping[str, float]) -> None:
    print(
        f"{workers:3d} workers {trials:4d} trials {row['seconds']:7.2f} s  "
        f"{row['linear']:.3f} of linear  {row['connections']:3.0f} connections  "
        f"{1000 * row['cpu']:4.0f} ms CPU a trial",
        flush=True,
    )


def _judged(found: Mapping[int, Sequence[Mapping[str, float]]]) -> int:
    middle = {n: statistics.median(row["linear"] for row in rows) for n, rows in found.items()}
    missed = {count: value for count, value in middle.items() if value < GOAL}
    print(f"goal, {GOAL} of linear: " + (f"missed with {sorted(missed)}" if missed else "met"))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
