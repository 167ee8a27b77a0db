"""The panel of pruning: widths, sensitivity and zeros, and nothing of figures it does not know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pantheon.compress.report_page import Choice, Run, Section
from pantheon.compress.report_page.pruning import pruning
from pantheon.compress.report_page.section import Heading, Picture, Table
from tests.unit.test_report_page import DISTILLED, PRUNED, stage

TABLE = {
    "by": "top1",
    "points": {"a.conv": [[0.5, 0.01], [0.9, 0.4]], "b.conv": [[0.5, 0.2]]},
}
CYCLE = {
    "left": 0.703,
    "widths": {"a.conv": [16, 8], "b.conv": [32, 20]},
    "excluded": {"head": "its answers would have another shape"},
    "sensitivity": TABLE,
}
SECOND = {"left": 0.5, "widths": {"a.conv": [8, 4], "b.conv": [20, 20]}, "excluded": {}}


def shown(**figures: Any) -> Section | None:
    report = stage("prune", DISTILLED, PRUNED, phase="prune", figures=figures)
    return pruning([Run(Path("run"), "run", original=DISTILLED, stages=[report])], Choice())


def parts(kind: type, section: Section | None) -> list[Any]:
    return [part for part in section.parts if isinstance(part, kind)] if section else []


def test_widths_are_those_before_the_first_cycle_and_after_the_last() -> None:
    found = shown(
        pruning={"criterion": "l1", "strategy": "uniform", "of": "macs", "cycles": [CYCLE, SECOND]}
    )
    assert parts(Heading, found) == [Heading("prune", "prune")]
    assert parts(str, found) == ["By l1, uniform: 70.3 %, then 50.0 % of macs left."]
    widths = parts(Picture, found)[0]
    assert "a.conv 16 to 4; b.conv 32 to 20" in widths.alt


def test_sensitivity_is_drawn_and_told_point_by_point() -> None:
    found = shown(pruning={"cycles": [CYCLE]})
    curves = parts(Picture, found)[1]
    lines = {line.get_label(): line.get_xydata().tolist() for line in curves.figure.axes[0].lines}
    assert lines == {"a.conv": [[0.5, 0.01], [0.9, 0.4]], "b.conv": [[0.5, 0.2]]}
    points, excluded = parts(Table, found)
    assert [[cell.text for cell in row] for row in points.rows] == [
        ["a.conv", "0.0100", "0.400"],
        ["b.conv", "0.200", ""],
    ]
    assert excluded.rows[0][0].text == "head"
    assert excluded.title == "layers that keep their channels: 1"


def test_a_measurement_alone_is_shown_too() -> None:
    found = shown(pruning={"sensitivity": TABLE, "excluded": {}})
    assert len(parts(Picture, found)) == 1


def test_zeros_are_drawn_by_layer_and_said_to_be_simulated() -> None:
    layers = {"a": 0.5, "b": 0.5}
    found = shown(sparsity={"pattern": "2:4", "reached": 0.5, "layers": layers})
    said = "50.0 % of the weights of 2 layers are zero (2:4). That is simulated"
    assert said in parts(str, found)[0]
    assert "a 50 %" in parts(Picture, found)[0].alt


@pytest.mark.parametrize(
    "figures",
    [
        {},
        {"pruning": "yes"},
        {"pruning": {"cycles": []}},
        {
            "pruning": {
                "cycles": [{"left": None, "widths": {"a": [1]}, "sensitivity": {"points": 3}}]
            }
        },
        {"sparsity": {"layers": {"a": "much"}}},
    ],
)
def test_figures_of_other_stages_are_left_alone(figures: dict[str, Any]) -> None:
    found = shown(**figures)
    assert not parts(Picture, found)
    assert not parts(Table, found)
