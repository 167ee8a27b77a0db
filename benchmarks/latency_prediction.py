"""How well latencies are predicted from operators that were measured one by one.

Run ``python -m benchmarks.latency_prediction [--precision int8] [--picture FILE.png]``. A table is
built on this machine from nets by chance of the spaces around MobileNetV1, MobileNetV2 and
ResNet-18; other nets of these spaces are predicted by it, and measured: exported to ONNX, as real
numbers or quantized, in ONNX Runtime on one thread, in turns. Compared are a constant, the median
of the nets that the table was calibrated on, and a line through their multiply-accumulates. Nets
are timed by the processor's time of their thread, which other processes on the machine disturb less
than that on the wall, at one pace: a yardstick beside every turn tells how fast the machine is. One
net of each space that the table was calibrated on is timed again beside the nets that are
predicted: by how much it takes longer than it did then is printed, and divided out. Exit status 1
if the nets' latencies span less than 3 times, half of the errors are above 10 %, Spearman's
correlation is below 0.9, or a constant or the line is as good.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from pantheon.compress.latency_table.building import Builder, Named, points, whole
from pantheon.compress.latency_table.precision import PRECISIONS, REAL
from pantheon.compress.latency_table.prediction import Predictor
from pantheon.compress.macs import macs
from pantheon.compress.search.factory_space import ready_made

SPACES = ("mobilenet_v1", "mobilenet_v2", "resnet18")
SPAN, ERROR, CORRELATION = 3.0, 0.1, 0.9

Numbers = NDArray[np.float64]


def some(count: int, side: int, seed: int) -> list[Named]:
    """Nets by chance, as many of each space."""
    images = torch.randn(1, 3, side, side)
    found: list[Named] = []
    for name in SPACES:
        args = {"classes": 100, "stem_stride": 1 if side < 64 else 2}
        space = ready_made(name, args, 0, "")
        found += islice(points(space, name, images, seed), count // len(SPACES))
    return found


def cost(net: Named) -> float:
    """Multiply-accumulates."""
    return float(macs(net.model(), net.inputs).total)


def by_macs(
    calibration: Mapping[str, float], known: Sequence[Named], asked: Sequence[Named]
) -> Numbers:
    """What a line through multiply-accumulates says."""
    truth = np.array([calibration[net.name] for net in known])
    parts = np.array([[cost(net), 1.0] for net in known])
    line = np.linalg.lstsq(parts / truth[:, None], np.ones(len(truth)), rcond=None)[0]
    found: Numbers = np.array([[cost(net), 1.0] for net in asked]) @ line
    return found


def measure(
    asked: Sequence[Named], known: Sequence[Named], builder: Builder
) -> tuple[Mapping[str, float], float]:
    """What nets take, and how many times longer those of the calibration do than they did."""
    again = list({net.name.split()[0]: net for net in known}.values())
    timed = whole([*asked, *again], 1, builder.pace, builder.table.conditions.precision)
    ratios = [timed[net.name] / builder.table.nets[net.name].milliseconds for net in again]
    return timed, float(np.median(ratios))


def errors(name: str, guess: Numbers, truth: Numbers) -> tuple[float, float]:
    """The median error and Spearman's correlation; printed."""
    apart = np.abs(guess / truth - 1)
    middle, most = np.quantile(apart, [0.5, 0.9])
    same = float(stats.spearmanr(guess, truth).statistic) if np.ptp(guess) else 0.0
    print(f"{name:<10} median error {middle:6.1%}  90 % within {most:6.1%}  Spearman {same:.3f}")
    return float(middle), same


def draw(file: Path, names: Sequence[str], guess: Numbers, truth: Numbers) -> None:
    """Predicted against measured latencies."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 5), layout="constrained")
    ends = min(guess.min(), truth.min()) * 0.8, max(guess.max(), truth.max()) * 1.25
    axes.fill_between(ends, [e * 0.9 for e in ends], [e * 1.1 for e in ends], alpha=0.15)
    axes.plot(ends, ends, color="grey", linewidth=1)
    for space, mark in zip(SPACES, "osD", strict=True):
        of = np.array([name.startswith(space) for name in names])
        axes.scatter(truth[of], guess[of], marker=mark, s=28, label=space)
    axes.set(xscale="log", yscale="log", xlabel="measured, ms", ylabel="predicted, ms",
             xlim=ends, ylim=ends)  # fmt: skip
    axes.legend(title="10 % to either side is shaded")
    figure.savefig(file, dpi=120)


def main() -> None:
    """Build a table, predict other nets, and measure these."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", type=int, default=20, help="of the images")
    parser.add_argument("--nets", type=int, default=12, help="that are predicted")
    parser.add_argument("--calibrating", type=int, default=12, help="nets that are calibrated on")
    parser.add_argument("--precision", choices=PRECISIONS, default=REAL)
    parser.add_argument("--table", type=Path, help="where the table is kept, to go on with it")
    parser.add_argument("--picture", type=Path)
    given = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    start = time.perf_counter()
    known, asked = some(given.calibrating, given.side, 1), some(given.nets, given.side, 2)
    with tempfile.TemporaryDirectory() as folder:
        file = given.table or Path(folder, "table.json")
        builder = Builder(file, precision=given.precision)
        builder.calibrate(known)
        before = len(builder.table.entries)
        builder.cover(asked)
    predictor = Predictor(builder.table)
    calibrated = time.perf_counter()
    found = [predictor.predict(net.model(), net.inputs) for net in asked]
    predicted = time.perf_counter()
    timed, slower = measure(asked, known, builder)
    guess = np.array([each.milliseconds for each in found])
    truth = np.array([timed[net.name] / slower for net in asked])
    for net, each, is_so in zip(asked, guess, truth, strict=True):
        print(
            f"  {net.name:<16} {is_so:8.3f} ms, predicted {each:8.3f} ms ({each / is_so - 1:+.1%})"
        )
    line = builder.table.calibration
    assert line is not None
    print(
        f"{len(asked)} nets of {truth.min():.2f} to {truth.max():.2f} ms, "
        f"{truth.max() / truth.min():.1f} times; calibrated on {line.nets} others; "
        f"{len(predictor.table.entries)} operators, {before} of them of the calibration's nets; "
        f"{calibrated - start:.0f} s to build the table, {predicted - calibrated:.1f} s to "
        f"predict, {time.perf_counter() - predicted:.0f} s to measure, when nets of the "
        f"calibration took {slower:.2f} times as long as before"
    )
    within = np.mean(np.abs(guess / truth - 1) <= line.error)
    print(f"the table says that {line.kept:.0%} are within {line.error:.1%}; {within:.0%} are")
    ours, same = errors("operators", guess, truth)
    taken = {name: net.milliseconds for name, net in builder.table.nets.items()}
    rival, _ = errors("macs", by_macs(taken, known, asked), truth)
    constant, _ = errors("constant", np.full(len(truth), np.median([*taken.values()])), truth)
    if given.picture:
        draw(given.picture, [net.name for net in asked], guess, truth)
    met = truth.max() >= SPAN * truth.min() and ours <= ERROR and same >= CORRELATION
    sys.exit(not (met and ours < min(rival, constant)))


if __name__ == "__main__":
    main()
