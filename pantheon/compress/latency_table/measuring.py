"""What operators take in ONNX Runtime, by its own profiler."""

from __future__ import annotations

import json
import logging
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pantheon.compress.latency_table.emitting import Graph
from pantheon.compress.latency_table.files import in_integers
from pantheon.compress.latency_table.operators import Operator
from pantheon.compress.latency_table.pace import Pace, Turn, middle
from pantheon.compress.latency_table.precision import INTEGERS, REAL, check_precision

logger = logging.getLogger(__name__)

RUNTIME = "onnxruntime"

SESSIONS = 8
"""Sessions that take turns."""


@dataclass(frozen=True, slots=True)
class Timing:
    """What an operator takes, in milliseconds.

    Args:
        time: the mean of the middle half of the runs, each taken as a whole, of those of all
            operators of a set. A mean, as the profiler's clock has whole microseconds.
        lower, upper: quartiles of all runs.
        runs: how many there were.
    """

    time: float
    lower: float
    upper: float
    runs: int


Timings = dict[Operator, Timing]
"""By operator."""


def measured(
    sets: Iterable[Sequence[Operator]], threads: int, pace: Pace, precision: str = REAL
) -> Timings:
    """Time operators in ONNX Runtime, in sets that take turns.

    The operators of a set are in one graph. What one takes depends on what else there is, which the
    caches have to make room for: so a set has what a net has, in its order, repetitions as well.
    What a runtime does to lay tensors out for single ones does not count.

    Args:
        sets: of operators; one that is in several of them is timed in all.
        threads: of a run.
        pace: that times are told at.
        precision: of the numbers, one of `PRECISIONS`; integers with what rounds beside them.

    Raises:
        ConfigError: there is no such precision.
    """
    check_precision(precision)
    every: dict[Operator, list[float]] = defaultdict(list)
    usual: dict[Operator, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        sessions = [_Session(some, threads, folder, precision) for some in sets]
        turns = pace.turns([session.run for session in sessions])
        for session, own in zip(sessions, turns, strict=True):
            times = session.times(own)
            for place, operator in enumerate(session.operators):
                every[operator] += times[:, place].tolist()
                usual[operator] += times[middle(times.sum(axis=1)), place].tolist()
    return {operator: _timing(usual[operator], each) for operator, each in every.items()}


class _Session:
    """Operators in one graph, which a runtime executes and profiles."""

    def __init__(
        self, operators: Sequence[Operator], threads: int, folder: str, precision: str
    ) -> None:
        from onnxruntime import InferenceSession, SessionOptions

        self.operators, self._precision = operators, precision
        graph = Graph()
        for number, operator in enumerate(operators):
            graph.put(f"operator{number}", operator)
        options = SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder, "profile"))
        model, self._feed = graph.model(), graph.feed()
        if precision == INTEGERS:
            model = in_integers(model, graph.rounded, self._feed)
        self._session = InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run(self) -> None:
        """Run all operators once."""
        self._session.run(None, self._feed)

    def times(self, turns: Sequence[Turn]) -> NDArray[np.float64]:
        """Milliseconds of each run that counts and of each operator, ``[runs, operators]``."""
        with open(self._session.end_profiling(), "rb") as file:
            runs = _runs(json.load(file))
        found = np.array([[run[n] for n in range(len(self.operators))] for run in runs]) / 1000
        for operator, longest in zip(self.operators, found.max(axis=0), strict=True):
            # As integers, an activation after another operator costs nothing.
            if not longest and self._precision == REAL:
                logger.warning("the runtime has left out %s; it counts nothing", operator)
        # The first run of a turn does not count.
        slower = [each for turn in turns for each in (0.0, *[turn.slower] * len(turn.times))]
        pace = np.array(slower)[:, None]
        counted: NDArray[np.float64] = found[pace[:, 0] > 0] / pace[pace[:, 0] > 0]
        return counted


_MARK = re.compile(r"operator(\d+)_")


def _runs(events: Iterable[Mapping[str, Any]]) -> list[dict[int, float]]:
    """Microseconds by the operator's number, of each run of a profile."""
    runs: list[dict[int, float]] = []
    now: dict[int, float] = defaultdict(float)
    for event in events:
        if event.get("name") == "model_run":
            runs.append(now)
            now = defaultdict(float)
        elif event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            mark = _MARK.search(event["name"])
            if mark is not None and not event["args"]["op_name"].startswith("Reorder"):
                now[int(mark[1])] += float(event["dur"])
    return runs


def _timing(usual: Sequence[float], every: Sequence[float]) -> Timing:
    lower, upper = np.percentile(every, [25, 75]).tolist()
    return Timing(float(np.mean(usual)), lower, upper, len(every))
