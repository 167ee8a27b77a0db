"""Pipelines from YAML files: run by the command line, killed, gone on with, and wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import numpy_helper
from typer.testing import CliRunner

from pantheon.cli import app
from pantheon.compress.artifact import Artifact
from pantheon.compress.pipeline import Pipeline
from pantheon.errors import ResumeMismatch

ROOT = Path(__file__).parents[2]

CODE = """
import torch
from torch import nn


def data():
    torch.manual_seed(5)
    x = torch.randn(96, 6)
    return torch.utils.data.TensorDataset(x, (x[:, 0] + x[:, 1] > 0).long())


def net(width=8):
    return nn.Sequential(nn.Linear(6, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 2))


def big():
    torch.manual_seed(1)
    return net(32)


def maps():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Unflatten(1, (4, 2)), nn.Flatten(),
                         nn.Linear(8, 2))


def accuracy(model, stream):
    right = sum((model(b.inputs).argmax(1) == b.targets).sum().item() for b in stream)
    return {"accuracy": 100 * right / sum(len(b.ids) for b in stream)}


def nan(model, stream):
    return {"accuracy": float("nan")}


def late(dataset):
    return range(80, 96)


def untouched(artifact, work):
    return artifact


def shifted(artifact, work):
    with torch.no_grad():
        artifact.model[0].bias += 1
    return artifact


class Cached(nn.Module):
    # Keeps a table that grows with the batch, as models keep those of positions.
    def __init__(self):
        super().__init__()
        self.layer, self.table = nn.Linear(6, 2), torch.ones(0, 1)

    def forward(self, x):
        if len(self.table) < len(x):
            self.table = x.sum(1, keepdim=True) * 0 + 1
        return self.layer(x) * self.table[:len(x)]


def whole(model, stream):
    x = torch.cat([b.inputs for b in stream])
    return {"mean": model(x).mean().item()}
"""

TEACHER = """
model: toys:big
dataset: toys:data
schema: {logits: float32, mid: float32}
features: {mid: "2"}
threads: 1
"""

PIPELINE = """
folder: run
model: toys:net
stream:
  dataset: toys:data
  parts: {train: [0, 64], validation: [64, 80], test: toys:late}
  batch_size: 8
  teachers: {big: {dump: teacher.yaml, to: knowledge}}
metric: toys:accuracy
threads: 1
latency: {seconds: 0.01}
stages:
  - stage: distil
    epochs: 3
    every: 3
    losses:
      - {loss: kl, field: logits, temperature: 2, weight: {start: 1, end: 0.5, until: 3}}
      - {loss: feature, field: mid, layer: "2", align: auto}
      - {loss: cross_entropy, weight: 0.5}
    optimizer: {name: adam, lr: 0.01, schedule: cosine}
  - stage: distil
    name: tune
    epochs: 2
    losses: [{loss: kl, field: logits}]
    ema: {decay: 0.9}
    accumulate: 3
    precision: bfloat16
    optimizer: {clip_norm: 1, warmup_steps: 2, schedule: linear}
  - stage: export
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "toys", raising=False)
    Path("toys.py").write_text(CODE)
    Path("teacher.yaml").write_text(TEACHER)
    Path("pipeline.yaml").write_text(PIPELINE)
    return tmp_path


def environment(here: Path) -> dict[str, str]:
    path = os.pathsep.join([str(here), str(ROOT)])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "160"}


def compress(here: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "pantheon", "compress", *options],
        cwd=here,
        env=environment(here),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(here: Path, *options: str) -> str:
    with compress(here, *options) as process:
        out, err = process.communicate(timeout=150)
    assert process.returncode == 0, err
    return out


