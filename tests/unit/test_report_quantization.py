"""The panel of quantization: what is rounded, the file of integers, and what each layer costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pantheon.compress.report import Likeness
from pantheon.compress.report_page import Choice, Run, Section
from pantheon.compress.report_page.overview import summary
from pantheon.compress.report_page.quantization import quantization
from pantheon.compress.report_page.section import Picture, Table, Tiles
from tests.unit.test_report_page import DISTILLED, PRUNED, stage

ROUNDED = {
    "observer": "percentile",
    "thresholds": "fixed",
    "per_channel": True,
    "weight_thresholds": "abs_max",
    "samples": 512,
    "weights": {"stem": 7, "head": 7},
    "activations": {"stem.act": {"threshold": 2.5, "signed": False, "bits": 8}},
    "reduced_range": True,
    "corrected": {"rounding": {"stem": [4.0, 1.0], "head": [1.0, 0.75]}, "biases": {"stem": 0.1}},
}
INTEGERS = {
    "bytes": 500_000,
    "latency": {"median": 2.0},
    "float_operators": ["ReduceMean of pool", "HardSigmoid of act"],
}
DIAGNOSIS = {
    "by": ["kl", "top1"],
    "samples": 1000,
    "real": {"kl": 0.0, "top1": 80.0},
    "whole": {"kl": 0.05, "top1": 78.0},
    "layers": {
        "stem": {"alone": {"kl": 0.01, "top1": 79.5}, "without": {"kl": 0.04, "top1": 78.5}},
        "head": {"alone": {"kl": 0.03, "top1": 79.0}, "without": {"kl": 0.01, "top1": 79.8}},
    },
}


def run_of(**figures: Any) -> Run:
    report = stage("export", DISTILLED, PRUNED, phase="export", figures=figures)
    return Run(Path("run"), "run", original=DISTILLED, stages=[report])


def shown(**figures: Any) -> Section | None:
    return quantization([run_of(**figures)], Choice())


def parts(kind: type, section: Section | None) -> list[Any]:
    return [part for part in section.parts if isinstance(part, kind)] if section else []


def test_what_is_rounded_is_said() -> None:
    section = shown(quantization=ROUNDED)
    (said,) = parts(str, section)
    assert "The weights of 2 layers and 1 activations are rounded" in said
    assert "half of the range of 8 bits" in said
    assert "layers are rounded was learned: 50% of the squared error" in said
    assert "Biases of 1 layers were shifted" in said
    assert "simulated" not in said
    (table,) = parts(Table, section)
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["weight of stem", "7", "", ""],
        ["weight of head", "7", "", ""],
        ["stem.act", "8", "2.50", "unsigned"],
    ]


def test_the_file_of_integers_is_beside_that_of_real_numbers() -> None:
    figures = {"int8": INTEGERS, "bytes": 2_000_000, "latency": {"median": 5.0}}
    run = replace(run_of(**figures), exported={"int8": Likeness(0.001, 0.9975, 40_000)})
    section = quantization([run], Choice())
    (tiles,) = parts(Tiles, section)
    assert [(name, cell.text, cell.note) for name, cell in tiles.values] == [
        ("file of integers", "500 kB", "0.25x of real numbers'"),
        ("latency of integers", "2 ms", "0.40x of real numbers'"),
        ("agrees with the model that rounds", "99.75 %", "of 40,000 test samples"),
    ]
    (table,) = parts(Table, section)
    assert [row[0].text for row in table.rows] == INTEGERS["float_operators"]


def test_integers_are_in_the_summary_too() -> None:
    run = run_of(int8=INTEGERS, bytes=2_000_000)
    (_, tiles) = parts(Tiles, summary([run], Choice()))
    (name, cell), *_ = tiles.values
    assert (name, cell.text) == ("file of integers", "500 kB")
    assert len(parts(Tiles, summary([run_of()], Choice()))) == 1


def test_what_each_layer_costs_is_drawn_and_told() -> None:
    section = shown(diagnosis=DIAGNOSIS)
    (picture,) = parts(Picture, section)
    # Alone: more than with real numbers; without it: less than when all is rounded.
    assert (
        picture.alt
        == "kl by each layer, alone and without it: stem 0.0100 and 0.0100; head 0.0300 and 0.0400"
    )
    (table,) = parts(Table, section)
    assert [cell.text for cell in table.head][1:] == [
        "kl, it alone",
        "top1, it alone",
        "kl, all but it",
        "top1, all but it",
    ]
    assert [cell.text for cell in table.rows[1]] == ["head", "0.0300", "79", "0.0100", "79.8"]
    (said,) = parts(str, section)
    assert "kl 0 with real numbers, 0.0500 when all is rounded" in said


@pytest.mark.parametrize(
    "figures",
    [
        {},
        {"quantization": 3, "int8": [], "diagnosis": "none"},
        {"quantization": {"weights": {"a": "8"}}, "diagnosis": {"layers": {"a": 1}, "by": "kl"}},
        {"diagnosis": {"layers": {}, "by": ["kl"]}},
    ],
)
def test_nothing_is_said_of_figures_that_it_does_not_know(figures: dict[str, Any]) -> None:
    assert shown(**figures) is None


def test_a_diagnosis_with_gaps_has_a_table_alone() -> None:
    gaps = DIAGNOSIS | {"layers": {"stem": {"alone": {"kl": 0.1}}}, "whole": {}}
    section = shown(diagnosis=gaps, quantization=ROUNDED | {"corrected": {"rounding": {"a": 1}}})
    assert not parts(Picture, section)
    assert [cell.text for cell in parts(Table, section)[1].rows[0]] == ["stem", "0.100", "", "", ""]
