"""The models in numbers: all of a run in one table, and each stage before and after."""

from __future__ import annotations

from collections.abc import Sequence

from pantheon.compress.report import StageReport
from pantheon.compress.report_page.columns import Look, columns, measured
from pantheon.compress.report_page.nested import rows_of
from pantheon.compress.report_page.panels import Choice, panel
from pantheon.compress.report_page.quantization import of_integers
from pantheon.compress.report_page.runs import Run, stages_of
from pantheon.compress.report_page.section import (
    Cell,
    Heading,
    Part,
    Section,
    Table,
    Tiles,
    texts,
)

ELSEWHERE = ("pruning", "sparsity", "quantization", "diagnosis", "int8", "search")
"""Figures that have a panel of their own."""


@panel("summary", place=10)
def summary(runs: Sequence[Run], choice: Choice) -> Section:
    """One row for the original and for each stage."""
    parts: list[Part] = []
    for run in runs:
        parts.append(_state(run))
        if not run.models:
            parts.append("No model was measured yet.")
            continue
        looks = columns([f for _, f in run.models])
        if run.original and run.stages:
            last = run.stages[-1]
            parts.append(f"After {last.stage}, beside the original:")
            parts.append(Tiles([(k, _turned(look(last.after, run.original))) for k, look in looks]))
        for report in run.stages:
            if tiles := of_integers(report, run):
                runtime = "as integers, in ONNX Runtime, beside real numbers there:"
                parts += [f"After {report.stage}, {runtime}", tiles]
        parts.append(_models(run, looks))
        parts.extend(_tested(run))
    return Section("Summary", parts)


@panel("stages", place=20)
def stages(runs: Sequence[Run], choice: Choice) -> Section | None:
    """Each stage's model before and after, and what else the stage found."""
    parts: list[Part] = []
    for name, _, report in stages_of(runs):
        parts.append(Heading(name, report.phase))
        parts.append(_said(report))
        parts.append(_beside(report))
        rest = {k: v for k, v in report.figures.items() if k not in ELSEWHERE}
        if found := rows_of(rest):
            parts.append(Table(texts("found by the stage", "value"), found))
    return Section("Stages, before and after", parts) if parts else None


def _state(run: Run) -> Heading:
    if run.finished:
        return Heading(run.name, "finished")
    of = f" of {run.planned}" if run.planned else ""
    return Heading(run.name, f"unfinished: {len(run.stages)}{of} stages done", alarm=True)


def _models(run: Run, looks: Sequence[tuple[str, Look]]) -> Table:
    rows = [[Cell(name), *(look(f, run.original) for _, look in looks)] for name, f in run.models]
    if run.original and len(rows) > 1:
        # The original's ratios to itself say nothing.
        rows[0] = [Cell("original"), *(look(run.original, None) for _, look in looks)]
    if run.begun and not run.finished:
        rows.append([Cell(run.begun, "begun, not done"), *[Cell("")] * len(looks)])
    return Table([Cell("model"), *texts(*(name for name, _ in looks))], rows)


def _tested(run: Run) -> list[Part]:
    names = dict.fromkeys(name for found in run.test.values() for name in found)
    if not names:
        return []
    first = run.test.get("original", {})
    rows = [
        [Cell(who), *(measured(found, {} if who == "original" else first, n) for n in names)]
        for who, found in run.test.items()
    ]
    return [Table(texts("on the test part", *names), rows)]


def _turned(cell: Cell) -> Cell:
    """A cell with the comparison first and the value below it."""
    compared = cell.note.split(";")[0]
    return Cell(compared, cell.text, cell.exact) if compared else cell


def _said(report: StageReport) -> str:
    made = "made another model" if report.changed else "left the model as it was"
    files = "; ".join(f"{what}: {name}" for what, name in report.files.items())
    noise = "" if report.changed else " Where latency differs before and after, it is noise."
    return (
        f"The stage {made}. Sum of its weights and structure: {report.digest[:16]}."
        f"{noise}{f' Files: {files}.' if files else ''}"
    )


def _beside(report: StageReport) -> Table:
    before, after = report.before, report.after
    rows = []
    for name, look in columns([before, after]):
        old, new = look(before, None), look(after, before)
        compared = new.note.split(";")[0] if not name.startswith(("KL", "agrees")) else ""
        shown = Cell(new.text, "", new.exact, new.muted)
        rows.append([Cell(name), Cell(old.text, "", old.exact, old.muted), shown, Cell(compared)])
    return Table(texts("figure", "before", "after", "ratio or difference"), rows)