def results(folder: Path) -> dict[str, Any]:
    """All that must be the same whatever happened meanwhile."""
    graph = onnx.load(folder / "3-export" / "model.onnx").graph
    reports = {p.parent.name: json.loads(p.read_text()) for p in folder.glob("*/report.json")}
    return {
        "artifacts": {p.parent.name: Artifact.load(p).digest() for p in folder.glob("*/artifact")},
        "onnx": {i.name: numpy_helper.to_array(i).tobytes() for i in graph.initializer},
        "digests": {name: report["digest"] for name, report in reports.items()},
        "losses": {name: [e["losses"] for e in r["history"]] for name, r in reports.items()},
        "test": json.loads((folder / "summary.json").read_text())["test"],
    }


@pytest.mark.timeout(400)
def test_a_pipeline_killed_in_every_stage_ends_with_the_same_bits(here: Path) -> None:
    text = Path("pipeline.yaml").read_text()
    Path("calm.yaml").write_text(text.replace("folder: run", "folder: calm"))
    finished(here, "calm.yaml")
    run = here / "run"
    points = [
        run / "1-distil" / "training.safetensors",
        run / "1-distil" / "report.json",  # Between two stages, the second without a checkpoint.
        run / "2-tune" / "training.safetensors",
        run / "3-export" / "model.onnx",
    ]
    for point in points:
        kill_when(point.exists, here)
        assert not (run / "summary.json").exists()
    out = finished(here, "pipeline.yaml", "--resume")
    assert "test part, result: accuracy" in out
    assert "run/report.html shows it" in out
    assert "data:image/png;base64," in (run / "report.html").read_text()
    assert results(run) == results(here / "calm")


def kill_when(there: Callable[[], bool], here: Path) -> None:
    with compress(here, "pipeline.yaml", "--resume") as process:
        end = time.monotonic() + 150
        while not there() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL, process.stderr


@pytest.mark.timeout(200)
def test_a_report_says_what_each_stage_came_to(here: Path) -> None:
    out = json.loads(finished(here, "pipeline.yaml", "--json").splitlines()[-1])
    distil, tune, export = out["stages"]
    assert [s["stage"] for s in out["stages"]] == ["distil", "tune", "export"]
    assert distil["samples"] == 3 * 64
    assert tune["before"] == distil["after"]
    assert distil["after"]["macs"] == 6 * 8 + 8 * 2
    assert distil["after"]["parameters"] == 6 * 8 + 8 + 16 + 8 * 2 + 2
    assert distil["after"]["counter"].startswith("torch.utils.flop_counter")
    assert distil["after"]["latency"]["threads"] == 1
    assert distil["after"]["teacher"]["samples"] == 16
    assert distil["after"]["original"]["kl"] > 0
    assert distil["before"]["original"] is None
    assert [e["metrics"].keys() for e in distil["history"]] == [{"accuracy"}] * 3
    assert [e["losses"].keys() for e in distil["history"]] == [
        {"kl", "feature", "cross_entropy"}
    ] * 3
    assert (distil["changed"], export["changed"]) == (True, False)
    assert export["files"] == {"onnx": "3-export/model.onnx"}
    assert export["figures"]["largest_difference"] < 1e-4
    assert out["test"].keys() == {"original", "result"}
    assert distil["seed"] != tune["seed"]
    (artifact,) = (here / "run" / "1-distil").glob("artifact")
    assert distil["after"]["bytes"] == sum(p.stat().st_size for p in artifact.iterdir())


def test_a_dry_run_shows_the_plan_and_does_nothing(here: Path) -> None:
    told = CliRunner().invoke(app, ["compress", "pipeline.yaml", "--dry-run", "--json"])
    assert told.exit_code == 0, told.output
    (plan,) = json.loads(told.output)["pipelines"]
    assert plan["parts"] == {"train": 64, "validation": 16, "test": 16}
    assert [s["epochs"] for s in plan["stages"]] == [3, 2, 0]
    assert plan["teachers"]["big"][1] == 5 * 64 + 4 * 16
    assert not Path("run").exists()
    assert not Path("knowledge").exists()


