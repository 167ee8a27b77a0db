"""Seeing what a model's tensors hold, and where to clip each before it is rounded."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from pantheon.compress.inputs import unpadded
from pantheon.compress.quantize.edit import Activation
from pantheon.compress.quantize.grid import Grid
from pantheon.compress.quantize.observers import Observer, require_values
from pantheon.compress.quantize.spots import Site, Spots, spots_of
from pantheon.compress.quantize.taps import tap, unreached
from pantheon.errors import CompressionError, ConfigError
from pantheon.stream import Batch
from pantheon.training.evaluating import evaluating
from pantheon.training.objective import call_student


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was found of a model's tensors.

    Args:
        activations: the quantizers, in the order of the spots.
        thresholds: of each, the largest value that is not clipped.
        samples: how many were seen.
    """

    activations: tuple[Activation, ...]
    thresholds: tuple[float, ...]
    samples: int


class _Seeing(nn.Module):
    """Lets values pass, and has an observer see them."""

    def __init__(self, name: str, observer: Observer) -> None:
        super().__init__()
        self.name, self.observer, self.signed = name, observer, False

    def forward(self, values: Tensor) -> Tensor:
        """Values as they are."""
        require_values(values, self.name)
        self.signed = self.signed or bool((values < 0).any())
        self.observer.see(values)
        return values


def met_spots(model: nn.Module, example_inputs: Any, keep: Collection[str] = ()) -> Spots:
    """What of a model can be rounded where its code makes it: see `spots_of`.

    The model is run once with taps that change nothing. Tensors of the graph that its code never
    has in hand, as in functions that are many operations in one, are left alone, and so is what
    reads them.

    Raises:
        ConfigError, CompressionError: see `spots_of`; or the model does not run with a part more,
            as one that goes over its parts from the end.
    """
    avoid: set[Site] = set()
    while True:
        spots = spots_of(model, example_inputs, keep, avoid)
        sites = [spot.sites for spot in spots.activations]
        watched = tap(copy.deepcopy(model), sites, [nn.Identity() for _ in sites])
        try:
            with evaluating(watched):
                call_student(watched, example_inputs)
        except Exception as error:
            raise CompressionError(
                f"the {type(model).__name__} does not run with a part more, which holds its "
                f"quantizers: {type(error).__name__}: {error}; does it go over its parts? give it "
                "a module around it"
            ) from error
        missed = unreached(watched)
        if not missed:
            return spots
        if missed <= avoid:
            raise _unmet(model, missed)
        avoid |= missed


def _unmet(model: nn.Module, missed: Collection[Site]) -> CompressionError:
    return CompressionError(
        f"the {type(model).__name__} makes no tensor at "
        f"{', '.join(map(str, sorted(missed)[:5]))} when it is run, though torch.export saw one "
        "there; keep that module out of quantization"
    )


def calibrate(
    model: nn.Module,
    spots: Spots,
    stream: Iterable[Batch],
    observer: Callable[[], Observer],
    bits: int | Sequence[int] = 8,
    device: str = "cpu",
    by: str = "fixed",
) -> Calibration:
    """Run a model on samples and find the thresholds of its tensors.

    A tensor of which nothing negative was seen gets unsigned integers.

    Args:
        model: as the spots were found in it; it is not changed.
        stream: is read once, for its inputs.
        observer: makes one for each spot.
        bits: of the integers; of all spots, or of each.
        by: what becomes of thresholds in training, see `Activation`.

    Raises:
        ConfigError: the stream has no samples.
        CompressionError: a tensor has values that are not finite, or nothing but zeros; or the
            model's code does something else than its graph.

    Example:
        >>> import torch
        >>> from types import SimpleNamespace
        >>> from pantheon.compress.quantize.observers import AbsMax
        >>> from pantheon.compress.quantize.spots import spots_of
        >>> class Batch(SimpleNamespace):
        ...     def to(self, device): return self
        >>> net, inputs = nn.Sequential(nn.ReLU(), nn.Linear(2, 2)), torch.tensor([[-1.0, 3.0]])
        >>> batch = Batch(inputs=inputs, mask=torch.ones(1, dtype=torch.bool))
        >>> found = calibrate(net, spots_of(net, inputs), [batch], AbsMax)
        >>> found.thresholds, found.activations[0].grid
        ((3.0,), Grid(bits=8, signed=False))
    """
    seeing = [_Seeing(spot.name, observer()) for spot in spots.activations]
    watched = tap(copy.deepcopy(model), [spot.sites for spot in spots.activations], seeing)
    samples = 0
    with evaluating(watched):
        for inputs, rows in unpadded(stream, device):
            call_student(watched, inputs)
            samples += rows
    if not samples:
        raise ConfigError("calibration was given no samples; name a part that has some")
    if missed := unreached(watched):
        raise _unmet(model, missed)
    every = [bits] * len(seeing) if isinstance(bits, int) else bits
    grids = [Grid(some, each.signed) for some, each in zip(every, seeing, strict=True)]
    thresholds = [each.observer.threshold(grid) for each, grid in zip(seeing, grids, strict=True)]
    if zeros := [e.name for e, found in zip(seeing, thresholds, strict=True) if not found]:
        raise CompressionError(
            f"{', '.join(zeros[:5])} is 0 for all {samples} samples: no scale can be found for it; "
            "see what the model is given, prune what is dead, or keep that layer out"
        )
    made = (Activation(s.sites, g, by) for s, g in zip(spots.activations, grids, strict=True))
    return Calibration(tuple(made), tuple(thresholds), samples)
