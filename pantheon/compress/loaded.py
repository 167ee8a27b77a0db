"""An exported file in a runtime, whose answers and latency are put beside torch's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pantheon.compress.inputs import fed
from pantheon.compress.latency import latency_of
from pantheon.errors import CompressionError
from pantheon.training.objective import call_student

THREADS = 1
"""Threads on which files are compared and timed."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A file that a runtime has read, and computes on one thread of the CPU.

    Args:
        file: which one.
        runtime: what a latency calls it, such as ``"onnxruntime"``.
        title: its name in messages.
        names: of the file's inputs, in order.
        call: answers the outputs in order, for arrays by the inputs' names.
    """

    file: Path
    runtime: str
    title: str
    names: Sequence[str]
    call: Callable[[Mapping[str, Any]], Sequence[Any]]


def compared(
    loaded: Loaded,
    model: nn.Module,
    inputs: Any,
    tolerance: float,
    *,
    allowed: float = 0.0,
    rows: int | None = None,
) -> dict[str, Any]:
    """Compare every output with torch's, and measure the latency.

    Args:
        model: in evaluation mode, on the CPU.
        inputs: of the model.
        tolerance: largest absolute difference, relative to the largest output.
        allowed: a difference that is none whatever the tolerance.
        rows: of the batch to time; by default all.

    Returns:
        The largest difference and the largest output, absolutely, and the latency.

    Raises:
        CompressionError: outputs differ by more than the tolerance, or are not finite.
    """
    feed = fed(inputs, loaded.names)
    expected = answers(model, inputs)
    scale = float(np.max([np.abs(e).max() for e in expected])) or 1.0
    worst = apart(expected, loaded.call(feed))
    if not worst <= max(tolerance * scale, allowed):
        raise CompressionError(
            f"{loaded.file}: {loaded.title}'s outputs differ from torch's by {worst:.3g}, with "
            f"outputs up to {scale:.3g}; expected at most {tolerance:g} of that"
        )
    some = {name: value[:rows] for name, value in feed.items()}
    timed = latency_of(
        lambda: loaded.call(some),
        runtime=loaded.runtime,
        rows=len(next(iter(some.values()))),
        threads=THREADS,
    )
    return {"largest_difference": worst, "largest_output": scale, "latency": asdict(timed)}


def answers(model: nn.Module, inputs: Any) -> list[Any]:
    """What a model answers in torch, as arrays of float32 in order."""
    with torch.inference_mode():
        return [tensor.float().numpy() for tensor in _tensors(call_student(model, inputs))]


def apart(expected: Sequence[Any], found: Sequence[Any]) -> float:
    """The largest absolute difference of answers; unlike Python's own maximum, NaN where one is."""
    return float(np.max([np.abs(e - f).max() for e, f in zip(expected, found, strict=True)]))


def _tensors(output: Any) -> list[Tensor]:
    match output:
        case Mapping():
            return [v for v in output.values() if isinstance(v, Tensor)]
        case tuple() | list():
            return [v for v in output if isinstance(v, Tensor)]
    return [output]
