"""A model's figures as the columns of a table, each beside those of another model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pantheon.compress.report import Figures, Likeness
from pantheon.compress.report_page.amounts import amount, difference, digits, number, ratio
from pantheon.compress.report_page.section import UNMEASURED, Cell

Look = Callable[[Figures, Figures | None], Cell]
"""A column: a model's value, and how it compares with another model's."""


def columns(models: Sequence[Figures]) -> list[tuple[str, Look]]:
    """The columns that some models have values for; cost and size always."""
    found = [
        ("MACs", _counted("macs")),
        ("parameters", _counted("parameters")),
        ("size on disk", _counted("bytes", "B")),
        ("latency", _timed),
    ]
    metrics = dict.fromkeys(name for figures in models for name in figures.metric)
    found += [(name, _metric(name)) for name in metrics]
    for whom in ("teacher", "original"):
        if any(getattr(figures, whom) for figures in models):
            found += [(f"KL to {whom}", _kl(whom)), (f"agrees with {whom}", _agrees(whom))]
    return found


def latency(values: Mapping[str, Any] | None, first: Mapping[str, Any] | None = None) -> Cell:
    """A median, and below it the quartiles and the ratio to another one.

    Example:
        >>> latency({"median": 15.07, "lower": 12.2, "upper": 15.51}, {"median": 30.0}).note
        '0.50x; 12.2-15.5'
    """
    median = number((values or {}).get("median"))
    if values is None or median is None:
        return UNMEASURED
    lower, upper = number(values.get("lower")), number(values.get("upper"))
    spread = f"{digits(lower)}-{digits(upper)}" if lower is not None and upper is not None else ""
    times = ratio(median, (first or {}).get("median"))
    note = "; ".join(filter(None, (times, spread)))
    return Cell(f"{digits(median)} ms", note, f"{median!r} ms; quartiles {lower!r} and {upper!r}")


def _timed(figures: Figures, first: Figures | None) -> Cell:
    return latency(figures.latency, first.latency if first else None)


def _counted(name: str, unit: str = "") -> Look:
    """The look at a figure that is a count, by its name."""

    def look(figures: Figures, first: Figures | None) -> Cell:
        value = getattr(figures, name)
        found = number(value)
        if found is None:
            return UNMEASURED
        note = ratio(value, getattr(first, name, None))
        return Cell(amount(found, unit), note, f"{value:,} {unit}".rstrip())

    return look


def _metric(name: str) -> Look:
    """The look at a metric."""
    return lambda figures, first: measured(figures.metric, first.metric if first else {}, name)


def measured(values: Mapping[str, float], first: Mapping[str, float], name: str) -> Cell:
    """One of several metrics, and how much more it is than another model's.

    Example:
        >>> measured({"top1": 71.25}, {"top1": 72.0}, "top1").note
        '-0.75'
    """
    value = number(values.get(name))
    if value is None:
        return UNMEASURED
    return Cell(digits(value, 4), difference(value, first.get(name)), repr(value))


def _kl(whom: str) -> Look:
    def cell(like: Likeness, value: float) -> Cell:
        return Cell(f"{digits(value)} nats", "", f"{value!r} nats, mean of {like.samples} samples")

    return _likeness(whom, "kl", cell)


def _agrees(whom: str) -> Look:
    def cell(like: Likeness, value: float) -> Cell:
        return Cell(f"{digits(100 * value)} %", "", f"{value!r} of {like.samples} samples")

    return _likeness(whom, "agreement", cell)


def _likeness(whom: str, what: str, cell: Callable[[Likeness, float], Cell]) -> Look:
    def look(figures: Figures, first: Figures | None) -> Cell:
        like: Likeness | None = getattr(figures, whom)
        value = None if like is None else number(getattr(like, what))
        if like is None or value is None:
            return _unlike(whom, first)
        return cell(like, value)

    return look


def _unlike(whom: str, first: Figures | None) -> Cell:
    """In place of a likeness: what is compared with nothing may be the original."""
    return Cell("itself", muted=True) if whom == "original" and first is None else UNMEASURED
