"""What the stages took: seconds and samples."""

from __future__ import annotations

from collections.abc import Sequence

from pantheon.compress.report import StageReport
from pantheon.compress.report_page.amounts import amount, digits, number
from pantheon.compress.report_page.drawing import COLOURS, SIZE, canvas, plain
from pantheon.compress.report_page.panels import Choice, panel
from pantheon.compress.report_page.runs import Run
from pantheon.compress.report_page.section import (
    Cell,
    Heading,
    Part,
    Picture,
    Section,
    Table,
    texts,
)

HEAD = ("stage", "seconds", "samples read", "epochs", "samples a second", "waiting for the stream")


@panel("effort", place=50)
def effort(runs: Sequence[Run], choice: Choice) -> Section | None:
    """Seconds and samples by stage."""
    parts: list[Part] = []
    for run in runs:
        if run.stages:
            if len(runs) > 1:
                parts.append(Heading(run.name))
            parts.append(Table(texts(*HEAD), [*map(_row, run.stages), _total(run.stages)]))
            for what, colour in zip(("seconds", "samples"), COLOURS, strict=False):
                parts.append(_picture(run, what, colour))
    if not parts:
        return None
    said = "Seconds are those of the process that ended the stage: after a resume, of the last one."
    return Section("Time and samples", [said, *parts])


def _row(report: StageReport) -> list[Cell]:
    spent = sum(number(epoch.get("seconds")) or 0.0 for epoch in report.history)
    seen = sum(number(epoch.get("samples")) or 0.0 for epoch in report.history)
    waited = sum(number(epoch.get("wait")) or 0.0 for epoch in report.history)
    return [
        Cell(report.stage),
        Cell(duration(report.seconds), exact=f"{report.seconds!r} s"),
        Cell(amount(report.samples), exact=f"{report.samples:,}"),
        Cell(str(len(report.history)) if report.history else ""),
        Cell(amount(seen / spent) if spent else ""),
        Cell(f"{100 * waited / spent:.1f} %" if spent else "", exact=f"{waited!r} s"),
    ]


def _total(reports: Sequence[StageReport]) -> list[Cell]:
    seconds, samples = sum(r.seconds for r in reports), sum(r.samples for r in reports)
    return [
        Cell("all"),
        Cell(duration(seconds), exact=f"{seconds!r} s"),
        Cell(amount(samples), exact=f"{samples:,}"),
        *[Cell("")] * 3,
    ]


def duration(seconds: float) -> str:
    """Seconds as people say them.

    Example:
        >>> duration(2.637), duration(75), duration(7260)
        ('2.64 s', '1 min 15 s', '2 h 1 min')
    """
    if number(seconds) is None:
        return "not measured"
    if seconds < 60:
        return f"{digits(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _picture(run: Run, what: str, colour: str) -> Picture:
    reports = run.stages[::-1]
    figure, axes = canvas(1.1 + 0.42 * len(reports))
    values = [number(getattr(report, what)) or 0.0 for report in reports]
    bars = axes.barh(range(len(values)), values, color=colour, height=0.6)
    axes.bar_label(bars, [amount(value) for value in values], padding=3, fontsize=SIZE)
    axes.set_yticks(range(len(values)), [plain(report.stage) for report in reports])
    axes.set(xlabel=what, ylim=(-0.7, len(values) - 0.3))
    axes.set_xlim(0, 1.2 * max(values) or 1.0)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_formatter(lambda value, _: amount(value))
    told = "; ".join(f"{r.stage} {amount(v)}" for r, v in zip(reports, values, strict=True))
    return Picture(f"{what} {run.name}", f"{what} by stage of {run.name}: {told}", figure)
