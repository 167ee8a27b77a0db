"""Searches from YAML files: run by the command line, gone on with, looked at, and wrong."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pantheon.cli import app
from pantheon.compress.artifact import Artifact
from pantheon.compress.building import stages_from
from pantheon.compress.config import PipelineConfig
from pantheon.compress.search.building import factory_space
from pantheon.compress.search.config import SearchConfig
from pantheon.config import load

CODE = """
import torch
from torch import nn


def data():
    torch.manual_seed(5)
    x = torch.randn(96, 6)
    return torch.utils.data.TensorDataset(x, (x[:, 0] * x[:, 1] > 0).long())


def net(width=8, depth={}, act="relu", broken=False):
    layers, inputs = [], 6
    for _ in range(depth.get("layers", 1)):
        layers += [nn.Linear(inputs, width), nn.BatchNorm1d(width),
                   {"relu": nn.ReLU, "tanh": nn.Tanh}[act]()]
        inputs = width
    made = nn.Sequential(*layers, nn.Linear(inputs, 2))
    if broken:
        nn.init.constant_(made[-1].bias, float("nan"))
    return made


def wide(width):
    return net(width)


def big():
    torch.manual_seed(1)
    return net(32, {"layers": 2})


def accuracy(model, stream):
    right = sum((model(b.inputs).argmax(1) == b.targets).sum().item() for b in stream)
    return {"accuracy": 100 * right / sum(len(b.ids) for b in stream)}
"""

TEACHER = """
model: toys:big
dataset: toys:data
schema: {logits: float32}
threads: 1
"""

SEARCH = """
folder: run
space:
  model: toys:net
  choices:
    width: [4, 8, 16, 32]
    depth.layers: [1, 2, 3]
    act: {values: [relu, tanh], ordered: false}
stream:
  dataset: toys:data
  parts: {train: [0, 64], validation: [64, 96]}
  batch_size: 8
  teachers: {big: {dump: teacher.yaml, to: knowledge}}
metric: toys:accuracy
objectives: {accuracy: maximise}
limits: {parameters: 700}
strategy: evolution
trials: 8
threads: 1
score:
  epochs: 2
  losses: [{loss: kl, field: logits}, {loss: cross_entropy}]
  optimizer: {name: adam, lr: 0.01}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "toys", raising=False)
    Path("toys.py").write_text(CODE)
    Path("teacher.yaml").write_text(TEACHER)
    Path("search.yaml").write_text(SEARCH)
    return tmp_path


def ran(*arguments: str, status: int = 0) -> str:
    done = CliRunner().invoke(app, ["search", *arguments])
    assert done.exit_code == status, done.output
    return done.output


def told(*arguments: str) -> Any:
    found = json.loads(ran(*arguments, "--json").splitlines()[-1])
    for best in found["best"]:
        best.pop("artifact", None)  # It is in the search's own folder.
    return found


def test_a_search_trains_its_budget_and_tells_the_best(here: Path) -> None:
    found = told("search.yaml", "--trials", "4")
    assert found["trials"]["scored"] == 4
    # Gone on with, and told line by line.
    said = ran("search.yaml")
    assert said.count(" scored  accuracy ") == 4
    assert "best: trial " in said
    status = told("status", "search.yaml")
    assert status["told"] == status["budget"] == 8
    best = status["best"][0]
    assert best["costs"]["parameters"] <= 700
    assert set(best["chosen"]) == {"width", "depth.layers", "act"}
    shown = ran("status", "search.yaml", "--once")
    assert shown.startswith("search: 8 of 8; ")
    assert " 8 scored" in shown
    left = {p.name.partition("-")[0] for p in Path("run").iterdir()}
    assert {"search.db", "trials", "best", "report.html"} <= left
    # The best is kept as it was made: an artifact that a pipeline can begin with.
    (kept,) = Path("run/best").iterdir()
    assert kept.name == f"trial-{best['number']}"
    made = Artifact.load(kept)
    assert made.args["width"] == best["chosen"]["width"]
    assert sum(p.numel() for p in made.model.parameters()) == best["costs"]["parameters"]
    assert not list(Path("run/trials").iterdir())
    # Nothing is left to do.
    assert told("search.yaml")["trials"]["scored"] == 8


def together(here: Path, count: int) -> None:
    """Have no trial end before so many processes have begun with one, or a minute is over."""
    waiting = (
        "def accuracy(model, stream):\n    import os, pathlib, time\n"
        "    pathlib.Path(f'pid-{os.getpid()}').touch()\n    until = time.monotonic() + 60\n"
        f"    while len(list(pathlib.Path().glob('pid-*'))) < {count}:\n"
        "        assert time.monotonic() < until\n        time.sleep(0.05)\n"
    )
    Path("toys.py").write_text(CODE.replace("def accuracy(model, stream):\n", waiting))