def wrong(text: str, **replaced: str) -> str:
    """What the command says about a pipeline in which something was replaced."""
    for old, new in replaced.items():
        text = text.replace(KEYS[old], new)
    Path("pipeline.yaml").write_text(text)
    told = CliRunner().invoke(app, ["compress", "pipeline.yaml"])
    assert told.exit_code in (1, 2), told.output
    return " ".join(told.stderr.split())


KEYS = {
    "layer": 'layer: "2"',
    "model": "model: toys:net",
    "metric": "metric: toys:accuracy",
    "stages": "stages:\n",
    "epochs": "epochs: 3",
    "teacher": "{big: {dump: teacher.yaml, to: knowledge}}",
    "field": "field: mid",
}


@pytest.fixture
def quick(here: Path) -> str:
    """The pipeline with a teacher in its process, so that what is wrong is found in no time."""
    return PIPELINE.replace(KEYS["teacher"], "{big: {local: teacher.yaml}}")


def test_a_layer_that_matches_nothing_is_named_with_the_nearest(quick: str) -> None:
    said = wrong(quick, layer="layer: blocks.2")
    assert "Sequential has no module 'blocks.2'" in said
    assert "0, 1, 2, 3" in said


def test_shapes_that_cannot_be_aligned_are_both_named(quick: str) -> None:
    said = wrong(quick, layer='layer: "2"', model="model: toys:maps")
    assert "(4, 2)" in said
    assert "(32,)" in said


def test_a_factory_that_cannot_be_imported_is_named_with_its_line(quick: str) -> None:
    assert "pipeline.yaml:3: model: toys has no 'nett'; did you mean 'net'?" in wrong(
        quick, model="model: toys:nett"
    )


def test_an_unknown_key_of_a_stage_is_named_with_its_line_and_the_nearest(quick: str) -> None:
    said = wrong(quick, epochs="epoch: 3")
    assert "pipeline.yaml:14: unknown key 'epoch'; did you mean 'epochs'?" in said
    assert "validate_every" in said


def test_an_order_that_makes_no_sense_is_refused(quick: str) -> None:
    first = "stages:\n  - {stage: export, name: early}\n"
    assert "stage 'distil' would change the model after 'early' exported it" in wrong(
        quick, stages=first
    )
    quantize = "stages:\n  - {stage: run, run: toys:untouched, phase: quantize, name: int8}\n"
    prune = quantize + "  - {stage: run, run: toys:untouched, phase: prune, name: thin}\n"
    said = wrong(quick, stages=prune)
    assert "stage 'thin' would prune after 'int8' did quantize" in said
    assert not Path("run").exists()


def test_a_metric_that_is_no_number_is_refused(quick: str) -> None:
    said = wrong(quick, metric="metric: toys:nan")
    assert "the metric nan answered accuracy = nan; expected a finite number" in said


def test_a_stage_that_changed_nothing_is_refused(quick: str) -> None:
    stages = "stages:\n  - {stage: run, run: toys:untouched, phase: prune, name: thin}\n"
    assert "stage 'thin' left the model as it was" in wrong(quick, stages=stages)


def test_a_stage_that_changed_what_it_only_looks_at_is_refused(quick: str) -> None:
    stages = "stages:\n  - {stage: run, run: toys:shifted, phase: analyse, name: look}\n"
    assert "stage 'look' is to analyse and changed the model" in wrong(quick, stages=stages)


def test_a_run_is_not_gone_on_with_unasked_nor_with_other_settings(quick: str) -> None:
    short = quick.replace("epochs: 3", "epochs: 1")
    Path("pipeline.yaml").write_text(short)
    assert CliRunner().invoke(app, ["compress", "pipeline.yaml"]).exit_code == 0
    assert "run holds a run already; go on with it (--resume)" in wrong(short)
    text = quick.replace("batch_size: 8", "batch_size: 16")
    Path("pipeline.yaml").write_text(text)
    told = CliRunner().invoke(app, ["compress", "pipeline.yaml", "--resume"])
    said = " ".join(told.stderr.split())
    assert "stages[0].epochs: 1 then, 3 now" in said
    assert "stream.batch_size: 8 then, 16 now" in said


