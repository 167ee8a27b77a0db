"""A worker of a search on a space that costs nothing but time; run as a process of its own."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from benchmarks.search_scaling import Wide
from pantheon.compress.search.samplers import sampler_of
from pantheon.compress.search.space import Point
from pantheon.compress.search.storage import storage_at, study_in
from pantheon.compress.search.task import Report, Task, directions
from pantheon.compress.search.worker import Worker


def searching(log: Path, seconds: float) -> Task:
    """Half of the points are beyond the limit; a line is written of each that is scored."""

    def score(point: Point, report: Report) -> dict[str, float]:
        time.sleep(seconds)
        with log.open("a") as file:
            file.write(" ".join(map(str, point.values())) + "\n")
        return {"sum": float(sum(point.values()))}

    return Task(
        Wide(),
        {"sum": "maximise"},
        score,
        costs=lambda point: {"cost": 1.0 + sum(point.values())},
        limits={"cost": 28.0},
    )


def main(url: str, log: str, trials: str, seconds: str, patience: str = "60") -> None:
    """Work until the budget is spent."""
    task = searching(Path(log), float(seconds))
    storage = storage_at(url, 1, 3, float(patience))
    sampler = sampler_of("random", task.space.choices, 0, int(trials))
    study = study_in(storage, "killed", {}, directions(task.objectives), sampler)
    print("ready", flush=True)
    Worker(study=study, task=task, trials=int(trials), grace=3, poll=0.2).run()
    assert "torch" not in sys.modules


if __name__ == "__main__":
    main(*sys.argv[1:])
