"""Pruning by what teachers know, in pipelines of the command line: killed, and in two ranks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import numpy_helper

from pantheon.compress.artifact import Artifact
from tests.integration.test_compress import CODE, TEACHER, environment, finished, kill_when

PIPELINE = """
folder: run
model: toys:net
model_args: {width: 24}
stream:
  dataset: toys:data
  parts: {train: [0, 64], validation: [64, 80], test: toys:late}
  batch_size: 8
  teachers: {big: {dump: teacher.yaml, to: knowledge}}
metric: toys:accuracy
threads: 1
latency: {seconds: 0.01}
stages:
  - stage: sensitivity
    by: kl
    ratios: [0.25, 0.5]
  - stage: prune
    criterion: taylor
    strategy: sensitivity
    remove: 0.6
    losses: [{loss: kl, field: logits}]
    sensitivity: {by: kl, ratios: [0.25, 0.5, 0.75]}
    distil: {epochs: 2, losses: [{loss: kl, field: logits}]}
  - stage: sparsify
    sparsity: 0.5
    ramp: 1
    updates: 4
    distil: {epochs: 2, losses: [{loss: kl, field: logits}]}
  - stage: export
"""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "toys.py").write_text(CODE)
    (tmp_path / "teacher.yaml").write_text(TEACHER)
    (tmp_path / "pipeline.yaml").write_text(PIPELINE)
    return tmp_path


def results(folder: Path) -> dict[str, Any]:
    """All that must be the same whatever happened meanwhile."""
    graph = onnx.load(folder / "4-export" / "model.onnx").graph
    reports = {p.parent.name: json.loads(p.read_text()) for p in folder.glob("*/report.json")}
    artifacts = {p.parent.name: Artifact.load(p) for p in folder.glob("*/artifact")}
    return {
        "edits": {n: [e.to_json() for e in a.edits] for n, a in artifacts.items()},
        "artifacts": {name: artifact.digest() for name, artifact in artifacts.items()},
        "onnx": {i.name: numpy_helper.to_array(i).tobytes() for i in graph.initializer},
        "found": {n: r["figures"] for n, r in reports.items() if n != "4-export"},
        "losses": {n: [e["losses"] for e in r["history"]] for n, r in reports.items()},
    }


@pytest.mark.timeout(400)
def test_pruning_killed_wherever_it_is_ends_with_the_same_bits(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(here)
    monkeypatch.syspath_prepend(here)
    monkeypatch.delitem(sys.modules, "toys", raising=False)
    text = (here / "pipeline.yaml").read_text()
    (here / "calm.yaml").write_text(text.replace("folder: run", "folder: calm"))
    finished(here, "calm.yaml")
    run = here / "run"
    points = [
        run / "1-sensitivity" / "sensitivity.json",
        run / "2-prune" / "cycle-1" / "training.safetensors",
        run / "2-prune" / "cycle-2" / "sensitivity.json",
        run / "3-sparsify" / "training.safetensors",
    ]
    for point in points:
        kill_when(point.exists, here)
        assert not (run / "summary.json").exists()
    finished(here, "pipeline.yaml", "--resume")
    assert results(run) == results(here / "calm")
    pruned = json.loads((run / "2-prune" / "report.json").read_text())
    lefts = [cycle["left"] for cycle in pruned["figures"]["pruning"]["cycles"]]
    assert lefts == pytest.approx([0.4**0.5, 0.4], abs=0.05)
    assert pruned["after"]["macs"] / pruned["before"]["macs"] == lefts[-1]
    page = (run / "report.html").read_text()
    assert "channels of each layer before and after" in page
    assert "That is simulated: no runtime here is faster for it." in page


@pytest.mark.timeout(300)
def test_two_ranks_prune_together(here: Path) -> None:
    text = PIPELINE.replace("batch_size: 8", "batch_size: 4")
    (here / "pipeline.yaml").write_text(text)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "-m", "pantheon", "compress", "pipeline.yaml", "--json"]
    done = subprocess.run(
        command, cwd=here, env=environment(here), capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith('{"pipeline"')]
    look, prune, sparsify, export = json.loads(line)["stages"]
    assert look["figures"]["pruning"]["sensitivity"]["samples"] == 16
    assert prune["after"]["macs"] / prune["before"]["macs"] == pytest.approx(0.4, abs=0.05)
    # The first rank reads all of the training part for it, not its half.
    assert [c["recalibrated"] for c in prune["figures"]["pruning"]["cycles"]] == [64, 64]
    assert sparsify["figures"]["sparsity"]["reached"] == pytest.approx(0.5, abs=0.01)
    assert export["files"] == {"onnx": "4-export/model.onnx"}
