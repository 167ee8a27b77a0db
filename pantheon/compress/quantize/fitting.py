"""Rounders put into a model, each with what calibration found."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from pantheon.compress.artifact import Artifact
from pantheon.compress.fold import FoldBatchNorm
from pantheon.compress.inputs import rows
from pantheon.compress.quantize.calibrating import Calibration, calibrate, met_spots
from pantheon.compress.quantize.edit import RoundTensors, Weight
from pantheon.compress.quantize.folding import foldable
from pantheon.compress.quantize.grid import Grid
from pantheon.compress.quantize.observers import AbsMax
from pantheon.compress.quantize.processor import saturates
from pantheon.compress.quantize.rounding import Rounder
from pantheon.compress.quantize.scales import REDUCED
from pantheon.compress.quantize.weights import original_weight, weight_rounders


def fit(artifact: Artifact, found: Calibration, weights: Mapping[str, Weight]) -> None:
    """Have a model round what was calibrated, and weights.

    Args:
        artifact: is edited.
        found: of its activations.
        weights: by the paths of layers.

    Raises:
        ConfigError: they do not fit the model.
    """
    artifact.edit(RoundTensors(found.activations, weights))
    _start(artifact.model, found, weights)


def rounded_by(model: nn.Module, inputs: Any) -> nn.Module:
    """A copy of a model that rounds to 8 bits, with the thresholds of a single batch.

    For what does not depend on thresholds, such as how fast its integers are, and to begin a
    training with. Batch norms are folded; weights have 7 bits where this processor would clip sums
    of two products. A tensor that is 0 throughout has a threshold of 1.

    Args:
        model: with real numbers; it is not changed.
        inputs: a tensor; or a tuple, list or mapping of the model's arguments.

    Raises:
        ConfigError, CompressionError: nothing of it can be rounded; or see `calibrate`.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 1, bias=False))
        >>> _ = nn.init.ones_(net[0].weight)
        >>> rounded_by(net, torch.tensor([[1.0, 3.0]]))(torch.tensor([[1.0, 9.0]]))
        tensor([[4.]], grad_fn=<MmBackward0>)
    """
    model = copy.deepcopy(model).eval()
    if pairs := foldable(model, inputs):
        model = FoldBatchNorm(pairs).apply(model)
    spots = met_spots(model, inputs)
    batch = SimpleNamespace(inputs=inputs, mask=torch.ones(rows(inputs) or 1, dtype=torch.bool))
    batch.to = lambda device: batch
    every: Any = [batch]
    found = calibrate(model, spots, every, _Some)
    bits = REDUCED if saturates() else 8
    weights = {path: Weight(bits, given=spots.given.get(path)) for path in spots.weights}
    model = RoundTensors(found.activations, weights).apply(model)
    _start(model, found, weights)
    return model.eval()


class _Some(AbsMax):
    """The largest value; 1 where all are 0."""

    def threshold(self, grid: Grid) -> float:
        """The threshold."""
        return super().threshold(grid) or 1.0


def _start(model: nn.Module, found: Calibration, weights: Mapping[str, Weight]) -> None:
    """Give rounders their thresholds."""
    rounders = [module for module in model.modules() if isinstance(module, Rounder)]
    for rounder, threshold in zip(rounders, found.thresholds, strict=True):
        rounder.start(threshold)
    for path in weights:
        layer = model.get_submodule(path)
        for each in weight_rounders(layer):
            each.start(original_weight(layer))
