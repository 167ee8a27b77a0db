"""The nets that a search is judged by: chosen, trained to the end and timed, each once."""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from rich.progress import track

from benchmarks.table_cells import PARTS, ROOT, digest_of, run_pantheon
from pantheon.compress.artifact import Artifact
from pantheon.compress.export import Export
from pantheon.compress.inputs import fed
from pantheon.compress.latency import compare_latency
from pantheon.compress.latency_table.device import this_device
from pantheon.compress.onnx_model import onnx_session
from pantheon.compress.run_folder import write_json
from pantheon.compress.search.config import SearchConfig
from pantheon.compress.search.factory_space import FactorySpace
from pantheon.compress.search.scoring import ShortTraining
from pantheon.compress.search.search import searching
from pantheon.compress.search.space import Choice, Point, Space, point_at
from pantheon.compress.search.task import Task, excess, keeps
from pantheon.compress.search.trials import CHOSEN, FOUND, Fate, Tally, fate_of
from pantheon.compress.search.worker import Worker
from pantheon.config import SourceConfig, load

SPEC, RUNS = ROOT / "benchmarks" / "winners.yaml", Path("runs/winners")
RESULTS = ROOT / "benchmarks" / "results" / "winners"
NETS, TIMES = RESULTS / "nets.json", RESULTS / "latency.json"
FACTORY = "pantheon.nets:mobilenet_v2"
BASE = "width-1.0"


@dataclass(frozen=True, slots=True)
class Net:
    """A net to train.

    Args:
        name: what it is called here.
        kind: ``winner``, ``chance``, ``width``, or ``ranked``, by chance and trained once.
        args: of the factory.
        score: what a short training, as the search's, came to.
    """

    name: str
    kind: str
    args: Mapping[str, Any]
    score: float


