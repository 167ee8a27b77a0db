"""What a search tried: the front of score against cost, its history, and what mattered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

from pantheon.compress.report_page.amounts import amount, digits, mapping, number, numbers
from pantheon.compress.report_page.drawing import COLOURS, canvas, plain
from pantheon.compress.report_page.panels import Choice, panel
from pantheon.compress.report_page.pareto import pareto
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

SEARCH = "search"
"""The key of a stage's figures that is shown here."""

MOST = 40
"""Choices in one picture."""

UNITS = {"bytes": "B", "latency": "ms"}
"""Of costs that have one."""


@panel("search", place=25)
def search(runs: Sequence[Run], choice: Choice) -> Section | None:
    """Pictures for each stage that searched."""
    parts: list[Part] = []
    for name, _, report in stages_of(runs):
        shown = list(searched(name, report.figures.get(SEARCH)))
        if shown:
            parts += [Heading(name, report.phase), *shown]
    return Section("Search", parts) if parts else None


def searched(name: str, figures: Any) -> Iterator[Part]:
    """What is shown of one search.

    Args:
        name: of the search.
        figures: what `pantheon.compress.search.telling.told_of` answers, or anything else, of which
            nothing is shown.
    """
    found = mapping(figures)
    trials = _mappings(found.get("trials"))
    objectives = {str(k): str(v) for k, v in mapping(found.get("objectives")).items()}
    if not trials or not objectives:
        return
    fates = Counter(str(trial.get("fate")) for trial in trials)
    counted = ", ".join(f"{count} {fate}" for fate, count in fates.items())
    wanted = ", ".join(f"{name} ({how})" for name, how in objectives.items())
    limits = numbers(mapping(found.get("limits")))
    within = ", ".join(
        f"{cost} {amount(most, UNITS.get(cost, ''))}" for cost, most in limits.items()
    )
    within = f" within {within}" if within else ""
    budget = found.get("budget")
    yield f"By {found.get('strategy')}, for {wanted}{within}; a budget of {budget}: {counted}."
    scored = [trial for trial in trials if trial.get("fate") == "scored"]
    first = numbers(mapping(_of(scored, "found")))
    measured = [key for key in objectives if key in first]
    for score in measured[:1]:
        lower = objectives[score] == "minimise"
        yield from _history(name, score, lower, scored)
        for cost in numbers(mapping(_of(scored, "costs"))):
            yield from _front(name, score, lower, cost, scored, limits.get(cost))
    yield from _importance(name, numbers(found.get("importance")))
    yield from _best(_mappings(found.get("best")))


def _mappings(values: Any) -> list[Mapping[str, Any]]:
    """Those of some values that are mappings; none of what is no list."""
    return [v for v in values if isinstance(v, Mapping)] if isinstance(values, list) else []


def _of(trials: Sequence[Mapping[str, Any]], key: str) -> Any:
    """What the first of some trials has."""
    return trials[0].get(key) if trials else None


def _points(
    trials: Sequence[Mapping[str, Any]], x: tuple[str, str] | None, y: tuple[str, str]
) -> list[tuple[float, float]]:
    """Pairs of numbers of trials, by where they are; None for the trial's own number."""
    found = []
    for trial in trials:
        left = number(trial.get("number") if x is None else mapping(trial.get(x[0])).get(x[1]))
        right = number(mapping(trial.get(y[0])).get(y[1]))
        if left is not None and right is not None:
            found.append((left, right))
    return found


def _history(
    name: str, score: str, lower: bool, scored: Sequence[Mapping[str, Any]]
) -> Iterator[Part]:
    points = _points(scored, None, ("found", score))
    if not points:
        return
    xs, ys = zip(*points, strict=True)
    best = list(accumulate(ys, min if lower else max))
    figure, axes = canvas()
    axes.plot(xs, ys, "o", ms=4, color=COLOURS[0], label="a point", alpha=0.8)
    axes.plot(xs, best, color=COLOURS[1], lw=1.6, drawstyle="steps-post", label="the best so far")
    axes.set(xlabel="trial", ylabel=plain(score))
    axes.set_title(plain(f"{name}: history"), fontsize=11)
    axes.legend(frameon=False, fontsize=8.5, loc="best")
    told = f"{score} of {len(xs)} points in the order of trials; best {digits(best[-1], 4)}"
    yield Picture(f"search history {name}", told, figure)


def _front(
    name: str,
    score: str,
    lower: bool,
    cost: str,
    scored: Sequence[Mapping[str, Any]],
    limit: float | None,
) -> Iterator[Part]:
    """Scores against a cost, if points differ in it."""
    points = _points(scored, ("costs", cost), ("found", score))
    if len({x for x, _ in points}) < 2:
        return
    line = [points[i] for i in pareto(points, lower=lower)]
    figure, axes = canvas()
    axes.plot(*zip(*points, strict=True), "o", ms=4, color=COLOURS[0], alpha=0.8, label="a point")
    axes.plot(
        *zip(*line, strict=True),
        color=COLOURS[1],
        lw=1.4,
        marker="s",
        ms=5,
        drawstyle="steps-post",
        label="the front",
    )
    if limit is not None:
        axes.axvline(limit, color="#8c8c8c", ls="--", lw=1.2, label="the limit")
    unit = UNITS.get(cost, "")
    axes.set(xlabel=plain(f"{cost}, {unit}" if unit == "ms" else cost), ylabel=plain(score))
    if unit != "ms":
        axes.xaxis.set_major_formatter(lambda value, _: amount(value, unit))
    axes.set_title(f"{plain(score)} against {plain(cost)}", fontsize=11)
    axes.legend(frameon=False, fontsize=8.5, loc="best")
    ends = "; ".join(f"{digits(y, 4)} at {amount(x, unit)}" for x, y in line)
    yield Picture(f"search front {name} {cost}", f"{score} against {cost}. Front: {ends}", figure)


def _importance(name: str, importance: Mapping[str, float]) -> Iterator[Part]:
    drawn = dict(list(importance.items())[:MOST])
    if not drawn:
        return
    figure, axes = canvas(0.9 + 0.2 * len(drawn))
    axes.barh(range(len(drawn)), [100 * each for each in drawn.values()], color=COLOURS[0])
    axes.set_yticks(range(len(drawn)), [plain(each) for each in drawn], fontsize=7)
    axes.invert_yaxis()
    axes.set(xlabel="importance of the choice, %")
    axes.set_title(plain(f"{name}: what mattered"), fontsize=11)
    told = "; ".join(f"{choice} {100 * each:.0f} %" for choice, each in drawn.items())
    yield Picture(f"search importance {name}", f"importance of choices: {told}", figure)


def _best(best: Sequence[Mapping[str, Any]]) -> Iterator[Part]:
    """The best points: what they came to, and what was chosen."""
    found, costs = (list(mapping(_of(best, key))) for key in ("found", "costs"))
    if not best:
        return
    rows = []
    for each in best:
        chosen = ", ".join(f"{k}: {v}" for k, v in mapping(each.get("chosen")).items())
        told = [_digits(mapping(each.get("found")).get(key)) for key in found]
        told += [_amount(mapping(each.get("costs")).get(key), UNITS.get(key, "")) for key in costs]
        rows.append(texts(str(each.get("number")), *told, chosen))
    yield Table([Cell("trial"), *texts(*found, *costs, "chosen")], rows, title="best")


def _digits(value: Any) -> str:
    found = number(value)
    return "" if found is None else digits(found, 4)


def _amount(value: Any, unit: str) -> str:
    found = number(value)
    return "" if found is None else amount(found, unit)
