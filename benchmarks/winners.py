"""Whether nets that a search finds are worth it: trained to the end beside others.

Run ``python -m benchmarks.winners [--jobs 2] [--write]`` after the search of
``examples/vision/search.yaml``. Its best points, as many points by chance within the same limit,
and MobileNetV2 in four widths are trained alike from the same teacher's dump, with several seeds;
the last checkpoint is taken, and the test part is read once, when a net is trained. What is
finished leaves a JSON record in ``benchmarks/results/winners``; what was stopped goes on. Of the
best points, and of those by chance, the one is judged that the validation part has in front. Nets
are timed in ONNX Runtime, real numbers, one thread, in turns; ratios are medians over rounds.

Printed are accuracies and latencies, by how much each net is beside the line through the widths,
and how well the short scores of the search order what points by chance come to, of which more are
trained with one seed (Spearman's correlation, 95 % by resampling points). ``--write`` only prints,
and draws ``docs/winners.png``. Exit status 1 if the winner is not surely above the line and better
than the one by chance.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray
from scipy import stats

from benchmarks.paired import Difference, compare
from benchmarks.table_cells import ROOT
from benchmarks.winners_nets import BASE, SPEC, Net, Winners
from examples.vision.regions import regions

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Result:
    """A net that was trained.

    Args:
        net: which.
        regions: percent by seed and region of the test part.
        validation: percent of the validation part, over seeds.
        milliseconds: its latency.
        beside: its latency beside that of the paper's net.
    """

    net: Net
    regions: Numbers
    validation: float
    milliseconds: float
    beside: float

    @property
    def top1(self) -> float:
        """Percent of the test part, over seeds."""
        return float(self.regions.mean())


def line_at(widths: Sequence[Result], milliseconds: float) -> Numbers:
    """What the line through nets of several widths has at a latency, by seed and region.

    Straight between two of them; beyond the last ones, theirs.
    """
    places = sorted(widths, key=lambda each: each.milliseconds)
    times = [each.milliseconds for each in places]
    left = min(max(int(np.searchsorted(times, milliseconds)) - 1, 0), len(times) - 2)
    part = np.clip((milliseconds - times[left]) / (times[left + 1] - times[left]), 0, 1)
    found: Numbers = (1 - part) * places[left].regions + part * places[left + 1].regions
    return found


def correlation(
    short: Sequence[float], whole: Sequence[float], draws: int = 10_000
) -> tuple[float, float, float]:
    """Spearman's correlation of short scores and what nets came to; 95 % by resampling nets."""
    x, y = np.array(short), np.array(whole)
    chance, found = np.random.default_rng(0), list[float]()
    while len(found) < draws:
        some = chance.integers(len(x), size=len(x))
        if min(len({*x[some]}), len({*y[some]})) > 1:
            found.append(stats.spearmanr(x[some], y[some]).statistic)
    low, high = np.quantile(found, [0.025, 0.975])
    return float(stats.spearmanr(x, y).statistic), float(low), float(high)


def differ(ours: Numbers, theirs: Numbers) -> tuple[Difference, str]:
    """How much better a net is, and the same in words, with both of the table's intervals."""
    photographs = [region.photograph for region in regions(ours.shape[1])]
    found, wider = compare(ours, theirs), compare(ours, theirs, photographs)
    return found, (
        f"{found.mean:+.2f} points (95 %: {found.low:+.2f} to {found.high:+.2f} over seeds and "
        f"regions, {wider.low:+.2f} to {wider.high:+.2f} over seeds and photographs)"
    )