@pytest.mark.timeout(150)
def test_several_processes_work_on_one_search(here: Path) -> None:
    together(here, 3)
    Path("search.yaml").write_text(
        SEARCH.replace("stream:\n", "stream:\n  http: 127.0.0.1:0\n") + "workers: 2\n"
    )
    said = ran("search.yaml", "--trials", "12", "--workers", "3")
    assert said.count(" scored  accuracy ") == 12
    status = told("status", "search.yaml")
    assert status["told"] == 12
    assert not {"running", "waiting"} & set(status["trials"])


@pytest.mark.timeout(150)
def test_a_worker_that_ends_with_an_error_is_told_of(
    here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = CODE + "\n\nimport os, sys\nif '--beside' in sys.argv:\n    os._exit(7)\n"
    Path("toys.py").write_text(text)
    ran("search.yaml", "--workers", "2")
    assert "worker 2 ended with status 7; the search goes on without it" in caplog.text


@pytest.mark.timeout(150)
def test_a_worker_that_is_frozen_or_says_anything_holds_nobody_up(
    here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    together(here, 2)
    text = Path("toys.py").read_text() + (
        "\n\nimport os, signal, sys\nif '--beside' in sys.argv:\n"
        "    os.write(1, b'caf\\xe9\\n' + 100_000 * b'x')\n"
        "    net_before = net\n"
        "    def net(*args, **more):\n"
        "        if list(__import__('pathlib').Path().glob('pid-*')):\n"
        "            os.write(1, b'\\n')\n"
        "            __import__('pathlib').Path('pid-frozen').touch()\n"
        "            os.kill(os.getpid(), signal.SIGSTOP)\n"
        "        return net_before(*args, **more)\n"
    )
    Path("toys.py").write_text(text)
    Path("search.yaml").write_text(SEARCH + "grace: 3\n")
    said = ran("search.yaml", "--workers", "2")
    assert "caf\ufffd" in said
    assert said.count(" scored  accuracy ") == 8
    assert "worker 2 has nothing left to do, and is ended" in caplog.text


@pytest.mark.timeout(150)
def test_ctrl_c_ends_all_workers_and_leaves_nothing_running(here: Path) -> None:
    together(here, 99)
    command = [sys.executable, "-m", "pantheon", "search", "search.yaml", "--workers", "3"]
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": "."}) as process:
        end = time.monotonic() + 60
        while len(list(Path().glob("pid-*"))) < 3:
            assert time.monotonic() < end
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    for path in Path().glob("pid-*"):
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.name.removeprefix("pid-")), 0)
    assert "running" not in told("status", "search.yaml")["trials"]
    assert not list(Path("run/trials").iterdir())


def test_the_same_search_finds_the_same_again(here: Path) -> None:
    first = told("search.yaml")
    again = SEARCH.replace("folder: run", "folder: again")
    Path("again.yaml").write_text(again)
    assert told("again.yaml") == first
    Path("seeded.yaml").write_text(again.replace("folder: again", "folder: seeded") + "seed: 1\n")
    assert told("seeded.yaml") != first


def test_a_training_that_diverges_is_recorded_and_the_search_goes_on(here: Path) -> None:
    text = SEARCH.replace("    act: {", "    broken: [false, true]\n    act: {")
    Path("search.yaml").write_text(text.replace("evolution", "grid"))
    said = ran("search.yaml")
    assert "diverged  the loss of epoch 0 is not finite" in said
    status = told("status", "search.yaml")["trials"]
    assert status["scored"] + status["diverged"] == 8
    assert status["diverged"] > 0


