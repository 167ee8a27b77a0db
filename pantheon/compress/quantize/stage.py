"""The stage that quantizes after training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import nn

from pantheon.compress.artifact import Artifact
from pantheon.compress.fold import FoldBatchNorm
from pantheon.compress.quantize.calibrating import Calibration, calibrate, met_spots
from pantheon.compress.quantize.config import QuantizeConfig
from pantheon.compress.quantize.edit import RoundTensors, Weight
from pantheon.compress.quantize.folding import foldable
from pantheon.compress.quantize.observers import observer
from pantheon.compress.quantize.rounding import Rounder
from pantheon.compress.quantize.simulated import is_quantized
from pantheon.compress.quantize.spots import Spots
from pantheon.compress.run_folder import read_json, write_json
from pantheon.compress.stage import Cost, Outcome, Phase, Work
from pantheon.compress.together import SEED, first_alone, one_input
from pantheon.errors import ConfigError
from pantheon.paths import paths_matching

TOLD, MADE = "quantized.json", "quantized"
"""In the stage's folder: what the report says, and the model; the first is written last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantize:
    """Folds batch norms, finds scales on samples, and rounds activations and weights.

    Args:
        observer: where activations are clipped, by the name of an observer.
        bits: of activations.
        training: what becomes of thresholds in later training.
        weight: how weights are rounded.
        samples: of the training part that are looked at, at most.
        only, keep: patterns of the convolutions and linear layers that take part, and do not.
        name: of the stage.

    Raises:
        ConfigError: there is no such observer.
    """

    observer: str = "percentile"
    bits: int = 8
    training: str = "fixed"
    weight: Weight = field(default_factory=Weight)
    samples: int = 512
    only: Sequence[str] = ()
    keep: Sequence[str] = ()
    name: str = "quantize"

    phase: Phase = field(default="quantize", init=False)
    changes: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        observer(self.observer)

    @classmethod
    def from_config(cls, config: QuantizeConfig) -> Quantize:
        """The stage that a configuration describes."""
        return cls(
            observer=config.observer,
            bits=config.bits,
            training=config.training,
            weight=Weight(config.weight_bits, config.per_channel),
            samples=config.samples,
            only=config.only,
            keep=config.keep,
            name=config.name or "quantize",
        )

    def cost(self, samples: int) -> Cost:
        """The samples that are looked at."""
        return Cost(samples=min(self.samples, samples), copies=2)

    def check(self, model: nn.Module) -> None:
        """Make sure that patterns match layers, and that the model is not quantized yet.

        Raises:
            ConfigError: names the stage, the pattern and the nearest paths.
        """
        try:
            self._kept(model)
        except ConfigError as error:
            raise ConfigError(f"stage {self.name!r}, {error}") from error
        if is_quantized(model):
            raise ConfigError(
                f"stage {self.name!r} would quantize a model that is quantized already; begin with "
                "the artifact from before"
            )

    def run(self, artifact: Artifact, work: Work) -> Outcome:
        """Quantize; what was done before a kill is not done again."""
        first_alone(work, TOLD, partial(self._quantize, artifact, work))
        told: dict[str, Any] = read_json(work.folder / TOLD)
        made = Artifact.load(work.folder / MADE, work.device)
        return Outcome(made, samples=told["samples"], figures={"quantization": told})

    def _quantize(self, artifact: Artifact, work: Work) -> None:
        kept, inputs = self._kept(artifact.model), one_input(work)
        pairs = foldable(artifact.model, inputs)
        if pairs:
            artifact.edit(FoldBatchNorm(pairs))
        spots = met_spots(artifact.model, inputs, kept)
        stream = work.parts.train.excerpt(self.samples, SEED).samples()
        make = partial(observer, self.observer)
        found = calibrate(
            artifact.model, spots, stream, make, self.bits, work.device, self.training
        )
        artifact.edit(RoundTensors(found.activations, dict.fromkeys(spots.weights, self.weight)))
        rounders = [m for m in artifact.model.modules() if isinstance(m, Rounder)]
        for rounder, threshold in zip(rounders, found.thresholds, strict=True):
            rounder.start(threshold)
        artifact.save(work.folder / MADE)
        write_json(work.folder / TOLD, self._told(spots, found, len(pairs)))
        work.watcher.say(
            f"{len(spots.activations)} activations and {len(spots.weights)} weights are rounded "
            f"after {found.samples} samples; {len(pairs)} batch norms are folded"
        )

    def _told(self, spots: Spots, found: Calibration, folded: int) -> dict[str, Any]:
        pairs = zip(spots.activations, found.activations, found.thresholds, strict=True)
        return {
            "observer": self.observer,
            "training": self.training,
            "bits": {"activations": self.bits, "weights": self.weight.bits},
            "per_channel": self.weight.per_channel,
            "simulated": min(self.bits, self.weight.bits) < 8,
            "samples": found.samples,
            "folded": folded,
            "activations": {
                spot.name: {"threshold": threshold, "signed": each.grid.signed}
                for spot, each, threshold in pairs
            },
            "weights": list(spots.weights),
            "float": {str(site): name for site, name in spots.float.items()},
        }

    def _kept(self, model: nn.Module) -> set[str]:
        """The layers that go on with real numbers."""
        layers = [
            path
            for path, layer in model.named_modules()
            if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd)
        ]
        kept = paths_matching(self.keep, layers, "keep")
        if not self.only:
            return kept
        wanted = paths_matching(self.only, layers, "only")
        if both := sorted(kept & wanted):
            raise ConfigError(f"{both[0]!r} is named by only and by keep; leave it out of one")
        return kept | (set(layers) - wanted)
