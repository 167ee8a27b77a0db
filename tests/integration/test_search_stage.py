"""Searches around one model: as stages of a pipeline, and by many workers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pantheon.cli import app
from pantheon.compress.artifact import Artifact
from pantheon.compress.pipeline import Pipeline, Summary
from pantheon.compress.quantize.simulated import is_quantized
from pantheon.compress.search.settings import SearchStageConfig
from pantheon.compress.search.stage import Search
from pantheon.compress.watcher import Watcher
from tests.integration.test_search import here, told

__all__ = ["here"]

PIPELINE = """
folder: {folder}
model: toys:net
model_args: {{width: 24, depth: {{layers: 2}}}}
stream:
  dataset: toys:data
  parts: {{train: [0, 64], validation: [64, 96]}}
  batch_size: 8
  teachers: {{big: {{dump: teacher.yaml, to: knowledge}}}}
metric: toys:accuracy
threads: 1
latency: {{seconds: 0.01}}
stages:
  - {{stage: distil, epochs: 4, losses: [{{loss: kl, field: logits}}], optimizer: {{lr: 0.01}}}}
  - stage: search
    name: cut
    prune: {{left: [0.25, 0.5, 0.75, 1.0]}}
    objectives: {{accuracy: maximise}}
    limits: {{macs: 60 %}}
    strategy: annealing
    trials: 6
    score: {{epochs: 0, validation: 24}}
  - {{stage: distil, name: tune, epochs: 2, losses: [{{loss: kl, field: logits}}]}}
  - stage: search
    name: round
    bits: {{values: [3, 8], of: both, samples: 32}}
    objectives: {{accuracy: maximise}}
    limits: {{bytes: 20 %}}
    trials: 3
    score:
      epochs: 1
      samples: 32
      losses: [{{loss: kl, field: logits}}]
      optimizer: {{lr: 0.001}}
"""


class Stopped(Exception):
    """The process is gone."""


class Stopping(Watcher):
    """Stops when it was told of so many trials."""

    def __init__(self, after: int) -> None:
        self.left = after

    def say(self, text: str) -> None:
        self.left -= text.startswith("trial ")
        if not self.left:
            raise Stopped


def run(folder: str, watcher: Watcher | None = None, resume: bool = False) -> Summary:
    path = Path(f"{folder}.yaml")
    path.write_text(PIPELINE.format(folder=folder))
    with Pipeline.from_file(path, watcher=watcher) as pipeline:
        return pipeline.run(resume=resume)


def digests(folder: str) -> dict[str, str]:
    return {p.parent.name: Artifact.load(p).digest() for p in Path(folder).glob("*/artifact")}


@pytest.mark.timeout(120)
def test_a_pipeline_goes_on_with_the_best_cut_and_the_best_bits(here: Path) -> None:
    tuned, cut, _, rounded = run("whole").reports
    assert cut.phase == "prune"
    assert cut.after.macs <= 0.6 * tuned.after.macs
    found = cut.figures["search"]
    scored = [each for each in found["trials"] if each["fate"] == "scored"]
    assert len(scored) == 6
    assert found["best"][0]["found"]["accuracy"] == max(e["found"]["accuracy"] for e in scored)
    assert all(each["costs"]["macs"] <= 0.6 * tuned.after.macs for each in scored)
    assert found["limits"] == {"macs": pytest.approx(0.6 * tuned.after.macs)}
    assert found["samples"] == 6 * 64
    made = Artifact.load("whole/2-cut/artifact")
    (edit,) = made.edits
    widths = {path: len(kept["out"]) for path, kept in edit.modules.items() if "out" in kept}
    for path, left in found["best"][0]["chosen"].items():
        assert widths.get(path, 24) == 24 * left
    assert rounded.phase == "quantize"
    last = Artifact.load("whole/4-round/artifact").model
    assert is_quantized(last)
    chosen = rounded.figures["search"]["best"][0]["chosen"]
    assert {last.get_submodule(p).parametrizations["weight"][0].grid.bits for p in chosen} <= {
        3,
        7,
        8,
    }
    # Killed in either search, it comes to the same.
    for after in (3, 8):
        with pytest.raises(Stopped):
            run("killed", Stopping(after), resume=Path("killed").exists())
    run("killed", resume=True)
    assert digests("killed") == digests("whole")


@pytest.mark.parametrize("strategy", ["evolution", "cmaes", "tpe", "grid", "random"])
def test_every_strategy_of_one_objective_searches_around_a_model(strategy: str) -> None:
    stage = {"prune": {}, "objectives": {"a": "maximise"}, "strategy": strategy, "trials": 40}
    found = Search.from_config(SearchStageConfig(stage="search", **stage, score={"epochs": 0}))
    assert found.phase == "prune"


AROUND = """
folder: run
space:
  artifact: whole
  prune: {left: [0.25, 0.5, 0.75, 1.0]}