class Winners:
    """What is trained, and what it came to.

    Args:
        spec: what ``winners.yaml`` says.
    """

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.spec = spec
        self.search = load(ROOT / spec["search"], SearchConfig)

    @cached_property
    def nets(self) -> list[Net]:
        """The nets, each of which is chosen once."""
        found = [Net(**told) for told in json.loads(NETS.read_text())] if NETS.exists() else []
        if len(found) < len(self.spec["widths"]) + self.spec["count"] + self.spec["ranked"]:
            RESULTS.mkdir(parents=True, exist_ok=True)
            found = self._chosen({net.name: net for net in found})
            write_json(NETS, [asdict(net) for net in found])
        return found

    def _chosen(self, known: Mapping[str, Net]) -> list[Net]:
        """The best points of the search, others by chance, and the paper's net in other widths.

        Args:
            known: those that were chosen before, by name.
        """
        with searching(self.search) as worker:
            space, short = worker.task.space, worker.task.score
            assert isinstance(short, ShortTraining)
            args, choice = self.search.space.model_args, Choice("width", self.spec["widths"])
            wide = FactorySpace(FACTORY, args, (choice,), self.search.seed)
            best, others = self._best(worker), self._by_chance(worker.task)
            widths = [(f"width-{width}", {"width": n}) for n, width in enumerate(choice.values)]
            some = self.spec["count"]
            asked: list[tuple[str, str, Space, Point]] = [
                *((f"winner-{n}", "winner", space, point) for n, point in enumerate(best, 1)),
                *(
                    (f"chance-{n}", "chance" if n <= some else "ranked", space, point)
                    for n, point in enumerate(others, 1)
                ),
                *((name, "width", wide, point) for name, point in widths),
            ]
            told = []
            for name, kind, own, point in track(asked, "short scores"):
                net = known.get(name)
                if net is None:
                    found = replace(short, space=own)(point, lambda step, value: None)
                    net = Net(name, kind, own.artifact(point).args, found[self.by])
                told.append(net)
        return told

    def seeds(self, net: Net) -> range:
        """Of a net's trainings."""
        return range(1 if net.kind == "ranked" else self.spec["seeds"])

    @property
    def judged(self) -> list[Net]:
        """The nets that are trained with all seeds."""
        return [net for net in self.nets if net.kind != "ranked"]

    @property
    def by(self) -> str:
        """What points are judged by."""
        return next(iter(self.search.objectives))

    def _best(self, worker: Worker) -> list[Point]:
        """The best points."""
        trials = worker.study.get_trials(deepcopy=False)
        scored = [trial for trial in trials if fate_of(trial) is Fate.SCORED]
        told = Tally.of(trials).told
        if told < self.search.trials or len(scored) < self.spec["count"]:
            raise SystemExit(
                f"{told} of {self.search.trials} trials are done, and {len(scored)} have a score; "
                f"first run pantheon search {self.spec['search']}"
            )
        scored.sort(key=lambda trial: -trial.user_attrs[FOUND][self.by])
        space = worker.task.space
        return [point_at(space, t.user_attrs[CHOSEN]) for t in scored[: self.spec["count"]]]

    def _by_chance(self, task: Task) -> list[Point]:
        """Points by chance within the limits."""
        chance, found = np.random.default_rng(0), list[Point]()
        while len(found) < self.spec["ranked"]:
            point = {c.name: int(chance.integers(len(c.values))) for c in task.space.choices}
            if keeps(excess(task.costs(point), task.limits)):
                found.append(point)
        return found

    def pipeline(self, net: Net, seed: int) -> dict[str, Any]:
        """The pipeline that trains a net."""
        stream = self.search.stream.model_dump(mode="json", exclude_unset=True)
        score = self.search.score.model_dump(mode="json", exclude_unset=True)
        stage = {"stage": "distil", "epochs": self.spec["epochs"], "losses": score["losses"]}
        stage |= {"optimizer": self.spec["optimizer"], "channels_last": True, "every": 500}
        return {
            "model": FACTORY,
            "model_args": dict(net.args),
            "stream": stream
            | {"parts": PARTS, "seed": seed, "batch_size": self.spec["batch_size"]},
            "metric": self.search.metric,
            "test_metric": "examples.vision.metrics:by_region",
            "latency": {"seconds": 0.5},
            "seed": seed,
            "threads": 1,
            "stages": [stage | {"validate_every": 5}],
        }

    def record(self, net: Net, seed: int) -> dict[str, Any] | None:
        """What a net came to; None before it is trained.

        Raises:
            SystemExit: it is of other settings.
        """
        path = RESULTS / f"{net.name}-{seed}.json"
        if not path.exists():
            return None
        found: dict[str, Any] = json.loads(path.read_text())
        if found["cell"] != self.digest(net, seed):
            raise SystemExit(f"{path} is of other settings; remove it, or put them back")
        return found

    def digest(self, net: Net, seed: int) -> str:
        """Of all that decides what a net comes to."""
        made = self.pipeline(net, seed)
        del made["latency"]
        return digest_of(made)

    def train(self, net: Net, seed: int) -> None:
        """Train a net, or go on with it, and write its record."""
        folder = RUNS / f"{net.name}-{seed}-{self.digest(net, seed)[:8]}"
        path = ROOT / f"{folder}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        asked = self.pipeline(net, seed) | {"folder": str(folder)}
        path.write_text(yaml.safe_dump(asked, sort_keys=False))
        with path.with_suffix(".log").open("a") as log:
            run_pantheon(ROOT, "compress", str(path), "--resume", log=log)
        summary = json.loads((ROOT / folder / "summary.json").read_text())
        report = json.loads((ROOT / folder / "1-distil" / "report.json").read_text())
        test = summary["test"]["result"]
        found = {
            "net": net.name,
            "seed": seed,
            "cell": self.digest(net, seed),
            "top1": test["top1"],
            "regions": [test[f"region_{i}"] for i in range(len(test) - 1)],
            "validation": report["after"]["metric"],
            "macs": report["after"]["macs"],
            "parameters": report["after"]["parameters"],
            "seconds": report["seconds"],
            "taught": self.taught(),
            "torch": str(torch.__version__),
        }
        write_json(RESULTS / f"{net.name}-{seed}.json", found)
        print(f"{net.name}, seed {seed}: {test['top1']:.2f} % of the test views", flush=True)

    def taught(self) -> dict[str, str]:
        """Digests of the dumps that nets learn from, by teacher: another machine's may differ."""
        sources = self.search.stream.teachers.items()
        dumps = {name: given.to for name, given in sources if isinstance(given, SourceConfig)}
        return {
            name: hashlib.sha256(Path(ROOT, to, "manifest.json").read_bytes()).hexdigest()
            for name, to in dumps.items()
            if to
        }

    def train_all(self, jobs: int) -> None:
        """Train what is missing, one seed of every net before the next."""
        cells = [(net, seed) for net in self.nets for seed in self.seeds(net)]
        cells.sort(key=lambda cell: cell[1])
        left = [cell for cell in cells if self.record(*cell) is None]
        with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            runs = [pool.submit(self.train, *cell) for cell in left]
            try:
                for run in concurrent.futures.as_completed(runs):
                    run.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def time(self) -> dict[str, Any]:
        """Milliseconds of every net, and beside the paper's; measured once, kept."""
        if not TIMES.exists():
            write_json(TIMES, self._timed())
        found: dict[str, Any] = json.loads(TIMES.read_text())
        return found

    def _timed(self) -> dict[str, Any]:
        images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        calls = {}
        with tempfile.TemporaryDirectory() as folder:
            for net in sorted(self.judged, key=lambda net: net.name != BASE):
                file = Path(folder, f"{net.name}.onnx")
                model = Artifact.make(FACTORY, net.args).model.eval()
                Export(dynamic_batch=False).write(model, images, file)
                session = onnx_session(file, 1)
                feed = fed(images, [each.name for each in session.get_inputs()])
                calls[net.name] = partial(session.run, None, feed)
            found = compare_latency(calls, runtime="onnxruntime", threads=1, **self.spec["latency"])
        return {
            "machine": asdict(this_device()),
            "milliseconds": {name: each.median for name, each in found.latencies.items()},
            "beside": {name: asdict(ratio) for name, ratio in found.ratios.items()},
        }
