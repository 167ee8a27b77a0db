"""The demo's two pictures: learning curves and accuracy bars."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pantheon.demo.report import WAYS, Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {"alone": "#8c8c8c", "a": "#0072b2", "b": "#d55e00", "both": "#009e73"}


def draw(report: Report, folder: Path) -> list[Path]:
    """Write ``learning-curves.png`` and ``accuracy.png``; answers their paths."""
    curves, bars = folder / "learning-curves.png", folder / "accuracy.png"
    _save(curves, lambda axes: _curves(axes, report))
    _save(bars, lambda axes: _bars(axes, report))
    return [curves, bars]


def _save(path: Path, paint: Any) -> None:
    # The object interface, so that no display is looked for and no global state is left.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), dpi=130, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6e6e6")
    axes.set_axisbelow(True)
    paint(axes)
    figure.savefig(path)


def _curves(axes: Axes, report: Report) -> None:
    """Mean and standard deviation over seeds after every epoch."""
    for way, name in WAYS.items():
        runs = 100 * np.array(report.curves[way])
        epochs = np.arange(1, runs.shape[1] + 1)
        mean, spread = runs.mean(axis=0), runs.std(axis=0, ddof=min(1, len(runs) - 1))
        axes.plot(epochs, mean, color=COLOURS[way], label=name)
        axes.fill_between(epochs, mean - spread, mean + spread, color=COLOURS[way], alpha=0.15)
    axes.set(xlabel="epoch", ylabel="accuracy on 450 held-out digits, %", ylim=(None, 100))
    axes.set_ylim(bottom=max(50.0, axes.get_ylim()[0]))
    axes.set_title(f"A student of 16 units, mean ± sd over seeds (n = {len(runs)})")
    axes.legend(loc="lower right", frameon=False)


def _bars(axes: Axes, report: Report) -> None:
    """The accuracy after the last epoch, with the teachers' as lines."""
    means = [100 * report.mean(way) for way in WAYS]
    spreads = [100 * report.deviation(way) for way in WAYS]
    places = np.arange(len(WAYS))
    axes.bar(places, means, yerr=spreads, capsize=4, color=[COLOURS[w] for w in WAYS], width=0.6)
    for place, mean, spread in zip(places, means, spreads, strict=True):
        # Inside the bar: above it are the teachers' lines.
        axes.annotate(
            f"{mean:.1f} ± {spread:.1f}",
            (place, mean - spread),
            (0, -18),
            ha="center",
            color="white",
            textcoords="offset points",
        )
    for name, accuracy in report.teachers.items():
        axes.axhline(
            100 * accuracy,
            color=COLOURS[name],
            linestyle=":",
            linewidth=1.2,
            label=f"teacher {name.upper()} itself: {100 * accuracy:.1f}",
        )
    axes.set_xticks(places, list(WAYS.values()))
    axes.set(ylabel="accuracy on 450 held-out digits, %", ylim=(0, 119))
    axes.set_yticks(range(0, 101, 20))
    axes.legend(loc="upper left", frameon=False)
