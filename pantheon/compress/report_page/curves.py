"""Losses and metrics of each stage over its epochs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pantheon.compress.report import StageReport
from pantheon.compress.report_page.amounts import digits, numbers
from pantheon.compress.report_page.drawing import canvas, plain, style
from pantheon.compress.report_page.panels import Choice, panel
from pantheon.compress.report_page.runs import Run, stages_of
from pantheon.compress.report_page.section import Part, Picture, Section

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Curves = dict[str, list[float]]
"""Values by name, one for each epoch; not a number where there is none."""

WIDE = 30.0
"""Ratio of the largest to the smallest loss from which on the axis is logarithmic."""

MOST = 12
"""Curves in one picture."""


@panel("curves", place=40)
def curves(runs: Sequence[Run], choice: Choice) -> Section | None:
    """Pictures for each stage that trained."""
    parts: list[Part] = []
    for name, _, report in stages_of(runs):
        for key, what in (("losses", "loss"), ("metrics", "metric")):
            if found := curves_of(report, key):
                parts.append(_picture(name, what, found))
    if not parts:
        return None
    return Section("Training", ["Losses are means over an epoch's steps, by term.", *parts])


def curves_of(report: StageReport, what: str) -> Curves:
    """The losses or metrics of a stage's epochs.

    An epoch that lacks one, as where the metric is read every few epochs, has NaN for it.
    """
    epochs = [numbers(epoch.get(what)) for epoch in report.history]
    names = dict.fromkeys(name for epoch in epochs for name in epoch)
    return {name: [epoch.get(name, math.nan) for epoch in epochs] for name in names}


def _picture(name: str, what: str, found: Curves) -> Picture:
    figure, axes = canvas()
    _draw(axes, what, found)
    axes.set_title(plain(name), fontsize=11)
    ends = ", ".join(f"{k} {digits(_last(v), 4)}" for k, v in list(found.items())[:MOST])
    alt = f"{what} of {name} over the epochs; at the end: {ends}"
    return Picture(f"curves {name} {what}", alt, figure)


def _last(values: Sequence[float]) -> float:
    return next(v for v in reversed(values) if not math.isnan(v))


def _draw(axes: Axes, what: str, found: Curves) -> None:
    from matplotlib.ticker import MaxNLocator

    drawn = dict(list(found.items())[:MOST])
    for index, (name, values) in enumerate(drawn.items()):
        colour, marker, line = style(index)
        there = [(i + 1, v) for i, v in enumerate(values) if not math.isnan(v)]
        # Few points are shown as such: of one alone, no line is seen.
        mark = marker if len(there) <= 30 else ""
        epochs, heights = zip(*there, strict=True)
        axes.plot(epochs, heights, line, marker=mark, ms=4, color=colour, lw=1.6, label=plain(name))
    known = [v for values in drawn.values() for v in values if not math.isnan(v)]
    if what == "loss" and min(known) > 0 and max(known) > WIDE * min(known):
        axes.set_yscale("log")
    axes.set(xlabel="epoch", ylabel=what)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, fontsize=8.5)
