"""A compression that is killed again and again, beside one that is not.

Run ``python -m benchmarks.kills [--kills 20] [--seed 0]``. A small pipeline over the example's
image patches (a teacher that was dumped, two trainings, an export to ONNX) is run undisturbed, and
then by processes that are killed (SIGKILL) up to 4 seconds, drawn at random, after they have
written anything, and started again with ``--resume``; whenever it comes to its end, its artifacts
and the initialisers of its ONNX file are compared bit for bit with the undisturbed ones, and it
begins anew until there were enough kills. Exit status 1 if anything differs.
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import onnx
from onnx import numpy_helper

from pantheon.compress.artifact import Artifact

ROOT = Path(__file__).parents[1]

DATA = """
  dataset: examples.vision.data:patches
  dataset_args: {classes: 10, train: 60, validation: 10, test: 10, hold: true}
"""

TEACHER = """
name: big
artifact: teacher
dataset: examples.vision.data:patches
dataset_args: {classes: 10, train: 60, validation: 10, test: 10, hold: true}
schema: {logits: float16}
deterministic: true
threads: 1
"""

PIPELINE = f"""
folder: FOLDER
model: examples.vision.nets:mobilenet_v1
model_args: {{width: 0.25, classes: 10}}
stream: {DATA}
  parts:
    train: examples.vision.data:train_part
    validation: examples.vision.data:validation_part
    test: examples.vision.data:test_part
  batch_size: 32
  teachers: {{big: {{dump: teacher.yaml, to: knowledge}}}}
metric: examples.vision.metrics:accuracy
threads: 1
latency: {{seconds: 0.2}}
stages:
  - stage: distil
    epochs: 4
    every: 5
    losses: [{{loss: kl, field: logits, temperature: 4}}, {{loss: cross_entropy, weight: 0.1}}]
    optimizer: {{name: sgd, lr: 0.05, momentum: 0.9, schedule: cosine}}
  - stage: distil
    name: tune
    epochs: 2
    every: 5
    losses: [{{loss: cross_entropy}}]
    optimizer: {{name: sgd, lr: 0.01, momentum: 0.9}}
  - stage: export
"""


def compress(here: Path, name: str) -> subprocess.Popen[bytes]:
    """The pipeline in a folder of its own, gone on with."""
    (here / f"{name}.yaml").write_text(PIPELINE.replace("FOLDER", name))
    return subprocess.Popen(
        [sys.executable, "-m", "pantheon", "compress", f"{name}.yaml", "--resume", "--json"],
        cwd=here,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )


def result(folder: Path) -> dict[str, object]:
    """All bits that must not differ."""
    graph = onnx.load(folder / "3-export" / "model.onnx").graph
    found: dict[str, object] = {
        i.name: numpy_helper.to_array(i).tobytes() for i in graph.initializer
    }
    return found | {
        str(p.parent.name): Artifact.load(p).digest() for p in folder.glob("*/artifact")
    }


def killed(here: Path, rng: random.Random, kills: int) -> collections.Counter[str]:
    """Kill the pipeline until it comes to its end, or often enough; in which stages it was."""
    found: collections.Counter[str] = collections.Counter()
    while True:
        with compress(here, "killed") as process:
            if found.total() < kills:
                wait_for_work(process, here / "killed")
                time.sleep(rng.uniform(0, 4))
                if process.poll() is None:
                    where = at(here / "killed")
                    process.send_signal(signal.SIGKILL)
                    process.wait()
                    found[where] += 1
                    continue
            status = process.wait()
        if status:
            raise SystemExit(f"the pipeline ended with status {status}")
        return found


def wait_for_work(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Wait until a run has written anything since now, or has ended."""
    began = time.time()
    while process.poll() is None:
        if any(p.stat().st_mtime > began for p in folder.glob("*/*") if p.exists()):
            return
        time.sleep(0.02)


def at(folder: Path) -> str:
    """What a run was doing, by what it left."""
    stages = [p.name for p in sorted(folder.glob("[1-9]-*")) if not (p / "report.json").exists()]
    return stages[-1] if stages else "before or between the stages"


def main() -> None:
    """Run it and print what came of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rng, total, rounds = random.Random(given.seed), collections.Counter[str](), 0
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        teacher(here)
        began = time.monotonic()
        with compress(here, "calm") as process:
            if process.wait():
                raise SystemExit("the undisturbed pipeline failed")
        print(f"undisturbed: {time.monotonic() - began:.0f} s", flush=True)
        expected = result(here / "calm")
        while total.total() < given.kills:
            total += killed(here, rng, given.kills - total.total())
            rounds += 1
            if result(here / "killed") != expected:
                raise SystemExit(f"after {total.total()} kills the result differs")
            print(f"{total.total()} kills: the same {len(expected)} results", flush=True)
            shutil.rmtree(here / "killed")
    where = ", ".join(f"{count} in {name}" for name, count in sorted(total.items()))
    print(f"{total.total()} kills ({where}), {rounds} runs that all ended with the same bits")


def teacher(here: Path) -> None:
    """An artifact to dump from, with weights that a seed fixes."""
    import torch

    torch.manual_seed(0)
    sys.path.insert(0, str(ROOT))
    made = Artifact.make("examples.vision.nets:resnet18", {"width": 0.25, "classes": 10})
    made.save(here / "teacher")
    (here / "teacher.yaml").write_text(TEACHER)


if __name__ == "__main__":
    main()