def test_several_objectives_and_trainings_that_are_given_up(here: Path) -> None:
    text = SEARCH.replace("objectives: {accuracy: maximise}",
                          "objectives: {accuracy: maximise, macs: minimise}")  # fmt: skip
    Path("front.yaml").write_text(text.replace("evolution", "nsga2"))
    best = told("front.yaml")["best"]
    ran("report", "front.yaml", "--out", "page")
    drawn = {path.stem for path in Path("page").glob("*.png")}
    assert {"report-search-history-search", "report-search-front-search-macs"} <= drawn
    costs = [each["costs"]["macs"] for each in best]
    scores = [each["found"]["accuracy"] for each in best]
    assert sorted(costs) == [c for _, c in sorted(zip(scores, costs, strict=True))]
    text = SEARCH.replace("folder: run", "folder: other").replace("epochs: 2", "epochs: 3")
    Path("stopped.yaml").write_text(text + "  stop: median\n")
    found = told("stopped.yaml")["trials"]
    assert found["scored"] + found.get("stopped", 0) == 8


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("strategy: evolution", "strategy: evolve", "strategy: there is no strategy 'evolve'"),
        ("strategy: evolution", "strategy: cmaes\noptions: {sigma: 0}", "sigma is 0"),
        ("width: [4, 8, 16, 32]", "width: []", "width"),
        ("width: [4, 8, 16, 32]", "width: [4, 4]", "'width' has the value 4 twice"),
        ("parameters: 700", "parameters: 3", "no point keeps the limits.*'width': 4"),
        ("parameters: 700", "speed: 3", "limit of speed, and no cost of that name"),
        ("{accuracy: maximise}", "{macs: minimise}", "all objectives are costs"),
        ("{accuracy: maximise}", "{top1: maximise}", "objective top1 is neither"),
        (", validation: [64, 96]", "", "needs parts with a validation part"),
        ("model: toys:net", "net: mobilenet", "no ready-made space 'mobilenet'"),
        ("model: toys:net", "model: toys:net\n  net: resnet18", "give one of net"),
        ("depth.layers: [1, 2, 3]", "deep: [1, 2]", "deep"),
        ("trials: 8", "trials: 8\nstorage: elsewhere://me:word@host/db", r"me:\*\*\*@host"),
    ],
)
def test_searches_that_cannot_be(here: Path, old: str, new: str, said: str) -> None:
    assert old in SEARCH
    Path("search.yaml").write_text(SEARCH.replace(old, new))
    done = CliRunner().invoke(app, ["search", "search.yaml"])
    assert done.exit_code in (1, 2)
    assert not isinstance(done.exception, Exception) or isinstance(done.exception, SystemExit)
    assert re.search(said, " ".join(done.output.split())), done.output


def test_limits_in_percent_are_of_the_net_with_nothing_chosen(here: Path) -> None:
    own = sum(p.numel() for p in Artifact.make("toys:net").model.parameters())
    Path("search.yaml").write_text(SEARCH.replace("parameters: 700", "parameters: 250 %"))
    said = ran("search.yaml")
    for fate, within in (("scored", True), ("infeasible", False)):
        found = [int(n) for n in re.findall(rf" {fate} .* parameters (\d+) ", said)]
        assert found
        assert all((n <= 2.5 * own) is within for n in found)
    text = SEARCH.replace("model: toys:net", "model: toys:wide").replace("700", "250 %")
    text = re.sub(r"    (depth.layers|act): .*\n", "", text)
    Path("search.yaml").write_text(text)
    said = ran("search.yaml", status=2)
    assert re.search("limits.parameters: in percent of .*'width'; give a number", said)
    Path("search.yaml").write_text(SEARCH.replace("parameters: 700", "speed: 50 %"))
    assert "limits.speed: there is no cost 'speed'; expected one" in ran("search.yaml", status=2)


def test_another_search_is_not_mixed_in(here: Path) -> None:
    assert "no study 'search'" in ran("status", "search.yaml", status=2)
    ran("search.yaml", "--trials", "1")
    Path("search.yaml").write_text(SEARCH.replace("[4, 8, 16, 32]", "[4, 8, 16]"))
    assert "has space" in ran("search.yaml", status=1)


def test_the_search_that_the_docs_show_is_one(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "search.md").read_text()
    file = tmp_path / "search.yaml"
    file.write_text(page.split("```yaml\n")[1].split("```")[0])
    assert len(factory_space(load(file, SearchConfig).space, 0).choices) == 25


def test_the_stages_that_the_docs_show_are_some(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "search.md").read_text()
    file = tmp_path / "pipeline.yaml"
    head = (
        "folder: run\nmodel: toys:net\nmetric: toys:accuracy\nstream: {dataset: toys:data, parts: "
    )
    file.write_text(
        head + "{train: [0, 1], validation: [1, 2]}}\n" + page.split("```yaml\n")[2].split("```")[0]
    )
    assert [s.name for s in stages_from(load(file, PipelineConfig))] == [
        "search",
        "distil",
        "round",
    ]


def test_what_a_search_needs_is_run_first(here: Path) -> None:
    pipeline = """
folder: first
model: toys:net
stream: {dataset: toys:data, parts: {train: [0, 64]}, batch_size: 8}
latency: {seconds: 0.01}
threads: 1
stages: [{stage: distil, epochs: 1, losses: [{loss: cross_entropy}]}]
"""
    Path("first.yaml").write_text(pipeline)
    Path("search.yaml").write_text(SEARCH + "needs: [first.yaml]\n")
    ran("search.yaml", "--trials", "1")
    assert Path("first/summary.json").exists()
    assert "stage 1" not in ran("search.yaml", "--trials", "1")
