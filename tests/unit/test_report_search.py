"""The panel of searches: history, front and importance, and nothing of figures it does not know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pantheon.compress.report_page import Choice, Run, Section
from pantheon.compress.report_page.searches import search
from pantheon.compress.report_page.section import Picture, Table
from tests.unit.test_report_page import DISTILLED, PRUNED, stage


def trial(number: int, fate: str, top1: float | None, macs: float) -> dict[str, Any]:
    found = None if top1 is None else {"top1": top1}
    chosen = {"a": number}
    return {"number": number, "fate": fate, "chosen": chosen, "found": found,
            "costs": {"macs": macs, "parameters": 9}}  # fmt: skip


TRIALS = [
    trial(0, "scored", 60.0, 3e6),
    trial(1, "infeasible", None, 9e6),
    trial(2, "scored", 50.0, 4e6),
    trial(3, "scored", 70.0, 5e6),
    trial(4, "diverged", None, 2e6),
]
FIGURES = {
    "objectives": {"top1": "maximise"},
    "limits": {"macs": 6e6},
    "strategy": "tpe",
    "budget": 4,
    "best": [TRIALS[3]],
    "importance": {"a": 0.75, "b": 0.25},
    "trials": TRIALS,
}


def shown(figures: Any) -> Section | None:
    report = stage("cut", DISTILLED, PRUNED, phase="prune", figures={"search": figures})
    return search([Run(Path("run"), "run", original=DISTILLED, stages=[report])], Choice())


def pictures(section: Section | None) -> dict[str, Picture]:
    parts = section.parts if section else []
    return {part.name: part for part in parts if isinstance(part, Picture)}


def test_points_the_best_so_far_and_the_front_are_drawn() -> None:
    section = shown(FIGURES)
    assert section is not None
    assert section.parts[1] == (
        "By tpe, for top1 (maximise) within macs 6 M; a budget of 4: 3 scored, 1 infeasible, "
        "1 diverged."
    )
    drawn = pictures(section)
    # All have as many parameters, so that there is no front against these.
    assert set(drawn) == {"search history cut", "search front cut macs", "search importance cut"}
    dots, best = drawn["search history cut"].figure.axes[0].lines
    assert dots.get_xydata().tolist() == [[0, 60], [2, 50], [3, 70]]
    assert best.get_ydata().tolist() == [60, 60, 70]
    _, front, limit = drawn["search front cut macs"].figure.axes[0].lines
    assert front.get_xydata().tolist() == [[3e6, 60], [5e6, 70]]
    assert limit.get_xdata() == [6e6, 6e6]
    assert drawn["search importance cut"].alt == "importance of choices: a 75 %; b 25 %"
    (table,) = [part for part in section.parts if isinstance(part, Table)]
    assert [cell.text for cell in table.rows[0]] == ["3", "70", "5 M", "9", "a: 3"]


def test_where_less_is_better_the_best_is_the_least() -> None:
    drawn = pictures(shown(FIGURES | {"objectives": {"top1": "minimise"}}))
    assert drawn["search history cut"].figure.axes[0].lines[1].get_ydata().tolist() == [60, 50, 50]


@pytest.mark.parametrize(
    "figures",
    [
        None,
        [],
        {"trials": 3},
        FIGURES | {"trials": []},
        FIGURES | {"objectives": None},
        {"trials": [1, None, {}], "objectives": {"top1": "maximise"}},
        FIGURES | {"trials": [{"fate": "scored", "found": {"top1": "x"}}], "best": [3, {}]},
    ],
)
def test_figures_that_it_does_not_know_are_left_out(figures: Any) -> None:
    assert pictures(shown(figures)).keys() <= {"search importance cut"}
