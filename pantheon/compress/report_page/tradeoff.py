"""Worth against cost: the metric over multiply-accumulates, size and latency, of all models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pantheon.compress.report import Figures
from pantheon.compress.report_page.amounts import amount, digits, number
from pantheon.compress.report_page.drawing import canvas, label_points, plain, style
from pantheon.compress.report_page.nested import circumstances
from pantheon.compress.report_page.panels import Choice, metric_of, panel
from pantheon.compress.report_page.pareto import pareto
from pantheon.compress.report_page.runs import Run
from pantheon.compress.report_page.section import Cell, Part, Picture, Section, Table, texts

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COSTS: Mapping[str, tuple[str, Callable[[Figures], float | None]]] = {
    "MACs": ("of one sample", lambda f: number(f.macs)),
    "bytes": ("on disk", lambda f: number(f.bytes)),
    "latency": ("in ms, median", lambda f: number(f.latency.get("median"))),
}
"""Costs by name, with what is to be said of their axis; less is better."""


@dataclass(frozen=True, slots=True)
class Point:
    """A model on the plane: the number of its run, its name, cost and worth, and its figures."""

    run: int
    name: str
    cost: float
    worth: float
    figures: Figures


@panel("tradeoff", place=30)
def tradeoff(runs: Sequence[Run], choice: Choice) -> Section | None:
    """The metric against each cost, with the Pareto line over all models of all runs."""
    metric = metric_of(runs, choice)
    if metric is None:
        return None
    parts: list[Part] = [_said(runs, metric, choice.lower)]
    rows: list[list[Cell]] = []
    for cost in COSTS:
        points = points_of(runs, metric, cost)
        if points:
            line = pareto([(p.cost, p.worth) for p in points], lower=choice.lower)
            parts.append(_picture(runs, points, line, metric, cost))
            rows.append(_row(runs, cost, [points[i] for i in line]))
    if not rows:
        return None
    return Section(
        f"{metric} against cost", [*parts, Table(texts("against", "on the Pareto line"), rows)]
    )


def points_of(runs: Sequence[Run], metric: str, cost: str) -> list[Point]:
    """The models that have both figures; a stage that changed nothing has no point of its own."""
    found = []
    for index, run in enumerate(runs):
        same = {report.stage for report in run.stages if not report.changed}
        for name, figures in run.models:
            x, y = COSTS[cost][1](figures), number(figures.metric.get(metric))
            if x is not None and y is not None and name not in same:
                found.append(Point(index, name, x, y, figures))
    return found


def _said(runs: Sequence[Run], metric: str, lower: bool) -> str:
    wheres = {circumstances(f.latency) for run in runs for _, f in run.models} - {""}
    good = "lower" if lower else "higher"
    text = f"Of each model {metric} on the validation part ({good} is better) and what it costs. "
    text += (
        "No model beats those on the line in both. Bars beside latencies are quartiles: where they "
        "overlap, the latencies hardly differ."
    )
    if len(wheres) > 1:
        text += " Latencies were not all measured alike: " + "; ".join(sorted(wheres)) + "."
    return text


def _picture(
    runs: Sequence[Run], points: Sequence[Point], line: Sequence[int], metric: str, cost: str
) -> Picture:
    figure, axes = canvas()
    best = [points[i] for i in line]
    axes.plot(
        [p.cost for p in best],
        [p.worth for p in best],
        color="#8c8c8c",
        lw=1.4,
        drawstyle="steps-post",
        zorder=1,
    )
    for index, run in enumerate(runs):
        _scatter(axes, run.name, index, [p for p in points if p.run == index], cost)
    axes.set(
        xlabel=f"{'latency' if cost == 'latency' else cost} {COSTS[cost][0]}", ylabel=plain(metric)
    )
    if cost != "latency":
        axes.xaxis.set_major_formatter(
            lambda value, _: amount(value, "B" if cost == "bytes" else "")
        )
    if len(runs) > 1:
        axes.legend(frameon=False, fontsize=8.5, loc="best")
    axes.margins(0.18, 0.2)
    _name(axes, points, line)
    told = "; ".join(_told(runs, p, cost) for p in best)
    return Picture(f"tradeoff {cost}", f"{metric} against {cost}. Pareto line: {told}", figure)


def _scatter(axes: Axes, name: str, index: int, points: Sequence[Point], cost: str) -> None:
    colour, marker, _ = style(index)
    xs, ys = [p.cost for p in points], [p.worth for p in points]
    axes.plot(xs, ys, marker, color=colour, ms=7, label=plain(name), zorder=3)
    if cost == "latency":
        # Quartiles; a median outside them, in figures that were altered, has no bar.
        low = [
            max(0.0, p.cost - (number(p.figures.latency.get("lower")) or p.cost)) for p in points
        ]
        high = [
            max(0.0, (number(p.figures.latency.get("upper")) or p.cost) - p.cost) for p in points
        ]
        axes.errorbar(xs, ys, xerr=[low, high], fmt="none", ecolor=colour, alpha=0.5, zorder=2)


def _name(axes: Axes, points: Sequence[Point], line: Sequence[int]) -> None:
    """Names beside points, those on the line first; those at one place are named together."""
    order = [*line, *(i for i in range(len(points)) if i not in set(line))]
    names: dict[tuple[float, float], dict[str, None]] = {}
    for point in (points[i] for i in order):
        names.setdefault((point.cost, point.worth), {})[point.name] = None
    label_points(axes, list(names), [plain(", ".join(found)) for found in names.values()])


def _told(runs: Sequence[Run], point: Point, cost: str) -> str:
    price = f"{digits(point.cost)} ms" if cost == "latency" else amount(point.cost)
    whose = f"{runs[point.run].name}: " if len(runs) > 1 else ""
    return f"{whose}{point.name} ({digits(point.worth, 4)} at {price})"


def _row(runs: Sequence[Run], cost: str, best: Sequence[Point]) -> list[Cell]:
    return texts(cost, "; ".join(_told(runs, p, cost) for p in best))