def judge(winners: Winners, results: Sequence[Result]) -> bool:
    """Print what was found; whether the winner is surely above the line and better than by chance.

    Verdicts are by the table's rule, see `Difference.verdict`.
    """
    kinds: dict[str, list[Result]] = {}
    for each in results:
        kinds.setdefault(each.net.kind, []).append(each)
    for each in sorted(results, key=lambda each: each.milliseconds):
        above = each.top1 - float(line_at(kinds["width"], each.milliseconds).mean())
        sd = each.regions.mean(axis=1).std(ddof=1)
        print(
            f"{each.net.name:>10}: {each.top1:.2f} ± {sd:.2f} %, {each.milliseconds:.3f} ms, "
            f"{100 * (each.beside - 1):+.1f} %; short {each.net.score:.2f} %"
            + ("" if each.net.kind == "width" else f"; {above:+.2f} beside the line")
        )
    best = {kind: max(own, key=lambda each: each.validation) for kind, own in kinds.items()}
    winner, chance = best["winner"], best["chance"]
    line, told = differ(winner.regions, line_at(kinds["width"], winner.milliseconds))
    said = "above the line through the widths"
    print(f"{winner.net.name}, {said}: {told}: {line.verdict(0)}")
    beside, told = differ(winner.regions, chance.regions)
    print(f"{winner.net.name}, better than {chance.net.name}: {told}: {beside.verdict(0)}")
    base = next(each for each in results if each.net.name == BASE)
    whole, told = differ(winner.regions, base.regions)
    goal, less = winners.spec["goal"], 100 * (winner.beside - 1)
    verdict = whole.verdict(goal["points"]) if less <= goal["latency"] else "missed"
    print(
        f"{winner.net.name} beside {BASE}: {told} at {less:+.1f} % of the latency; goal "
        f"{goal['points']:+} at {goal['latency']} %: {verdict}"
    )
    return line.verdict(0) == beside.verdict(0) == "met"


def rank(winners: Winners) -> None:
    """Print how well short scores order points by chance, as they came to with the first seed."""
    points = [net for net in winners.nets if net.kind in ("chance", "ranked")]
    pairs = [(net.score, record["top1"]) for net in points if (record := winners.record(net, 0))]
    if len(pairs) < len(points):
        print(f"{len(pairs)} of {len(points)} points by chance are trained")
    if len(pairs) > 2:
        short, whole = ([pair[side] for pair in pairs] for side in (0, 1))
        found, low, high = correlation(short, whole)
        print(
            f"short scores and trained nets: Spearman {found:.2f} (95 %: {low:.2f} to {high:.2f}) "
            f"over {len(pairs)} points by chance"
        )


def results_of(winners: Winners) -> list[Result]:
    """All nets as they were trained, by the seeds that all of them have.

    Raises:
        SystemExit: these are fewer than two.
    """
    nets, times, seeds = winners.judged, winners.time(), range(winners.spec["seeds"])
    every = [[winners.record(net, seed) for net in nets] for seed in seeds]
    whole = [[each for each in records if each] for records in every if all(records)]
    if len(whole) < len(seeds):
        print(f"{len(whole)} of {len(seeds)} seeds: the others are not trained yet")
    for records in whole:
        if len({str(each["taught"]) for each in records}) > 1:
            print(f"seed {records[0]['seed']}: not all nets learned from the same dump")
    if len(whole) < 2:
        raise SystemExit("two seeds are needed at least")
    return [
        Result(
            net,
            np.array([record["regions"] for record in own]),
            float(np.mean([record["validation"][winners.by] for record in own])),
            times["milliseconds"][net.name],
            times["beside"][net.name]["median"],
        )
        for net, own in zip(nets, zip(*whole, strict=True), strict=True)
    ]


def draw(results: Sequence[Result], file: Path) -> None:
    """Accuracy over latency: the line through the widths, the best points, those by chance."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), dpi=130, layout="constrained")
    axes = figure.add_subplot()
    looks = {"width": ("o-", "MobileNetV2 in four widths", "black"),
             "winner": ("^", "best of the search", "#0072b2"),
             "chance": ("s", "by chance within the limit", "#d55e00")}  # fmt: skip
    for kind, (mark, label, colour) in looks.items():
        own = [each for each in results if each.net.kind == kind]
        own.sort(key=lambda each: each.milliseconds)
        sd = [each.regions.mean(axis=1).std(ddof=1) for each in own]
        axes.errorbar(
            [each.milliseconds for each in own],
            [each.top1 for each in own],
            sd,
            fmt=mark,
            label=label,
            color=colour,
            capsize=2,
        )
    axes.set_xlabel("milliseconds in ONNX Runtime, one thread")
    axes.set_ylabel("top-1 on the test part, %, ± sd of seeds")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, format="png")


def main() -> int:
    """Train what is missing, and tell."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="only tell what there is")
    given = parser.parse_args()
    winners = Winners(yaml.safe_load(SPEC.read_bytes()))
    if not given.write:
        winners.train_all(given.jobs)
    rank(winners)
    results = results_of(winners)
    good = judge(winners, results)
    draw(results, ROOT / "docs" / "winners.png")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
