"""Rounders put into a model, each with what calibration found."""

from __future__ import annotations

from collections.abc import Mapping

from pantheon.compress.artifact import Artifact
from pantheon.compress.quantize.calibrating import Calibration
from pantheon.compress.quantize.edit import RoundTensors, Weight
from pantheon.compress.quantize.rounding import Rounder
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
    rounders = [m for m in artifact.model.modules() if isinstance(m, Rounder)]
    for rounder, threshold in zip(rounders, found.thresholds, strict=True):
        rounder.start(threshold)
    for path in weights:
        layer = artifact.model.get_submodule(path)
        for each in weight_rounders(layer):
            each.start(original_weight(layer))
