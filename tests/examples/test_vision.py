"""The example of vision, shortened: one command from training teachers to an exported file."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import onnx
import pytest
import torch

from pantheon.compress.artifact import Artifact
from pantheon.compress.macs import macs
from pantheon.nets import mobilenet_v2
from tests.examples.readme import ROOT

SMALL = "{hold: true, cache: runs/vision/patches, classes: 4, train: 24, validation: 8, test: 8}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example, of few classes, views and epochs; teachers are trained once."""
    tmp_path = tmp_path_factory.mktemp("vision")
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "__init__.py").touch()
    (tmp_path / "examples" / "vision").mkdir()
    for path in (ROOT / "examples" / "vision").iterdir():
        if path.suffix != ".yaml":
            os.symlink(path, tmp_path / "examples" / "vision" / path.name)
            continue
        text = path.read_text(encoding="utf-8")
        text = re.sub(r"dataset_args: \{.*\}", f"dataset_args: {SMALL}", text)
        text = re.sub(r"width: [\d.]+", "width: 0.125, classes: 4", text)
        text = re.sub(r"epochs: \d+", "epochs: 1", text).replace("batch_size: 64", "batch_size: 32")
        text = text.replace("every: 100", "every: 2")
        text = text.replace("validation: 1000", "validation: 16, ratios: [0.3, 0.6]")
        text = text.replace("stage: diagnose", "stage: diagnose\n    validation: 16")
        if "trials:" in text:
            text = text.replace("classes: 100", "classes: 4, width: 0.35").replace("10000", "64")
            text = text.replace("validation: 2000", "validation: 16")
            # Its table would take minutes.
            text = re.sub(r"latency: \{table.*\n", "", text).replace("latency: 80 %", "macs: 80 %")
            text = re.sub(r"trials: \d+", "trials: 3", text)
        if "stages:" in text:
            text = re.sub(r"\nthreads: .*", "", text) + "threads: 1\nlatency: {seconds: 0.1}\n"
        (tmp_path / "examples" / "vision" / path.name).write_text(text)
    return tmp_path


def pantheon(folder: Path, command: str, file: str) -> str:
    """What a command says of a file of the example."""
    done = subprocess.run(
        [sys.executable, "-m", "pantheon", command, f"examples/vision/{file}"],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=270,
    )
    assert done.returncode == 0, done.stderr
    assert "ended with" not in done.stderr
    return done.stdout


@pytest.mark.timeout(280)
def test_one_command_distils_from_two_teachers_prunes_and_exports(folder: Path) -> None:
    pantheon(folder, "compress", "prune.yaml")
    run = folder / "runs" / "vision" / "distil"
    report = json.loads((run / "1-distil" / "report.json").read_text())
    assert report["samples"] == 4 * 24
    assert report["after"]["teacher"]["samples"] == 4 * 8
    assert set(report["history"][0]["losses"]) == {"kl", "cross_entropy"}
    onnx.checker.check_model(onnx.load(run / "2-export" / "model.onnx"))
    assert set(json.loads((run / "summary.json").read_text())["test"]["result"]) == {"top1", "top5"}
    assert (folder / "runs" / "vision" / "knowledge-vgg" / "manifest.json").exists()
    for teacher in ("resnet", "vgg"):
        assert (folder / "runs" / "vision" / teacher / "summary.json").exists()
    pruned = folder / "runs" / "vision" / "prune"
    first, last = (
        json.loads((pruned / n / "report.json").read_text()) for n in ("1-prune", "2-distil")
    )
    table = first["figures"]["pruning"]["cycles"][0]["sensitivity"]
    assert (table["by"], table["samples"], len(table["points"])) == ("kl", 16, 14)
    assert 0.45 < last["after"]["macs"] / first["before"]["macs"] < 0.55
    onnx.checker.check_model(onnx.load(pruned / "3-export" / "model.onnx"))


@pytest.mark.timeout(280)
def test_one_command_goes_the_whole_way_to_integers(folder: Path) -> None:
    said = pantheon(folder, "compress", "pipeline.yaml")
    run = folder / "runs" / "vision" / "pipeline"
    stages = ("1-distil", "2-prune", "3-recover", "4-quantize", "5-tune", "6-diagnose", "7-export")
    reports = {name: json.loads((run / name / "report.json").read_text()) for name in stages}
    assert 0.45 < reports["2-prune"]["after"]["macs"] / reports["1-distil"]["after"]["macs"] < 0.55
    assert reports["5-tune"]["history"][0]["losses"].keys() == {"kl", "cross_entropy"}
    assert reports["6-diagnose"]["figures"]["diagnosis"]["by"] == ["kl", "top1"]
    kinds = Counter(
        node.op_type for node in onnx.load(run / "7-export" / "model.int8.onnx").graph.node
    )
    assert kinds["QuantizeLinear"] > 20
    told = reports["7-export"]["figures"]["int8"]["float_operators"]
    assert [each.split(" of ")[0] for each in told] == ["ReduceMean"]
    summary = json.loads((run / "summary.json").read_text())
    assert set(summary["test"]) == {"original", "result", "int8"}
    assert "test part, int8: agrees with the result on" in said
    page = (run / "report.html").read_text()
    assert all(part in page for part in ("Pruning", "Quantization", "with one layer rounded"))


@pytest.mark.timeout(280)
def test_one_command_searches_from_a_dump(folder: Path) -> None:
    said = pantheon(folder, "search", "search.yaml")
    assert len(re.findall(r"^search: trial \d+ scored  top1 ", said, re.MULTILINE)) == 3
    run = folder / "runs" / "vision"
    assert (run / "knowledge-resnet" / "manifest.json").exists()
    (best,) = (run / "search" / "best").iterdir()
    whole = macs(mobilenet_v2(4, width=0.35), torch.zeros(1, 3, 32, 32)).total
    assert macs(Artifact.load(best).model, torch.zeros(1, 3, 32, 32)).total <= 0.8 * whole