def test_what_a_finished_run_came_to_is_told_again_without_its_teachers(quick: str) -> None:
    Path("pipeline.yaml").write_text(quick)
    told = CliRunner().invoke(app, ["compress", "pipeline.yaml", "--json"])
    assert told.exit_code == 0, told.output
    Path("teacher.yaml").unlink()
    again = CliRunner().invoke(app, ["compress", "pipeline.yaml", "--resume", "--json"])
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout) == json.loads(told.stdout)
    assert "run holds a run already" in wrong(quick)


def test_a_run_that_failed_before_it_learned_anything_is_begun_anew(quick: str) -> None:
    assert "accuracy = nan" in wrong(quick, metric="metric: toys:nan")
    Path("pipeline.yaml").write_text(quick)
    told = CliRunner().invoke(app, ["compress", "pipeline.yaml"])
    assert told.exit_code == 0, told.output


def test_pipelines_that_need_each_other_are_refused(quick: str) -> None:
    Path("other.yaml").write_text(quick.replace("folder: run", "folder: o\nneeds: [pipeline.yaml]"))
    said = wrong(quick.replace("folder: run", "folder: run\nneeds: [other.yaml]"))
    assert "pipelines need each other: pipeline.yaml -> other.yaml -> pipeline.yaml" in said


def test_what_a_pipeline_needs_is_run_first_and_its_artifact_taken(quick: str) -> None:
    first = quick.replace("folder: run", "folder: first").split("  - stage: distil\n    name")[0]
    Path("first.yaml").write_text(first)
    then = quick.replace("folder: run", "folder: run\nneeds: [first.yaml]")
    then = then.replace("model: toys:net", "artifact: first")
    stages = "stages:\n  - {stage: distil, losses: [{loss: cross_entropy}]}\n"
    Path("pipeline.yaml").write_text(then.split("stages:")[0] + stages)
    told = CliRunner().invoke(app, ["compress", "pipeline.yaml"])
    assert told.exit_code == 0, told.output
    assert (
        Artifact.load("run/0-original/artifact").digest()
        == Artifact.load("first/1-distil/artifact").digest()
    )
    again = CliRunner().invoke(app, ["compress", "pipeline.yaml", "--resume"])
    assert again.exit_code == 0, again.output
    assert "first, distil" not in again.output


def test_what_another_run_left_is_told_by_its_weights_and_by_what_it_was_asked_for(
    quick: str,
) -> None:
    first = quick.replace("folder: run", "folder: first").split("  - stage: distil\n    name")[0]
    Path("first.yaml").write_text(first)
    then = quick.replace("folder: run", "folder: run\nneeds: [first.yaml]")
    then = then.replace("model: toys:net", "artifact: first")
    stages = "stages:\n  - {stage: distil, losses: [{loss: cross_entropy}]}\n"
    text = then.split("stages:")[0] + stages
    Path("pipeline.yaml").write_text(text)
    plan = CliRunner().invoke(app, ["compress", "pipeline.yaml", "--dry-run"])
    assert plan.exit_code == 0, plan.output  # Though what goes in is not there yet.
    assert not Path("first").exists()
    assert CliRunner().invoke(app, ["compress", "pipeline.yaml"]).exit_code == 0
    Path("first.yaml").write_text(first.replace("threads: 1", "threads: 1\nseed: 9"))
    stale = CliRunner().invoke(app, ["compress", "pipeline.yaml", "--resume"])
    assert "seed: 0 then, 9 now" in " ".join(stale.stderr.split())
    shutil.rmtree("first")
    again = CliRunner().invoke(app, ["compress", "pipeline.yaml", "--resume"])
    assert "given.artifact: '" in again.stderr


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [("layer", 'layer: "no"', "'no'"), ("metric", "metric: toys:nothing", "nothing")],
)
def test_a_plan_finds_what_a_run_would(quick: str, old: str, new: str, said: str) -> None:
    Path("pipeline.yaml").write_text(quick.replace(KEYS[old], new))
    told = CliRunner().invoke(app, ["compress", "pipeline.yaml", "--dry-run"])
    assert told.exit_code == 2
    assert said in told.stderr


