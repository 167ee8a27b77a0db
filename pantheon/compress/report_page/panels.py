"""Panels: functions from runs to a section of the page, found by name."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pantheon.compress.report_page.runs import Run
from pantheon.compress.report_page.section import Section
from pantheon.errors import ConfigError

HOMES = (
    "pantheon.compress.report_page.overview",
    "pantheon.compress.report_page.searches",
    "pantheon.compress.report_page.pruning",
    "pantheon.compress.report_page.quantization",
    "pantheon.compress.report_page.curves",
    "pantheon.compress.report_page.tradeoff",
    "pantheon.compress.report_page.effort",
    "pantheon.compress.report_page.circumstances",
)
"""The modules that register our own panels, imported when a page is made."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What the reader of a page asked for.

    Args:
        metric: the metric that models are judged by; None for the first that they have.
        lower: whether less of it is better.
    """

    metric: str | None = None
    lower: bool = False


Panel = Callable[[Sequence[Run], Choice], Section | None]
"""A panel: answers None where the runs hold nothing for it."""

_PANELS: dict[str, tuple[int, Panel]] = {}


def panel(name: str, *, place: int = 100) -> Callable[[Panel], Panel]:
    """Put a function's section on every page.

    It sees every run on the page, of any stages, finished or not: it must not rely on keys of a
    stage's `figures`. It is called where its module was imported, or is in `HOMES`.

    Args:
        name: of the panel; a second one of that name takes the first one's place only if it is the
            same function, loaded again.
        place: sections come in rising order of it. Our own have 10 to 60.

    Raises:
        ConfigError: another function has the name.

    Example:
        >>> @panel("doctest.count")
        ... def count(runs, choice):
        ...     return Section("Runs", [f"{len(runs)} in all"])
        >>> sections([], Choice())[-1].parts
        ['0 in all']
        >>> _ = _PANELS.pop("doctest.count")
    """

    def enter(function: Panel) -> Panel:
        _, other = _PANELS.get(name, (0, function))
        if _origin(other) != _origin(function):
            raise ConfigError(
                f"the panel {name!r} is {'.'.join(_origin(other))} already; register "
                f"{_origin(function)[1]} under another name"
            )
        _PANELS[name] = (place, function)
        return function

    return enter


def _origin(function: Panel) -> tuple[str, str]:
    return function.__module__, getattr(function, "__qualname__", type(function).__name__)


def sections(runs: Sequence[Run], choice: Choice) -> list[Section]:
    """What all panels have to say of some runs, in order."""
    for module in HOMES:
        importlib.import_module(module)
    ordered = sorted(_PANELS.values(), key=lambda entry: entry[0])
    found = [function(runs, choice) for _, function in ordered]
    return [section for section in found if section is not None]


def metric_of(runs: Sequence[Run], choice: Choice) -> str | None:
    """The metric that models are judged by; None where no model has one.

    Raises:
        ConfigError: no model has the one that was chosen.
    """
    known = dict.fromkeys(name for run in runs for _, f in run.models for name in f.metric)
    if choice.metric is None:
        return next(iter(known), None)
    if choice.metric not in known:
        there = f"expected one of {', '.join(known)}" if known else "the runs have none"
        raise ConfigError(f"no model has the metric {choice.metric!r}; {there}")
    return choice.metric
