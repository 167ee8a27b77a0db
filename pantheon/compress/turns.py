"""Candidates that take turns at running, so that what disturbs one disturbs all alike."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import Any

import torch

from pantheon.compress import inputs as given
from pantheon.training.evaluating import evaluating
from pantheon.training.objective import call_student

EAGER = "torch"
"""The runtime of a module that nothing compiled."""

WARM_UP = 3
"""Calls of each candidate before the first round, in which a runtime allocates and compiles."""


@dataclass(frozen=True)
class Candidate:
    """Something to time, of any runtime.

    Args:
        call: runs it once; without arguments.
        device: where it runs; one other than ``"cpu"`` is waited for after each run.
        runtime: what to report as running it.
        rows: rows of the batch, None if not known.
        model: a module to keep in evaluation mode meanwhile.

    Example:
        >>> Candidate(lambda: sum(range(100)), runtime="python", rows=1).device
        'cpu'
    """

    call: Callable[[], object]
    device: str = "cpu"
    runtime: str = EAGER
    rows: int | None = None
    model: torch.nn.Module | None = field(default=None, repr=False)

    @staticmethod
    def of(model: Any, inputs: Any, runtime: str = EAGER) -> Candidate:
        """A module, or a callable, with its inputs.

        Args:
            inputs: a mapping goes in by keyword, a tuple or list by position, else as the one
                argument. Their first tensor tells device and rows.

        Example:
            >>> Candidate.of(torch.nn.Linear(8, 4), torch.zeros(32, 8)).rows
            32
        """
        module = model if isinstance(model, torch.nn.Module) else None
        call = partial(call_student, model, inputs)
        return Candidate(call, given.device(model, inputs), runtime, given.rows(inputs), module)


Times = dict[str, list[list[float]]]
"""Seconds of each run of each turn, by the candidate's name."""


def take_turns(
    candidates: Mapping[str, Candidate], threads: int, seconds: float, rounds: int
) -> Times:
    """Run every candidate once a round, every second round in reverse order.

    A turn is one run that does not count, which brings the weights back into the caches, and then
    runs one after the other until its time is up, one at least. Models are in evaluation mode,
    gradients off, and garbage is not collected meanwhile.

    Args:
        threads: torch's, put back afterwards.
        seconds: for each candidate, in all rounds together.

    Example:
        >>> times = take_turns({"a": Candidate(list), "b": Candidate(dict)}, 1, 0.0, 3)
        >>> {name: [len(turn) for turn in turns] for name, turns in times.items()}
        {'a': [1, 1, 1], 'b': [1, 1, 1]}
    """
    times: Times = {name: [] for name in candidates}
    with _quiet(threads), ExitStack() as stack:
        for candidate in candidates.values():
            stack.enter_context(evaluating(candidate.model))
        for candidate in candidates.values():
            for _ in range(WARM_UP):
                candidate.call()
        for turn in range(rounds):
            for name in list(candidates)[:: -1 if turn % 2 else 1]:
                times[name].append(_turn(candidates[name], seconds / rounds))
    return times


def _turn(candidate: Candidate, seconds: float) -> list[float]:
    wait = _waiting(candidate.device)
    candidate.call()
    wait()
    took: list[float] = []
    spent = 0.0
    while not took or spent < seconds:
        start = perf_counter()
        candidate.call()
        wait()
        took.append(perf_counter() - start)
        spent += took[-1]
    return took


def _waiting(device: str) -> Callable[[], None]:
    """What returns when a device has done all that it was given."""
    if torch.device(device).type == "cpu":
        return lambda: None
    return partial(torch.accelerator.synchronize, torch.device(device))


@contextmanager
def _quiet(threads: int) -> Iterator[None]:
    """So many threads of torch, and no garbage collection; both as before afterwards."""
    before, collecting = torch.get_num_threads(), gc.isenabled()
    try:
        torch.set_num_threads(threads)
        gc.disable()
        yield
    finally:
        torch.set_num_threads(before)
        if collecting:
            gc.enable()
