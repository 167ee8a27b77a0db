"""How a run came about: what was asked for, and where and how it was measured."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from pantheon.compress.report_page.nested import circumstances, rows_of
from pantheon.compress.report_page.panels import Choice, panel
from pantheon.compress.report_page.runs import Run
from pantheon.compress.report_page.section import Cell, Heading, Part, Section, Table, texts

_SECRET = re.compile(r"(?<=://)[^/@\s]+(?=@)")
"""User and password in a URL."""


@panel("circumstances", place=60)
def settings(runs: Sequence[Run], choice: Choice) -> Section:
    """Counter, device, threads and seeds; and all settings, folded."""
    parts: list[Part] = []
    for run in runs:
        if len(runs) > 1:
            parts.append(Heading(run.name))
        parts.append(Table(texts("measured and run with", ""), _environment(run)))
        if asked := rows_of(run.asked, absent=False):
            shown = [[name, _without_secret(value)] for name, value in asked]
            parts.append(Table(texts("setting", "value"), shown, "What was asked for", folded=True))
    return Section("Settings and environment", parts)


def _environment(run: Run) -> list[list[Cell]]:
    models = [figures for _, figures in run.models]
    seeds = [f"{report.stage} {report.seed}" for report in run.stages]
    seed, threads = run.asked.get("seed"), run.asked.get("threads")
    found = {
        "MACs counted by": _each(f.counter for f in models),
        "latency measured on": _each(circumstances(f.latency) for f in models),
        "computed on": str(run.asked.get("device", "")),
        "threads": "" if threads is None else str(threads),
        "seed": "" if seed is None else str(seed),
        "seeds of the stages": ", ".join(seeds),
        "folder": str(run.path),
    }
    return [
        [Cell(name), Cell(value) if value else Cell("not known", muted=True)]
        for name, value in found.items()
    ]


def _each(values: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(value for value in values if value))


def _without_secret(cell: Cell) -> Cell:
    return replace(cell, text=_SECRET.sub("…", cell.text))
