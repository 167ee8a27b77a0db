"""Whether each strategy finds more than chance does, on a space of which every point is known.

Run ``python -m benchmarks.search_strategies [--runs 20] [--trials 32]``. Strategies with their
defaults search through the 192 ResNets of ``benchmarks/results/tabulated.json``, as often as
points by chance do, each with seeds of its own; nothing is trained. Those with one objective look
for the best likelihood within a limit of MACs, which half of the points break; NSGA-II and III for
the front of likelihood and MACs, by the area below it. Printed are medians and quartiles of what is
found by the end, and of the mean over the whole search. Exit status 1 if a strategy is not better
than chance in the median of what it finds, or a point beyond the limit was scored.

``--tabulate`` trains the points that are missing (20 minutes of one core; may be stopped and gone
on with, and run several times at once), and writes the table.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial
from rich.progress import track

from benchmarks.tabulated import Tabulated, tabulate
from pantheon.compress.report_page.pareto import pareto
from pantheon.compress.search.samplers import SINGLE, sampler_of
from pantheon.compress.search.storage import study_in
from pantheon.compress.search.task import Direction, Task, directions
from pantheon.compress.search.trials import COSTS, FOUND, Fate, fate_of
from pantheon.compress.search.worker import Worker

ALONE = (*SINGLE, "tpe")
"""Strategies that are judged by the best point within the limit."""

FRONTS = ("nsga2", "nsga3")
"""Strategies that are judged by the front."""

CHANCE = "random"

SCORE, COST = "likelihood", "macs"


@dataclass(frozen=True, slots=True)
class Found:
    """What one search came to, after each of its trials.

    Args:
        worth: of the best point so far, in percent, or the area below the front so far, as a
            fraction of that below the front of all points.
    """

    worth: Sequence[float]

    @property
    def end(self) -> float:
        """What was found by the end."""
        return self.worth[-1]

    @property
    def whole(self) -> float:
        """The mean over the search."""
        return float(np.mean(self.worth))


def search(table: Tabulated, strategy: str, seed: int, trials: int, front: bool) -> Found:
    """Search once, by a worker as `pantheon search` has it."""
    limit = float(np.median([costs[COST] for _, costs in table.rows.values()]))
    objectives: dict[str, Direction] = {SCORE: "maximise"}
    if front:
        objectives[COST] = "minimise"
    limits = {} if front else {COST: limit}
    task = Task(table, objectives, lambda point, _: table.found(point), table.costs, limits)
    study = study_in(
        InMemoryStorage(),
        "tabulated",
        {},
        directions(objectives),
        sampler_of(strategy, table.choices, seed, trials, objectives=len(objectives)),
    )
    Worker(study=study, task=task, trials=trials, seed=seed, poll=0.0).run()
    scored = [t for t in study.get_trials(deepcopy=False) if fate_of(t) is Fate.SCORED]
    if not front and any(trial.user_attrs[COSTS][COST] > limit for trial in scored):
        raise SystemExit(f"{strategy}, seed {seed}: a point beyond the limit was scored")
    if len(scored) != trials:
        raise SystemExit(f"{strategy}, seed {seed}: {len(scored)} points were scored")
    if not front:
        return Found(list(accumulate((t.user_attrs[FOUND][SCORE] for t in scored), max)))
    return Found(_areas(table, scored))


def _areas(table: Tabulated, scored: Sequence[FrozenTrial]) -> list[float]:
    """The areas below the fronts of the first points, of the first two, and so on."""
    every = [(costs[COST], found[SCORE]) for found, costs in table.rows.values()]
    most = max(cost for cost, _ in every)
    points = [(t.user_attrs[COSTS][COST], t.user_attrs[FOUND][SCORE]) for t in scored]
    whole = area(every, most)
    return [area(points[: n + 1], most) / whole for n in range(len(points))]


def area(points: Sequence[tuple[float, float]], most: float) -> float:
    """The area below a front, up to the largest cost of all and down to a score of 0.

    Args:
        points: cost and score of each.
        most: the largest cost.
    """
    front = [points[i] for i in pareto(points)]
    ends = [cost for cost, _ in front[1:]] + [most]
    return sum((end - cost) * score for (cost, score), end in zip(front, ends, strict=True))


def line(strategy: str, found: Sequence[Found], chance: Sequence[Found], unit: str) -> str:
    """A strategy in a line: what it finds, beside chance."""
    ends = [each.end for each in found]
    low, median, high = np.quantile(ends, [0.25, 0.5, 0.75])
    better = np.mean([a.end > b.end for a in found for b in chance])
    same = np.mean([a.end == b.end for a in found for b in chance])
    whole = float(np.median([each.whole for each in found]))
    return (
        f"{strategy:<10} {median:7.3f} ({low:.3f} to {high:.3f}) {unit:<8} "
        f"mean over the search {whole:7.3f}   better than a search by chance in "
        f"{100 * (better + same / 2):3.0f} %"
    )


def compared(
    table: Tabulated, strategies: Iterable[str], runs: int, trials: int, front: bool
) -> list[str]:
    """Print what strategies find, and chance; answers those that are no better."""
    unit = "of all" if front else SCORE
    made = {
        strategy: [
            search(table, strategy, seed, trials, front)
            for seed in track(range(runs), strategy, transient=True)
        ]
        for strategy in (CHANCE, *strategies)
    }
    for strategy, found in made.items():
        print(line(strategy, found, made[CHANCE], unit), flush=True)
    bound = np.median([each.end for each in made[CHANCE]])
    return [s for s in strategies if np.median([each.end for each in made[s]]) <= bound]


def main() -> None:
    """Tabulate, or compare."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--trials", type=int, default=32)
    parser.add_argument("--tabulate", action="store_true", help="train what is missing")
    given = parser.parse_args()
    if given.tabulate:
        tabulate()
        return
    table = Tabulated.read()
    scores = sorted(found[SCORE] for found, _ in table.rows.values())
    print(
        f"{len(table.rows)} points, {SCORE} {scores[0]:.1f} to {scores[-1]:.1f}; {given.runs} runs "
        f"of {given.trials} trials, medians and quartiles"
    )
    worse = compared(table, ALONE, given.runs, given.trials, front=False)
    worse += compared(table, FRONTS, given.runs, given.trials, front=True)
    if worse:
        print(f"no better than chance: {', '.join(worse)}")
        sys.exit(1)


if __name__ == "__main__":
    main()