stream:
  dataset: toys:data
  parts: {train: [0, 64], validation: [64, 96]}
  batch_size: 8
metric: toys:accuracy
objectives: {accuracy: maximise, macs: minimise}
limits: {macs: 80 %, parameters: 900}
strategy: nsga2
trials: 6
threads: 1
score: {epochs: 1, losses: [{loss: cross_entropy}]}
"""


def test_a_search_around_an_artifact_finds_a_front(here: Path) -> None:
    deep = {"depth": {"layers": 2}}
    Artifact.make("toys:net", {"width": 24, **deep}).save("whole")
    Path("search.yaml").write_text(AROUND)
    found = told("search.yaml")
    assert found["trials"]["scored"] == 6
    macs = [each["costs"]["macs"] for each in found["best"]]
    assert max(macs) <= 0.8 * (6 * 24 + 24 * 24 + 24 * 2)
    # Another model by that name is another search.
    Artifact.make("toys:net", {"width": 32, **deep}).save("whole")
    refused = CliRunner().invoke(app, ["search", "search.yaml"])
    assert refused.exit_code == 1
    assert "has space" in refused.output


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("artifact: whole", "artifact: whole\n  net: resnet18", "give one of net"),
        ("artifact: whole", "model: toys:net", "prune belongs to an artifact"),
        ("prune:", "choices: {width: [1, 2]}\n  prune:", "choices belongs to net or model"),
        ("artifact: whole", "artifact: whole\n  bits: {}", "give one of prune and bits"),
        ("left: [0.25,", "left: [2.0,", "left"),
        ("left: [0.25, 0.5, 0.75, 1.0]", "left: [0.1, 0.1]", "the space is empty"),
        ("prune: {", "prune: {criterion: l3, ", "there is no criterion 'l3'"),
        ("prune: {", "prune: {keep: ['*'], ", "space.prune: "),
        ("macs: 80 %", "macs: 0 %", "limit of macs is 0"),
        ("macs: 80 %", "speed: 80 %", "there is no cost 'speed'"),
        ("macs: 80 %", "macs: eighty %", "limits.macs: expected percent, such as 50 %, found"),
        (", losses: [{loss: cross_entropy}]", "", "it trains and has no losses"),
        ("{epochs: 1, losses", "{epochs: 0, losses", "nothing is trained; leave losses out"),
    ],
)  # fmt: skip
def test_searches_around_a_model_that_cannot_be(here: Path, old: str, new: str, said: str) -> None:
    assert old in AROUND
    Artifact.make("toys:net", {"width": 24}).save("whole")
    Path("search.yaml").write_text(AROUND.replace(old, new))
    done = CliRunner().invoke(app, ["search", "search.yaml"])
    assert done.exit_code in (1, 2)
    assert re.search(said, " ".join(done.output.split())), done.output


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("    prune: {{left: [0.25, 0.5, 0.75, 1.0]}}\n", "", "give one of prune and bits"),
        ("{{accuracy: maximise}}", "{{accuracy: maximise, macs: minimise}}", "goes on with one"),
        ("{{accuracy: maximise}}", "{{macs: minimise}}", "all objectives are costs"),
        ("strategy: annealing", "strategy: anneal", "there is no strategy 'anneal'"),
        ("metric: toys:accuracy\n", "", "give the pipeline a metric"),
        ("prune: {{", "prune: {{only: ['9'], ", r"stage 'cut', only"),
        ("bits: {{", "bits: {{keep: ['9'], ", r"stage 'round', keep"),
    ],
)
def test_stages_of_search_that_cannot_be(here: Path, old: str, new: str, said: str) -> None:
    assert old in PIPELINE
    text = PIPELINE.replace(old, new).format(folder="run").replace("epochs: 4", "epochs: 1")
    Path("pipeline.yaml").write_text(text)
    done = CliRunner().invoke(app, ["compress", "pipeline.yaml"])
    assert done.exit_code in (1, 2)
    assert re.search(said, " ".join(done.output.split())), done.output
