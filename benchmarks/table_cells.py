"""The cells of the table: a row and a seed each, what they are made by, and what they came to."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from benchmarks.paired import Accuracies, Difference, compare
from examples.vision.regions import regions
from pantheon.compress.run_folder import write_json

ROOT = Path(__file__).parents[1]
SPEC, RUNS = ROOT / "benchmarks" / "table.yaml", ROOT / "runs" / "table"
RESULTS, PAGE = ROOT / "benchmarks" / "results" / "table", ROOT / "docs" / "results.md"
PICTURE = ROOT / "docs" / "results.png"
BASE = ("B", "B+", "plateau")
PARTS = {n: f"examples.vision.data:{n}_part" for n in ("train", "validation", "test")}


class Table:
    """What is to be run, and what was."""

    def __init__(self) -> None:
        text = SPEC.read_bytes()
        self.spec: dict[str, Any] = yaml.safe_load(text)
        self.digest = hashlib.sha256(text).hexdigest()
        self.runs = RUNS / self.digest[:8]
        self.device = "cuda" if torch.cuda.is_available() else "cpu"

    def pipeline(self, row: str, seed: int) -> dict[str, Any]:
        """The pipeline of a cell."""
        spec, teachers = self.spec, self.spec["teachers"]
        made = self._common(f"{row}-{seed}", seed)
        cross_entropy = [{"loss": "cross_entropy"}]
        if row in teachers:
            asked = teachers[row]
            trained = self._train(
                cross_entropy, asked["epochs"], spec["train"] | {"lr": asked["lr"]}
            )
            return made | _model(asked) | trained
        if row == "B":
            return (
                made
                | _model(spec["student"])
                | self._train(cross_entropy, spec["E"], spec["train"])
            )
        made["artifact"] = str(self.runs / f"B-{seed}")
        if row in BASE:
            more = spec["plateau"]["epochs"] if row == "plateau" else 0
            return made | self._train(cross_entropy, spec["F"] + more, spec["tune"])
        asked = spec["rows"][row]
        made["stream"]["teachers"] = {
            t: str(self.runs / f"knowledge-{t}") for t in asked["teachers"]
        }
        if len(asked["teachers"]) > 1:
            made["stream"]["merge"] = {"logits": "mean"}
        return made | self._train(asked["losses"], spec["F"], spec["tune"])

    def _common(self, name: str, seed: int) -> dict[str, Any]:
        return {
            "folder": str(self.runs / name),
            "stream": {
                "dataset": "examples.vision.data:patches",
                "dataset_args": self.spec["data"],
                "parts": PARTS,
                "batch_size": self.spec["batch_size"],
                "seed": seed,
            },
            "metric": "examples.vision.metrics:accuracy",
            "test_metric": "examples.vision.metrics:by_region",
            "seed": seed,
            "device": self.device,
            "threads": 1,
        }

    def _train(self, losses: list[Any], epochs: int, optimizer: Any) -> dict[str, Any]:
        stage = {"stage": "distil", "losses": losses, "epochs": epochs, "every": 100}
        return {"stages": [stage | {"optimizer": optimizer}]}

    def cells(self, seeds: int) -> list[list[tuple[str, int]]]:
        """All cells, in groups of which each needs those before it."""
        rows = ("B+", *self.spec["rows"])
        first = [(t, 0) for t in self.spec["teachers"]] + [("B", s) for s in range(seeds)]
        return [first, [(row, s) for s in range(seeds) for row in rows], [("plateau", 0)]]

    def record(self, row: str, seed: int) -> dict[str, Any] | None:
        """A finished cell; None if it is not.

        Raises:
            SystemExit: a record of another table.yaml.
        """
        path = RESULTS / f"{row}-{seed}.json"
        if not path.exists():
            return None
        found: dict[str, Any] = json.loads(path.read_text())
        if found["spec"] != self.digest:
            raise SystemExit(f"{path} is of another {SPEC.name}; remove it, or put that back")
        return found

    def run(self, row: str, seed: int) -> None:
        """Train a cell, or go on with it, and write its record."""
        if self.record(row, seed) is not None:
            return
        name = f"{row}-{seed}"
        made = self.pipeline(row, seed)
        self.runs.mkdir(parents=True, exist_ok=True)
        (self.runs / f"{name}.yaml").write_text(yaml.safe_dump(made, sort_keys=False))
        with (self.runs / f"{name}.log").open("a") as log:
            _pantheon("compress", str(self.runs / f"{name}.yaml"), "--resume", log=log)
            if row in self.spec["teachers"]:
                self._dump(row, log)
        self._write(row, seed, made)

    def _dump(self, teacher: str, log: Any) -> None:
        asked = {
            "name": teacher,
            "artifact": str(self.runs / f"{teacher}-0"),
            "dataset": "examples.vision.data:patches",
            "dataset_args": self.spec["data"],
            "schema": {"logits": "float16"},
            "threads": 1,
        }
        path = self.runs / f"teacher-{teacher}.yaml"
        path.write_text(yaml.safe_dump(asked))
        _pantheon("dump", str(path), str(self.runs / f"knowledge-{teacher}"), log=log)

    def _write(self, row: str, seed: int, made: Mapping[str, Any]) -> None:
        folder = self.runs / f"{row}-{seed}"
        report = json.loads((folder / "1-distil" / "report.json").read_text())
        test = json.loads((folder / "summary.json").read_text())["test"]["result"]
        RESULTS.mkdir(parents=True, exist_ok=True)
        record = {
            "row": row,
            "seed": seed,
            "spec": self.digest,
            "top1": test["top1"],
            "regions": [test[f"region_{i}"] for i in range(len(test) - 1)],
            "validation": [epoch["metrics"]["top1"] for epoch in report["history"]],
            "after": report["after"],
            "epochs": made["stages"][0]["epochs"],
            "samples": report["samples"],
            "seconds": sum(epoch["seconds"] for epoch in report["history"]),
            "digest": report["digest"],
            "torch": str(torch.__version__),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, {self.device}",
        }
        write_json(RESULTS / f"{row}-{seed}.json", record)


def _model(of: Mapping[str, Any]) -> dict[str, Any]:
    return {"model": of["model"], "model_args": of["model_args"]}


def _pantheon(*arguments: str, log: Any) -> None:
    """Run a command; its output goes to the cell's log."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pantheon", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed; {log.name} says why")


def accuracies(table: Table, row: str) -> dict[int, list[float]]:
    """Accuracy by region of a row's finished seeds."""
    paths = sorted(RESULTS.glob(f"{row}-*.json"))
    seeds = [int(p.stem.rpartition("-")[2]) for p in paths if p.stem.rpartition("-")[0] == row]
    found = {seed: table.record(row, seed) for seed in seeds}
    return {seed: record["regions"] for seed, record in found.items() if record}


def difference(table: Table, row: str, baseline: str) -> Difference | None:
    """How much better a row is, over the seeds that both have; None for fewer than two."""
    ours, theirs = accuracies(table, row), accuracies(table, baseline)
    seeds = sorted(ours.keys() & theirs.keys())
    if len(seeds) < 2:
        return None
    pair: tuple[Accuracies, Accuracies] = (
        np.array([ours[s] for s in seeds]),
        np.array([theirs[s] for s in seeds]),
    )
    return compare(*pair, [region.photograph for region in regions(len(pair[0][0]))])


def better(table: Table) -> str:
    """The better of B and B+, by their mean over the seeds that both have."""
    found = difference(table, "B+", "B")
    return "B" if found is not None and found.mean < 0 else "B+"
