"""A space of which every point was trained: its nets, its table, and how the table is made."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import TensorDataset

from pantheon.compress.artifact import Artifact
from pantheon.compress.run_folder import write_json
from pantheon.compress.search.building import factory_space
from pantheon.compress.search.config import SearchConfig
from pantheon.compress.search.space import Choice, Point, digest_of, point_at
from pantheon.compress.search.storage import study_named
from pantheon.compress.search.trials import CHOSEN, COSTS, FOUND, Fate, fate_of, key_of
from pantheon.config import load
from pantheon.demo.data import held_out_part, training_part
from pantheon.stream import BatchStream

ROOT = Path(__file__).parents[1]
SEARCH, TABLE = ROOT / "benchmarks/tabulated.yaml", ROOT / "benchmarks/results/tabulated.json"


def digits() -> TensorDataset:
    """All digits: float32 ``[1, 8, 8]`` from 0 to 1, and what they are, those held out last."""
    parts = training_part(), held_out_part()
    pixels = torch.cat([part.pixels for part in parts]).reshape(-1, 1, 8, 8)
    return TensorDataset(pixels, torch.cat([part.labels for part in parts]))


def likelihood(model: nn.Module, stream: BatchStream) -> dict[str, float]:
    """The geometric mean of what a model gives the right digit, in percent; and accuracy."""
    losses, right = [], 0
    for batch in stream:
        logits = model(batch.inputs)[batch.mask]
        losses.append(nn.functional.cross_entropy(logits, batch.targets, reduction="none"))
        right += int((logits.argmax(1) == batch.targets).sum())
    every = torch.cat(losses).double()
    return {"likelihood": 100 * float((-every.mean()).exp()), "top1": 100 * right / len(every)}


@dataclass(frozen=True)
class Tabulated:
    """The space, and what became of each of its points.

    Args:
        choices: of the space.
        rows: by what tells a point from others, what it was scored and what it costs.
    """

    choices: tuple[Choice, ...]
    rows: Mapping[Any, tuple[Mapping[str, float], Mapping[str, float]]]
    start: None = None

    @classmethod
    def read(cls) -> Tabulated:
        """Read the table.

        Raises:
            SystemExit: there is none, or it is of another space.
        """
        if not TABLE.exists():
            raise SystemExit(f"{TABLE} is not there; make it with --tabulate")
        held = json.loads(TABLE.read_text())
        space = factory_space(load(SEARCH, SearchConfig).space, 0)
        if held["space"] != digest_of(space):
            raise SystemExit(f"{TABLE} is of another space than {SEARCH} has; remove it")
        rows = {
            key_of(point_at(space, row[CHOSEN])): (row[FOUND], row[COSTS]) for row in held["points"]
        }
        return cls(tuple(space.choices), rows)

    @cached_property
    def told(self) -> Mapping[str, Any]:
        """Which space it is."""
        return {"tabulated": len(self.rows)}

    def canonical(self, point: Point) -> Point:
        """The point itself."""
        return point

    def artifact(self, point: Point) -> Artifact:
        """None is made: all are scored."""
        raise NotImplementedError

    def found(self, point: Point) -> Mapping[str, float]:
        """What a point was scored."""
        return self.rows[key_of(point)][0]

    def costs(self, point: Point) -> Mapping[str, float]:
        """What a point costs."""
        return self.rows[key_of(point)][1]


def tabulate() -> None:
    """Train every point that is not trained yet, by `pantheon search`, and write the table."""
    done = subprocess.run([sys.executable, "-m", "pantheon", "search", str(SEARCH)], cwd=ROOT)
    if done.returncode:
        raise SystemExit(done.returncode)
    config = load(SEARCH, SearchConfig)
    trials = study_named(
        f"sqlite:///{ROOT / config.folder / 'search.db'}", config.name
    ).get_trials()
    scored = [trial for trial in trials if fate_of(trial) is Fate.SCORED]
    once = {key_of(trial.params): trial for trial in reversed(scored)}  # The first of each point.
    points = [{key: t.user_attrs[key] for key in (CHOSEN, FOUND, COSTS)} for t in once.values()]
    seconds = [t.duration.total_seconds() for t in scored if t.duration]
    points.sort(key=lambda point: [value for _, value in sorted(point[CHOSEN].items())])
    write_json(
        TABLE,
        {
            "space": digest_of(factory_space(config.space, 0)),
            "torch": str(torch.__version__),
            "machine": platform.machine(),
            "seconds": {"longest": max(seconds), "all": sum(seconds)},
            "points": points,
        },
    )
    print(f"{len(points)} points, {sum(seconds) / 60:.0f} minutes, {max(seconds):.0f} s at most")
