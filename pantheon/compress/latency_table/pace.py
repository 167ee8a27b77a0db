"""How fast the machine is at the moment, and runs in turns whose times are told at one pace.

A processor whose other threads or caches are busy may be half as fast for seconds on end, whatever
clock it is measured by. So a yardstick is run before and after every turn, and times are divided by
how much longer it took than it does at best.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pantheon.compress.latency_table.emitting import Graph
from pantheon.compress.latency_table.operators import Operator

TURNS, SECONDS, RUNS = 20, 0.4, 2
"""Turns of each, the seconds of all of them, and runs of a turn at least. One run more comes before
each turn, which does not count."""

_LATE = (
    "conv 1x160x3x3 dilation=1x1 groups=1 kernel=1x1 out=960 pad=0x0 stride=1x1 + clip",
    "conv 1x960x3x3 dilation=1x1 groups=960 kernel=3x3 out=960 pad=1x1 stride=1x1 + clip",
    "conv 1x960x3x3 dilation=1x1 groups=1 kernel=1x1 out=160 pad=0x0 stride=1x1",
)

YARDSTICK = (
    "conv 1x3x24x24 dilation=1x1 groups=1 kernel=3x3 out=32 pad=1x1 stride=2x2 + relu",
    "conv 1x32x12x12 dilation=1x1 groups=1 kernel=1x1 out=96 pad=0x0 stride=1x1 + clip",
    "conv 1x96x12x12 dilation=1x1 groups=96 kernel=3x3 out=96 pad=1x1 stride=2x2 + clip",
    "conv 1x96x6x6 dilation=1x1 groups=1 kernel=3x3 out=64 pad=1x1 stride=1x1 + relu",
    "conv 1x64x6x6 dilation=1x1 groups=1 kernel=1x1 out=160 pad=0x0 stride=2x2",
    *_LATE * 4,
    "linear 1x1280 out=256 + relu",
)
"""Its operators: some of each kind that nets have, with more weights than the nearest caches hold,
so that it meets with what nets meet with."""

STROKES, FIRST = 9, 400
"""Runs of the yardstick beside a turn, of which the median counts; and those by which its best time
is found."""


def clock_of(threads: int) -> Callable[[], float]:
    """What runs are timed by: of one thread, its time on the processor.

    That is what passes on the wall where nothing else runs, and hardly more where something does.
    """
    return time.thread_time if threads == 1 else time.perf_counter


@dataclass(frozen=True, slots=True)
class Turn:
    """Runs one after the other.

    Args:
        times: seconds of each run, the first one left out.
        slower: how many times longer the yardstick took than at best.
    """

    times: tuple[float, ...]
    slower: float


class Pace:
    """The yardstick in ONNX Runtime.

    Args:
        threads: of a run.
        best: its seconds at best, which times are told at; found if not given.

    Example:
        >>> pace = Pace(1)
        >>> [turns] = pace.turns([lambda: None], turns=3, seconds=0.0)
        >>> len(turns), all(turn.slower > 0.5 for turn in turns)
        (3, True)
    """

    def __init__(self, threads: int, best: float | None = None) -> None:
        from onnxruntime import InferenceSession, SessionOptions

        graph = Graph()
        for number, text in enumerate(YARDSTICK):
            graph.put(f"operator{number}", Operator.read(text))
        options = SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        self._session = InferenceSession(graph.model(), options, providers=["CPUExecutionProvider"])
        self._feed, self._clock = graph.feed(), clock_of(threads)
        self.best = best or float(np.quantile(self._strokes(FIRST), 0.1))

    def turns(
        self,
        calls: Sequence[Callable[[], object]],
        turns: int = TURNS,
        seconds: float = SECONDS,
    ) -> list[list[Turn]]:
        """Run several things in turns.

        Args:
            calls: what is run; in order, and backwards in every second turn.
            turns: of each.
            seconds: of each, in all turns together.
        """
        found: list[list[Turn]] = [[] for _ in calls]
        before = self._slower()
        for turn in range(turns):
            for place in range(len(calls))[:: -1 if turn % 2 else 1]:
                times = self._turn(calls[place], seconds / turns)
                after = self._slower()
                found[place].append(Turn(times, (before + after) / 2))
                before = after
        return found

    def _turn(self, call: Callable[[], object], seconds: float) -> tuple[float, ...]:
        call()
        times: list[float] = []
        while len(times) < RUNS or sum(times) < seconds:
            start = self._clock()
            call()
            times.append(self._clock() - start)
        return tuple(times)

    def _slower(self) -> float:
        return float(np.median(self._strokes(STROKES))) / self.best

    def _strokes(self, count: int) -> list[float]:
        self._session.run(None, self._feed)
        taken = []
        for _ in range(count):
            start = self._clock()
            self._session.run(None, self._feed)
            taken.append(self._clock() - start)
        return taken


def middle(times: NDArray[np.float64]) -> NDArray[np.intp]:
    """The places of the middle half of some times.

    Example:
        >>> middle(np.array([9.0, 2.0, 3.0, 1.0])).tolist()
        [1, 2]
    """
    ordered = np.argsort(times)
    cut = len(times) // 4
    return ordered[cut : len(times) - cut]
