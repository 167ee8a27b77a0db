"""How long a forward pass takes, of one model or of several that take turns."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from pantheon.compress.turns import EAGER, Candidate, Times, take_turns
from pantheon.errors import ConfigError


@dataclass(frozen=True)
class Latency:
    """Wall-clock milliseconds of one call, over all rounds.

    Args:
        median: half of the runs took at most as long.
        lower, upper: quartiles: a quarter of the runs took at most, or at least, as long.
        minimum: the fastest run.
        runs: how many were timed.
        rows: rows of the batch, None if not known.
        device: where it ran, such as ``"cpu"`` or ``"cuda:0"``.
        runtime: what ran it, such as ``"torch"``.
        threads: threads on the CPU.
    """

    median: float
    lower: float
    upper: float
    minimum: float
    runs: int
    rows: int | None
    device: str
    runtime: str
    threads: int


@dataclass(frozen=True)
class Ratio:
    """A candidate's median over the first candidate's, of the same round; below 1 is faster.

    Args:
        median: over the rounds.
        lower, upper: quartiles over the rounds: where 1 lies between, they are hardly different.
    """

    median: float
    lower: float
    upper: float


@dataclass(frozen=True)
class Comparison:
    """What took turns in one run.

    Args:
        first: the name of the candidate that the others are compared with.
        rounds: how many there were.
        latencies: by name, in the order given.
        ratios: by name; of the first one it is 1.
    """

    first: str
    rounds: int
    latencies: dict[str, Latency]
    ratios: dict[str, Ratio]


def latency(
    model: Any,
    inputs: Any,
    *,
    runtime: str = EAGER,
    threads: int = 1,
    seconds: float = 1.0,
    rounds: int = 10,
) -> Latency:
    """Time a model's forward pass, in evaluation mode and without gradients.

    Args:
        model, inputs: see `Candidate.of`.
        threads, seconds, rounds: see `compare_latency`.

    Raises:
        ConfigError: threads, seconds or rounds that cannot be.

    Example:
        >>> import torch
        >>> found = latency(torch.nn.Linear(8, 4), torch.zeros(32, 8), seconds=0, rounds=5)
        >>> found.runs, found.rows, found.device, found.runtime, found.threads
        (5, 32, 'cpu', 'torch', 1)
    """
    only = Candidate.of(model, inputs, runtime)
    return _alone(only, threads, seconds, rounds)


def latency_of(
    function: Callable[[], object],
    *,
    runtime: str,
    rows: int | None = None,
    threads: int = 1,
    device: str = "cpu",
    seconds: float = 1.0,
    rounds: int = 10,
) -> Latency:
    """Time whatever runs without arguments, such as a session of another runtime.

    Args:
        function, runtime, rows, device: see `Candidate`.
        threads, seconds, rounds: see `compare_latency`.

    Raises:
        ConfigError: threads, seconds or rounds that cannot be.

    Example:
        >>> latency_of(lambda: sum(range(100)), runtime="python", seconds=0, rounds=3).runs
        3
    """
    return _alone(Candidate(function, device, runtime, rows), threads, seconds, rounds)


def compare_latency(
    candidates: Mapping[str, Callable[[], object] | Candidate],
    *,
    runtime: str = EAGER,
    rows: int | None = None,
    device: str = "cpu",
    threads: int = 1,
    seconds: float = 1.0,
    rounds: int = 10,
) -> Comparison:
    """Time several candidates in turns, so that what disturbs one disturbs all alike.

    See `take_turns` for what a turn is. Gradients are off meanwhile.

    Args:
        candidates: by name: a function without arguments, or a `Candidate`, which says itself what
            it is and may keep a model in evaluation mode. The first is compared with.
        runtime, rows, device: of the functions; see `Candidate`.
        threads: torch's for all of them, put back afterwards, and the figure reported. A session of
            another runtime must have been made with as many.
        seconds: for the runs of each candidate, in all rounds together; 0 for one run a round.
        rounds: how many turns each has.

    Raises:
        ConfigError: no candidates, or threads, seconds or rounds that cannot be.

    Example:
        >>> pair = {"wide": lambda: sum(range(512)), "narrow": lambda: sum(range(64))}
        >>> found = compare_latency(pair, runtime="python", seconds=0, rounds=4)
        >>> list(found.latencies), found.ratios["wide"]
        (['wide', 'narrow'], Ratio(median=1.0, lower=1.0, upper=1.0))
    """
    _check(candidates, threads, seconds, rounds)
    every = {
        name: each if isinstance(each, Candidate) else Candidate(each, device, runtime, rows)
        for name, each in candidates.items()
    }
    return _comparison(every, take_turns(every, threads, seconds, rounds), threads)


def _alone(candidate: Candidate, threads: int, seconds: float, rounds: int) -> Latency:
    found = compare_latency({"": candidate}, threads=threads, seconds=seconds, rounds=rounds)
    return found.latencies[""]


def _comparison(candidates: Mapping[str, Candidate], times: Times, threads: int) -> Comparison:
    first = next(iter(candidates))
    medians = {name: np.array([np.median(turn) for turn in times[name]]) for name in times}
    return Comparison(
        first,
        len(times[first]),
        {
            name: _latency(each, [*chain(*times[name])], threads)
            for name, each in candidates.items()
        },
        {name: Ratio(*_quartiles(found / medians[first])) for name, found in medians.items()},
    )


def _latency(candidate: Candidate, times: list[float], threads: int) -> Latency:
    median, lower, upper = _quartiles(np.array(times) * 1000)
    return Latency(
        median,
        lower,
        upper,
        min(times) * 1000,
        len(times),
        candidate.rows,
        candidate.device,
        candidate.runtime,
        threads,
    )


def _quartiles(values: Any) -> tuple[float, float, float]:
    """Median, lower and upper quartile, interpolated linearly."""
    median, lower, upper = np.percentile(values, [50, 25, 75]).tolist()
    return median, lower, upper


def _check(candidates: object, threads: int, seconds: float, rounds: int) -> None:
    if not candidates:
        raise ConfigError("no candidates to time; expected at least one")
    if threads < 1 or rounds < 1 or not 0 <= seconds < math.inf:
        raise ConfigError(
            f"threads is {threads}, rounds {rounds} and seconds {seconds}; expected 1 or more, 1 "
            "or more, and a finite time of 0 or more"
        )
