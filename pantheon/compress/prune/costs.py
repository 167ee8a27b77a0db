"""What a target is a fraction of: multiply-accumulates, parameters, bytes, or time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from torch import nn

from pantheon.compress.latency import compare_latency
from pantheon.compress.macs import macs
from pantheon.compress.size import parameters
from pantheon.compress.stage import Timing
from pantheon.compress.turns import Candidate

Of = Literal["macs", "parameters", "bytes", "latency"]

SLOW = ("latency",)
"""Costs that take long to measure and are not the same twice."""


def cost_of(
    of: Of, model: nn.Module, inputs: Any, timing: Timing | None = None
) -> Callable[[nn.Module], float]:
    """A function that says which fraction of a model's cost another one has.

    Args:
        of: ``"macs"`` of one sample, ``"parameters"``, ``"bytes"`` of parameters and buffers, or
            ``"latency"``: the median ratio of times of one forward, both taking turns.
        model: what it is a fraction of.
        inputs: of one sample; for latency of as many as are to be timed.
        timing: how latency is measured.

    Example:
        >>> import torch
        >>> wide, narrow = nn.Linear(4, 6), nn.Linear(4, 3)
        >>> cost_of("macs", wide, torch.zeros(1, 4))(narrow)
        0.5
    """
    if of == "latency":
        asked = timing or Timing()

        def ratio(other: nn.Module) -> float:
            pair = {"whole": Candidate.of(model, inputs), "pruned": Candidate.of(other, inputs)}
            found = compare_latency(pair, threads=asked.threads, seconds=asked.seconds / 2)
            return found.ratios["pruned"].median

        return ratio
    counted: dict[Of, Callable[[nn.Module], int]] = {
        "macs": lambda m: macs(m, inputs).total,
        "parameters": lambda m: parameters(m).total,
        "bytes": _bytes,
    }
    count = counted[of]
    whole = count(model)
    return lambda other: count(other) / whole


def _bytes(model: nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in model.state_dict().values())
