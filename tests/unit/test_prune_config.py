"""Settings of pruning that cannot be: named with their file, line and key before anything runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from pantheon.compress.building import stages_from
from pantheon.compress.config import PipelineConfig
from pantheon.compress.prune import AnalyseSensitivity, Prune, Sparsify
from pantheon.config import load
from pantheon.errors import ConfigError

LEARNING = {"losses": [{"loss": "cross_entropy"}], "epochs": 2}


def stage(folder: Path, **settings: Any) -> Any:
    """The stage that a file of one makes."""
    made = {
        "folder": "run",
        "model": "torch.nn:Identity",
        "stream": {"dataset": "torch.nn:Identity"},
        "stages": [settings],
    }
    path = folder / "pipeline.yaml"
    path.write_text(yaml.safe_dump(made, sort_keys=False))
    return stages_from(load(path, PipelineConfig))[0]


def test_each_stage_is_made_from_its_settings(tmp_path: Path) -> None:
    prune = stage(tmp_path, stage="prune", remove=0.3, criterion="fpgm", keep=["stem*"])
    assert isinstance(prune, Prune)
    assert (prune.ranked.name, prune.ranked.keep, prune.cycles) == ("fpgm", ["stem*"], 1)
    look = stage(tmp_path, stage="sensitivity", by="kl", part=[1, 3])
    assert isinstance(look, AnalyseSensitivity)
    assert (look.scan.by, look.scan.part, look.changes) == ("kl", (1, 3), False)
    assert isinstance(stage(tmp_path, stage="sparsify", pattern="2:4"), Sparsify)


@pytest.mark.parametrize(
    ("remove", "cycles"), [(0.5, 1), (0.6, 2), (0.75, 2), (0.8, 3), (0.875, 3), (0.9, 4)]
)
def test_no_cycle_cuts_more_than_a_half(remove: float, cycles: int, tmp_path: Path) -> None:
    made = stage(tmp_path, stage="prune", remove=remove, distil=LEARNING)
    assert made.cycles == cycles
    assert (1 - remove) ** (1 / cycles) >= 0.5 - 1e-9
    assert stage(tmp_path, stage="prune", remove=remove, one_shot=True).cycles == 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"remove": 0}, "greater than 0"),
        ({"remove": 1}, "less than 1"),
        ({"remove": 1.5}, "less than 1"),
        ({"ratios": {"conv": 0.0}}, "greater than 0"),
        ({"ratios": {"conv": 1.2}}, "less than 1"),
        ({}, "nothing is to be removed; give remove, or ratios of layers"),
        ({"remove": 0.7}, "more than half is cut in cycles, for which distil is missing"),
        ({"remove": 0.3, "cycles": 2}, "cycles need distil"),
        ({"remove": 0.9, "cycles": 1, "distil": LEARNING}, "1 cycles would cut more than half"),
        ({"remove": 0.95, "cycles": 2, "distil": LEARNING}, "make it 5 or more"),
        ({"ratios": {"c": 0.5}, "cycles": 1}, "cycles share out what remove asks for"),
        ({"remove": 0.3, "cycles": 2, "one_shot": True, "distil": LEARNING}, "one_shot cuts once"),
        ({"remove": 0.3, "criterion": "l3"}, "no criterion 'l3'; the nearest are 'l2', 'l1'"),
        ({"remove": 0.3, "criterion": "taylor"}, "taylor goes by gradients; name losses"),
        ({"remove": 0.3, "criterion": "no.where:at_all"}, "there is no module 'no'"),
        ({"remove": 0.3, "strategy": "even"}, "'uniform', 'global', 'energy' or 'sensitivity'"),
        ({"remove": 0.3, "of": "flops"}, "'macs', 'parameters', 'bytes' or 'latency'"),
        ({"remove": 0.3, "recallibrate": True}, "did you mean 'recalibrate'"),
        ({"remove": 0.3, "align": 0}, "greater than 0"),
        ({"remove": 0.3, "sensitivity": {"ratios": []}}, "at least 1 item"),
        ({"remove": 0.3, "sensitivity": {"ratios": [1.0]}}, "less than 1"),
    ],
)
def test_what_cannot_be_is_named_with_its_line(
    settings: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)) as caught:
        stage(tmp_path, stage="prune", **settings)
    assert re.search(r"pipeline\.yaml(:|, line )\d+", str(caught.value))


def test_a_worker_beyond_their_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"part is \[2, 2\]; expected \[i, n\]"):
        stage(tmp_path, stage="sensitivity", part=[2, 2])
