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

import torch
import yaml

from examples.vision.patches import VERSION
from examples.vision.views import RANGES
from pantheon.compress.run_folder import write_json

ROOT = Path(__file__).parents[1]
SPEC, RUNS = ROOT / "benchmarks" / "table.yaml", Path("runs/table")
FRESH = {"stage": "run", "name": "fresh", "run": "benchmarks.fresh:fresh", "phase": "train"}
"""The stage that forgets all weights and keeps the shape."""

PARTS = {n: f"examples.vision.data:{n}_part" for n in ("train", "validation", "test")}


class Table:
    """What is to be run, and what was.

    A cell has a digest of every setting that decides its outcome, those of the cells it begins with
    or learns from included, and of the way in which views are made. New rows in ``table.yaml``
    leave the other records valid.

    Args:
        spec: a file such as ``table.yaml``.
        home: the folder that runs, records and page are in.
    """

    def __init__(self, spec: Path = SPEC, home: Path = ROOT) -> None:
        self.spec: dict[str, Any] = yaml.safe_load(spec.read_bytes())
        self.home, self.results = home, home / "benchmarks" / "results" / "table"
        self.device = "cuda" if torch.cuda.is_available() else "cpu"

    @property
    def rows(self) -> tuple[str, ...]:
        """What is compared with B and B+."""
        return tuple(self.spec["rows"])

    def seeds(self, row: str) -> range:
        """The seeds that a row is judged by."""
        return range(self.spec["rows"].get(row, {}).get("seeds", self.spec["seeds"]))

    def needs(self, row: str, seed: int) -> list[tuple[str, int]]:
        """The cells that a cell begins with or learns from."""
        if row == "B" or row in self.spec["teachers"]:
            return []
        asked = self.spec["rows"].get(row, {})
        taught = asked.get("teachers", ())
        return [(asked.get("from", "B"), seed), *((teacher, 0) for teacher in taught)]

    def pipeline(self, row: str, seed: int) -> dict[str, Any]:
        """The pipeline of a cell."""
        made = self._described(row, seed)
        return made | {"folder": str(self.folder(row, seed)), "device": self.device}

    def digest(self, row: str, seed: int) -> str:
        """Of what decides a cell's outcome; the names of what it begins with have their own."""
        made = self._described(row, seed)
        del made["latency"]
        made["stream"]["dataset_args"] = _deciding(made["stream"]["dataset_args"])
        return digest_of([made, repr(RANGES), VERSION])

    def folder(self, row: str, seed: int) -> Path:
        """Where a cell is run, from home."""
        return RUNS / f"{row}-{seed}-{self.digest(row, seed)[:8]}"

    def _described(self, row: str, seed: int) -> dict[str, Any]:
        """A cell's pipeline without where it is run, and on what."""
        spec, teachers = self.spec, self.spec["teachers"]
        made = self._common(seed)
        cross_entropy = [{"loss": "cross_entropy"}]
        if row in teachers:
            asked = teachers[row]
            made["stream"]["dataset_args"] = spec["data"] | asked.get("data", {})
            trained = self._train(cross_entropy, asked["epochs"], asked.get("train", {}))
            return made | _model(asked) | trained
        if row == "B":
            return made | _model(spec["student"]) | self._train(cross_entropy, spec["E"], {})
        asked = spec["rows"].get(row, {})
        made["artifact"] = str(self.folder(asked.get("from", "B"), seed))
        if row in ("B+", "plateau"):
            more = (spec["E"] + spec["F"]) // 2 if row == "plateau" else 0
            return made | self._train(cross_entropy, spec["F"] + more, spec["tune"])
        taught = asked.get("teachers", ())
        if taught:
            made["stream"]["teachers"] = {t: str(self._knowledge(t)) for t in taught}
        if len(taught) > 1:
            made["stream"]["merge"] = {"logits": "mean"}
        losses = asked.get("losses", cross_entropy)
        if asked.get("scratch"):
            trained = self._train(losses, spec["E"] + spec["F"], {})
        else:
            tuned = spec["tune"] | asked.get("train", {})
            trained = self._train(losses, asked.get("epochs", spec["F"]), tuned)
        before = [{"stage": n, **asked[n]} for n in ("prune", "search") if n in asked]
        before += [FRESH] if asked.get("scratch") else []
        if "quantize" not in asked:
            return made | {"stages": [*before, *trained["stages"]]}
        before += [{"stage": "quantize", **asked["quantize"]}]
        after = trained["stages"] if asked["epochs"] else []
        return made | {"stages": [*before, *after, {"stage": "export"}]}

    def _common(self, seed: int) -> dict[str, Any]:
        return {
            "stream": {
                "dataset": "examples.vision.data:patches",
                "dataset_args": self.spec["data"],
                "parts": PARTS,
                "batch_size": self.spec["batch_size"],
                "seed": seed,
            },
            "metric": "examples.vision.metrics:accuracy",
            "test_metric": "examples.vision.metrics:by_region",
            "latency": self.spec["latency"],
            "seed": seed,
            "threads": 1,
        }

    def _train(self, losses: list[Any], epochs: int, other: Mapping[str, Any]) -> dict[str, Any]:
        """A training with the settings of all but some `other` ones."""
        stage = {"stage": "distil", "losses": losses, "epochs": epochs, "every": 500}
        how = {"channels_last": True, "validate_every": self.spec["validate_every"]}
        return {"stages": [stage | how | {"optimizer": self.spec["train"] | other}]}

    def cells(self) -> list[tuple[str, int]]:
        """All cells, each after those that it needs."""
        teachers = [(teacher, 0) for teacher in self.spec["teachers"]]
        base, plateau = ([(row, s) for s in self.seeds(row)] for row in ("B", "plateau"))
        rows = [(row, s) for row in ("B+", *self.rows) for s in self.seeds(row)]
        return [*teachers, *base, *sorted(rows, key=lambda cell: cell[1]), *plateau]

    def record(self, row: str, seed: int) -> dict[str, Any] | None:
        """A finished cell; None if it is not.

        Raises:
            SystemExit: a record of a cell that table.yaml no longer describes.
        """
        return self._read(row, seed, self.results / f"{row}-{seed}.json")

    def record_from(self, row: str, seed: int, weights: str) -> dict[str, Any] | None:
        """A finished cell that began with these weights of B; None if there is none."""
        paths = [self.results / f"{row}-{seed}.json", self._other(row, seed, weights)]
        found = (self._read(row, seed, path) for path in paths)
        return next((each for each in found if each and root_of(each) == weights), None)

    def _other(self, row: str, seed: int, weights: str) -> Path:
        """The record of a cell that was run again and began with other weights of B."""
        return self.results / f"{row}-{seed}@{weights[:8]}.json"

    def _read(self, row: str, seed: int, path: Path) -> dict[str, Any] | None:
        if not path.exists():
            return None
        found: dict[str, Any] = json.loads(path.read_text())
        if found["cell"] != self.digest(row, seed):
            raise SystemExit(
                f"{path} is of other settings than the table has; remove it, or put them back"
            )
        return found

    def missing(self) -> list[tuple[str, int]]:
        """The cells to be run, in order: those without a record, and what these need of others.

        Records are kept in git and artifacts are not, so that a cell with a record may have to be
        trained again for the sake of one without.
        """
        found: set[tuple[str, int]] = set()
        cells = self.cells()
        for cell in reversed(cells):
            if cell not in found and self.record(*cell) is None:
                found.add(cell)
            if cell in found:
                found.update(need for need in self.needs(*cell) if not self.is_here(*need))
        return [cell for cell in cells if cell in found]

    def is_here(self, row: str, seed: int) -> bool:
        """Whether a cell was run here, so that others can begin with it or learn from it."""
        taught = row not in self.spec["teachers"] or self._dumped(row).exists()
        return taught and (self.home / self.folder(row, seed) / "summary.json").exists()

    def run(self, row: str, seed: int) -> None:
        """Train a cell, or go on with it, and write its record.

        A record that there was stays as it is. Where the cell began with other weights of B than
        that did, or is a B of other weights, as on another machine, it has a record of its own, so
        that what begins there is compared with what began there.
        """
        folder = self.folder(row, seed)
        made, path = self.pipeline(row, seed), self.home / f"{folder}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(made, sort_keys=False))
        with (self.home / f"{folder}.log").open("a") as log:
            run_pantheon(self.home, "compress", str(path), "--resume", log=log)
            if row in self.spec["teachers"]:
                self._dump(row, log)
        self.results.mkdir(parents=True, exist_ok=True)
        found, before = self._made(row, seed, made), self.record(row, seed)
        if before is None:
            write_json(self.results / f"{row}-{seed}.json", found)
        elif row not in self.spec["teachers"] and root_of(found) != root_of(before):
            write_json(self._other(row, seed, root_of(found)), found)

    def _teacher(self, teacher: str) -> dict[str, Any]:
        """How a teacher is asked."""
        return {
            "name": teacher,
            "artifact": str(self.folder(teacher, 0)),
            "dataset": "examples.vision.data:patches",
            "dataset_args": self.spec["data"],
            "schema": {"logits": "float16"},
            "threads": 1,
        }

    def _knowledge(self, teacher: str) -> Path:
        asked = self._teacher(teacher)
        asked["dataset_args"] = _deciding(asked["dataset_args"])
        return RUNS / f"knowledge-{teacher}-{digest_of(asked)[:8]}"

    def _dumped(self, teacher: str) -> Path:
        """The file that is left when a teacher's knowledge is whole."""
        return self.home / f"{self._knowledge(teacher)}.done"

    def _dump(self, teacher: str, log: Any) -> None:
        knowledge = self._knowledge(teacher)
        path = self.home / f"{knowledge}.yaml"
        path.write_text(yaml.safe_dump(self._teacher(teacher)))
        run_pantheon(self.home, "dump", str(path), str(knowledge), log=log)
        self._dumped(teacher).touch()

    def weights(self, row: str, seed: int) -> str:
        """The digest of the weights that a cell came to here."""
        return str(self._report(row, seed)["digest"])

    def _report(self, row: str, seed: int, stage: int | None = None) -> dict[str, Any]:
        """What a stage of a cell came to, by its number; by default the last."""
        stages = self._described(row, seed)["stages"]
        number = len(stages) if stage is None else stage
        name = stages[number - 1].get("name", stages[number - 1]["stage"])
        path = self.home / self.folder(row, seed) / f"{number}-{name}" / "report.json"
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    def _made(self, row: str, seed: int, made: Mapping[str, Any]) -> dict[str, Any]:
        """What a finished cell came to."""
        folder, last = self.home / made["folder"], self._report(row, seed)
        summary = json.loads((folder / "summary.json").read_text())
        # What is told of a model that was exported as integers is what these answer.
        test = summary["test"].get("int8", summary["test"]["result"])
        trained = [n for n, s in enumerate(made["stages"], 1) if s["stage"] == "distil"]
        report = self._report(row, seed, trained[-1]) if trained else {}
        history: list[dict[str, Any]] = report.get("history", [])
        epochs = made["stages"][trained[-1] - 1]["epochs"] if trained else 0
        return {
            "row": row,
            "seed": seed,
            "cell": self.digest(row, seed),
            "top1": test["top1"],
            "regions": [test[f"region_{i}"] for i in range(len(test) - 1)],
            "validation": {
                n: e["metrics"]["top1"] for n, e in enumerate(history, 1) if e["metrics"]
            },
            "losses": history[-1]["losses"] if history else {},
            "after": last["after"],
            "epochs": epochs,
            "samples": report.get("samples", 0),
            "seconds": sum(epoch["seconds"] for epoch in history),
            "digest": last["digest"],
            "from": self._began(row, seed),
            "torch": str(torch.__version__),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, {self.device}",
            **self._cut(row, seed),
            **self._integers(row, seed, summary),
        }

    def _integers(self, row: str, seed: int, summary: Mapping[str, Any]) -> dict[str, Any]:
        """What is told of the file of integers that a row was exported to."""
        stages = [stage["stage"] for stage in self._described(row, seed)["stages"]]
        if "quantize" not in stages:
            return {}
        rounded = self._report(row, seed, 1 + stages.index("quantize"))["figures"]["quantization"]
        figures = self._report(row, seed)["figures"]
        return {
            "int8": {
                "bytes": figures["int8"]["bytes"],
                "float_bytes": figures["bytes"],
                "float_operators": figures["int8"]["float_operators"],
                "reduced_range": rounded["reduced_range"],
                "agreement": summary["exported"]["int8"]["agreement"],
                "simulated": summary["test"]["result"]["top1"],
            }
        }

    def _began(self, row: str, seed: int) -> dict[str, str]:
        """The digests of the weights that a cell began with or learned from, and of what these
        did."""
        found: dict[str, str] = {}
        for need, own in self.needs(row, seed):
            found |= self._began(need, own) | {need: self.weights(need, own)}
        return found

    def _cut(self, row: str, seed: int) -> dict[str, Any]:
        """What a row had come to when it was cut, before it was trained; on the validation part."""
        if self._described(row, seed)["stages"][0]["stage"] not in ("prune", "search"):
            return {}
        after = self._report(row, seed, 1)["after"]
        return {"cut": {name: after[name] for name in ("macs", "parameters", "metric")}}


def run_pantheon(home: Path, *arguments: str, log: Any) -> None:
    """Run a command of pantheon's in a folder; its output goes to a log.

    Raises:
        RuntimeError: it failed.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pantheon", *arguments]
    done = subprocess.run(command, cwd=home, env=environment, stdout=log, stderr=log)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed; {log.name} says why")


def root_of(record: Mapping[str, Any]) -> str:
    """The digest of the weights of B that a cell began with; of B, its own."""
    return str(record["from"].get("B", record["digest"]))


def _deciding(dataset_args: Mapping[str, Any]) -> dict[str, Any]:
    """Those that say what the views are, not where they are kept."""
    return {name: args for name, args in dataset_args.items() if name not in ("hold", "cache")}


def digest_of(of: Any) -> str:
    """sha256 of JSON values, in hexadecimal."""
    return hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()


def _model(of: Mapping[str, Any]) -> dict[str, Any]:
    return {"model": of["model"], "model_args": of["model_args"]}