def test_what_a_metric_makes_a_model_keep_can_be_trained_with(quick: str) -> None:
    stages = "stages:\n  - {stage: distil, epochs: 2, losses: [{loss: cross_entropy}]}\n"
    text = quick.split("stages:")[0] + stages
    text = text.replace("toys:net", "toys:Cached").replace("toys:accuracy", "toys:whole")
    Path("pipeline.yaml").write_text(text)
    told = CliRunner().invoke(app, ["compress", "pipeline.yaml"])
    assert told.exit_code == 0, told.output


def test_students_learn_from_each_other_and_one_is_kept(quick: str) -> None:
    peers = "peers: [{model: toys:net, model_args: {width: 12}}]"
    stages = f"stages:\n  - {{stage: distil, losses: [{{loss: cross_entropy}}], {peers}}}\n"
    text = quick.split("stages:")[0] + stages
    Path("pipeline.yaml").write_text(text)
    told = CliRunner().invoke(app, ["compress", "pipeline.yaml", "--json"])
    assert told.exit_code == 0, told.output
    (report,) = json.loads(told.output.splitlines()[-1])["stages"]
    assert report["history"][0]["losses"].keys() == {"cross_entropy", "mutual"}
    assert Artifact.load("run/1-distil/artifact").model[0].out_features == 8  # type: ignore[union-attr,index]


@pytest.mark.timeout(300)
def test_two_ranks_run_a_pipeline_together(here: Path) -> None:
    text = PIPELINE.replace("batch_size: 8", "batch_size: 4")
    Path("pipeline.yaml").write_text(text)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "-m", "pantheon", "compress", "pipeline.yaml", "--json"]
    done = subprocess.run(
        command, cwd=here, env=environment(here), capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith('{"pipeline"')]
    distil, _, export = json.loads(line)["stages"]
    assert distil["figures"]["ranks"] == 2
    assert distil["samples"] == 3 * 64
    assert export["files"] == {"onnx": "3-export/model.onnx"}


def test_a_pipeline_from_python_goes_on_with_its_own_run_only(quick: str) -> None:
    threads = torch.get_num_threads()
    Path("pipeline.yaml").write_text(quick.replace("threads: 1", "threads: 3"))
    with Pipeline.from_file("pipeline.yaml") as pipeline:
        assert torch.get_num_threads() == 3
        pipeline.asked = {}
        pipeline.run()
        assert pipeline.run(resume=True).reports[0].history
        pipeline.seed = 1
        with pytest.raises(ResumeMismatch, match=r"given\.seed: 0 then, 1 now"):
            pipeline.run(resume=True)
        pipeline.seed, pipeline.artifact = 0, Artifact.make("toys:net", {"width": 9})
        with pytest.raises(ResumeMismatch, match=r"given\.artifact: "):
            pipeline.run(resume=True)
    assert torch.get_num_threads() == threads


def test_a_pipeline_is_run_from_python_as_by_the_command(quick: str) -> None:
    Path("pipeline.yaml").write_text(quick)
    with Pipeline.from_file("pipeline.yaml") as pipeline:
        summary = pipeline.run()
    assert [report.stage for report in summary.reports] == ["distil", "tune", "export"]
    assert summary.test.keys() == {"original", "result"}
    assert Artifact.load(summary.artifact).digest() == summary.reports[-1].digest
    told = CliRunner().invoke(app, ["compress", "pipeline.yaml", "--resume"])
    assert told.exit_code == 0, told.output
