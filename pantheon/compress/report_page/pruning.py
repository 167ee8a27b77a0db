"""What pruning removed: widths of layers before and after, sensitivity, and zeros."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pantheon.compress.report import StageReport
from pantheon.compress.report_page.amounts import digits, mapping, number, numbers
from pantheon.compress.report_page.drawing import COLOURS, HEIGHT, canvas, plain, style
from pantheon.compress.report_page.panels import Choice, panel
from pantheon.compress.report_page.runs import Run, stages_of
from pantheon.compress.report_page.section import (
    Cell,
    Heading,
    Part,
    Picture,
    Section,
    Table,
    texts,
)

PRUNING, SPARSITY = "pruning", "sparsity"
"""The keys of a stage's figures that are shown here."""

MOST = 60
"""Layers in one picture."""

CURVES = 12
"""Curves in one picture."""


@panel("pruning", place=30)
def pruning(runs: Sequence[Run], choice: Choice) -> Section | None:
    """Pictures for each stage that removed channels, measured what they are worth, or zeros."""
    parts: list[Part] = []
    for name, _, report in stages_of(runs):
        shown = [*_pruned(name, report), *_sparse(name, report)]
        if shown:
            parts += [Heading(name, report.phase), *shown]
    return Section("Pruning", parts) if parts else None


def _pruned(name: str, report: StageReport) -> Iterator[Part]:
    found = mapping(report.figures.get(PRUNING))
    cycles = [c for c in found.get("cycles", ()) if isinstance(c, Mapping)]
    if cycles:
        yield _said(found, cycles)
    widths = _widths(cycles)
    if widths:
        yield _bars(f"widths {name}", f"{name}: channels", widths)
    for place, each in enumerate(cycles or [found], 1):
        table = mapping(each.get("sensitivity"))
        if table:
            yield from _sensitivity(name if len(cycles) < 2 else f"{name} {place}", table)
    excluded = mapping((cycles or [found])[-1].get("excluded")) if found else {}
    if excluded:
        rows = [texts(str(path), str(why)) for path, why in excluded.items()]
        kept = "layers that keep their channels"
        yield Table(texts("layer", "why"), rows, title=f"{kept}: {len(rows)}", folded=True)


def _said(found: Mapping[str, Any], cycles: Sequence[Mapping[str, Any]]) -> str:
    lefts = ", then ".join(f"{100 * left:.1f} %" for c in cycles for left in _left(c))
    return (
        f"By {found.get('criterion')}, {found.get('strategy')}: {lefts} of {found.get('of')} left."
    )


def _left(cycle: Mapping[str, Any]) -> list[float]:
    return list(numbers({"left": cycle.get("left")}).values())


def _widths(cycles: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float, float]]:
    """Channels of each layer before the first cycle and after the last."""
    found: dict[str, tuple[float, float]] = {}
    for cycle in cycles:
        for path, pair in mapping(cycle.get("widths")).items():
            both = numbers(dict(enumerate(pair))) if isinstance(pair, list) else {}
            if len(both) == 2:
                before, after = both.values()
                found[path] = (found.get(path, (before, after))[0], after)
    return found


def _bars(name: str, title: str, widths: Mapping[str, tuple[float, float]]) -> Picture:
    drawn = dict(list(widths.items())[:MOST])
    figure, axes = canvas(0.9 + 0.2 * len(drawn))
    places = range(len(drawn))
    before, after = zip(*drawn.values(), strict=True)
    axes.barh(places, before, color="#d9d9d9", label="before")
    axes.barh(places, after, height=0.5, color=COLOURS[0], label="after")
    axes.set_yticks(places, [plain(path) for path in drawn], fontsize=7)
    axes.margins(y=0.01)
    axes.invert_yaxis()
    axes.set(xlabel="output channels")
    axes.set_title(plain(title), fontsize=11)
    axes.legend(frameon=False, fontsize=8.5)
    ends = "; ".join(f"{path} {b:.0f} to {a:.0f}" for path, (b, a) in drawn.items())
    return Picture(name, f"channels of each layer before and after: {ends}", figure)


def _sensitivity(name: str, table: Mapping[str, Any]) -> Iterator[Part]:
    """Curves of the groups that lose most, and all points as a table."""
    every = mapping(table.get("points")).items()
    curves = {str(group): found for group, points in every if (found := _points(points))}
    if not curves:
        return
    by = str(table.get("by"))
    what = "KL divergence, nats" if by == "kl" else f"fraction of {by} lost"
    worst = sorted(curves, key=lambda group: -max(loss for _, loss in curves[group]))
    drawn = [group for group in curves if group in worst[:CURVES]]
    figure, axes = canvas(HEIGHT + 0.09 * len(drawn))
    for index, group in enumerate(drawn):
        colour, marker, line = style(index)
        xs, ys = zip(*curves[group], strict=True)
        axes.plot(xs, ys, line, marker=marker, ms=4, color=colour, lw=1.4, label=plain(group))
    axes.set(xlabel="fraction of the channels removed", ylabel=plain(what))
    axes.set_title(plain(f"{name}: sensitivity"), fontsize=11)
    figure.legend(loc="outside lower center", frameon=False, fontsize=7, ncols=2)
    yield Picture(f"sensitivity {name}", f"{what} by the fraction of channels removed", figure)
    ratios = sorted({ratio for points in curves.values() for ratio, _ in points})
    head = texts("layer", *(f"{100 * ratio:.0f} %" for ratio in ratios))
    rows = []
    for group, points in curves.items():
        at = dict(points)
        rows.append([Cell(group), *(Cell(digits(at[r], 3) if r in at else "") for r in ratios)])
    yield Table(head, rows, title=f"{what}, without so many channels", folded=True)


def _points(points: Any) -> list[tuple[float, float]]:
    """Those of some points that are pairs of numbers."""
    pairs = [p for p in points if isinstance(p, list) and len(p) == 2] if points else []
    both = [(number(ratio), number(loss)) for ratio, loss in pairs]
    return [(r, loss) for r, loss in both if r is not None and loss is not None]


def _sparse(name: str, report: StageReport) -> Iterator[Part]:
    found = mapping(report.figures.get(SPARSITY))
    layers = numbers(found.get("layers"))
    if not layers:
        return
    yield (
        f"{100 * float(found.get('reached', 0)):.1f} % of the weights of {len(layers)} layers are "
        f"zero ({found.get('pattern')}). That is simulated: no runtime here is faster for it."
    )
    drawn = dict(list(layers.items())[:MOST])
    figure, axes = canvas(0.9 + 0.2 * len(drawn))
    axes.barh(range(len(drawn)), [100 * v for v in drawn.values()], color=COLOURS[0])
    axes.set_yticks(range(len(drawn)), [plain(path) for path in drawn], fontsize=7)
    axes.invert_yaxis()
    axes.set(xlabel="zeros, % of the layer's weights", xlim=(0, 100))
    axes.set_title(plain(f"{name}: zeros"), fontsize=11)
    ends = "; ".join(f"{path} {100 * v:.0f} %" for path, v in drawn.items())
    yield Picture(f"zeros {name}", f"zeros of each layer: {ends}", figure)
