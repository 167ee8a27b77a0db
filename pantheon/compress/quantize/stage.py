"""The stage that quantizes after training."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from torch import nn

from pantheon.compress.artifact import Artifact
from pantheon.compress.fold import FoldBatchNorm
from pantheon.compress.quantize.calibrating import Calibration, calibrate, met_spots
from pantheon.compress.quantize.config import QuantizeConfig, RoundingConfig
from pantheon.compress.quantize.correcting import correct_biases, learn_rounding
from pantheon.compress.quantize.edit import Weight
from pantheon.compress.quantize.fitting import fit
from pantheon.compress.quantize.folding import foldable
from pantheon.compress.quantize.observers import observer
from pantheon.compress.quantize.processor import saturates
from pantheon.compress.quantize.scales import REDUCED
from pantheon.compress.quantize.simulated import is_quantized
from pantheon.compress.quantize.spots import Spots
from pantheon.compress.run_folder import read_json, write_json
from pantheon.compress.stage import Cost, Outcome, Phase, Work
from pantheon.compress.together import SEED, first_alone, one_input
from pantheon.errors import ConfigError
from pantheon.paths import paths_matching
from pantheon.quote import quoted
from pantheon.stream import Batch

TOLD, MADE = "quantized.json", "quantized"
"""In the stage's folder: what the report says, and the model; the first is written last."""


CORRECTIONS = ("rounding", "biases")
"""What can be put right after calibration, in this order."""


@dataclass(frozen=True, slots=True)
class Bits:
    """Bits of a layer's own; None where it has those of all.

    Args:
        activations: of what it answers.
        weights: of its weight.
    """

    activations: int | None = None
    weights: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantize:
    """Folds batch norms, finds scales on samples, and rounds activations and weights.

    Args:
        observer: where activations are clipped, by the name of an observer.
        bits: of activations.
        thresholds: what becomes of them after that; see `Activation`.
        weight: how weights are rounded.
        mixed: other bits of some layers, by pattern; the last that matches counts.
        reduce_range: whether weights of 8 bits get half of the range, 7; None where this processor
            would clip sums of two of them, see `saturates`.
        correct: what is put right by the same samples: ``"rounding"`` of each weight, up or down,
            and ``"biases"``; see `pantheon.compress.quantize.correcting`.
        samples: of the training part that are looked at, at most.
        only, keep: patterns of the convolutions and linear layers that take part, and do not.
        name: of the stage.

    Raises:
        ConfigError: there is no such observer or correction.
    """

    observer: str = "percentile"
    bits: int = 8
    thresholds: str = "fixed"
    weight: Weight = field(default_factory=Weight)
    mixed: Mapping[str, Bits] = field(default_factory=dict)
    reduce_range: bool | None = None
    correct: Sequence[str] = ()
    samples: int = 512
    only: Sequence[str] = ()
    keep: Sequence[str] = ()
    name: str = "quantize"

    phase: Phase = field(default="quantize", init=False)
    changes: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        observer(self.observer)
        for each in self.correct:
            if each not in CORRECTIONS:
                raise ConfigError(
                    f"correct has {quoted(each)}; expected some of {', '.join(CORRECTIONS)}"
                )

    @classmethod
    def from_config(cls, config: QuantizeConfig) -> Quantize:
        """The stage that a configuration describes."""
        return cls.from_rounding(
            config,
            config.weight_bits,
            mixed={p: Bits(each.bits, each.weight_bits) for p, each in config.mixed.items()},
            correct=config.correct,
            name=config.name or "quantize",
        )

    @classmethod
    def from_rounding(cls, config: RoundingConfig, weight_bits: int, **other: Any) -> Quantize:
        """The stage that a part of a configuration describes, with other arguments."""
        return cls(
            observer=config.observer,
            bits=config.bits,
            thresholds=config.thresholds,
            weight=Weight(weight_bits, config.per_channel, config.weight_thresholds),
            reduce_range=config.reduce_range,
            samples=config.samples,
            only=config.only,
            keep=config.keep,
            **other,
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
            paths_matching(list(self.mixed), _layers(model), "mixed")
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
        spots, folded = self.prepared(artifact, work)
        stream = work.parts.train.excerpt(self.samples, SEED).samples()
        make = partial(observer, self.observer)
        bits, weights = self.bits_of(spots)
        found = calibrate(artifact.model, spots, stream, make, bits, work.device, self.thresholds)
        real = copy.deepcopy(artifact.model).eval()
        fit(artifact, found, weights)
        corrected = self._corrected(artifact.model, real, list(weights), stream, work)
        artifact.save(work.folder / MADE)
        told = self._told(spots, found, weights, folded) | {"corrected": corrected}
        write_json(work.folder / TOLD, told)
        work.watcher.say(
            f"{len(spots.activations)} activations and {len(spots.weights)} weights are rounded "
            f"after {found.samples} samples; {folded} batch norms are folded"
        )

    def prepared(self, artifact: Artifact, work: Work) -> tuple[Spots, int]:
        """Fold the batch norms of a model; what of it is rounded, and how many were folded."""
        kept, inputs = self._kept(artifact.model), one_input(work)
        pairs = foldable(artifact.model, inputs)
        if pairs:
            artifact.edit(FoldBatchNorm(pairs))
        return met_spots(artifact.model, inputs, kept), len(pairs)

    def _corrected(
        self,
        model: nn.Module,
        real: nn.Module,
        paths: Sequence[str],
        stream: Iterable[Batch],
        work: Work,
    ) -> dict[str, Any]:
        """Put right what was asked for: errors before and after by layer, and shifts of biases."""
        found: dict[str, Any] = {}
        if "rounding" in self.correct:
            found["rounding"] = learn_rounding(
                model,
                paths,
                stream,
                device=work.device,
                seed=work.seed,
                say=work.watcher.say,
                real=real,
            )
        if "biases" in self.correct:
            found["biases"] = correct_biases(model, paths, stream, work.device, real)
        return found

    def bits_of(self, spots: Spots) -> tuple[list[int], dict[str, Weight]]:
        """Bits of each spot, and how each weight is rounded.

        What several layers answer, as before a concatenation, has the most bits of theirs.
        """
        weights = {p: replace(self.weight, given=spots.given.get(p)) for p in spots.weights}
        answers: dict[str, int] = {}
        for pattern, bits in self.mixed.items():
            # In the order of the patterns, so that the last one counts.
            for path in paths_matching([pattern], spots.weights, "mixed"):
                if bits.weights is not None:
                    weights[path] = replace(weights[path], bits=bits.weights)
                if bits.activations is not None:
                    answers[path] = bits.activations
        if self.reduce_range or (self.reduce_range is None and saturates()):
            for path, weight in weights.items():
                weights[path] = replace(weight, bits=REDUCED) if weight.bits == 8 else weight
        asked: dict[int, list[int]] = {}
        for path, own in answers.items():
            if path not in spots.answers:
                raise ConfigError(
                    f"stage {self.name!r}, mixed: what {path!r} answers is not rounded, so that it "
                    "has no bits; give it weight_bits alone"
                )
            asked.setdefault(spots.answers[path], []).append(own)
        places = range(len(spots.activations))
        return [max(asked.get(place, [self.bits])) for place in places], weights

    def _told(
        self, spots: Spots, found: Calibration, weights: Mapping[str, Weight], folded: int
    ) -> dict[str, Any]:
        activations = [each.grid.bits for each in found.activations]
        pairs = zip(spots.activations, found.activations, found.thresholds, strict=True)
        return {
            "observer": self.observer,
            "thresholds": self.thresholds,
            "bits": {"activations": self.bits, "weights": self.weight.bits},
            "per_channel": self.weight.per_channel,
            "weight_thresholds": self.weight.by,
            "reduced_range": any(each.bits == REDUCED for each in weights.values()),
            "simulated": any(bits < 8 for bits in activations)
            or any(each.bits < REDUCED for each in weights.values()),
            "samples": found.samples,
            "folded": folded,
            "activations": {
                spot.name: {
                    "threshold": threshold,
                    "signed": each.grid.signed,
                    "bits": each.grid.bits,
                }
                for spot, each, threshold in pairs
            },
            "weights": {path: each.bits for path, each in weights.items()},
            "float": {str(site): name for site, name in spots.float.items()},
        }

    def _kept(self, model: nn.Module) -> set[str]:
        """The layers that go on with real numbers."""
        layers = _layers(model)
        kept = paths_matching(self.keep, layers, "keep")
        if not self.only:
            return kept
        wanted = paths_matching(self.only, layers, "only")
        if both := sorted(kept & wanted):
            raise ConfigError(f"{both[0]!r} is named by only and by keep; leave it out of one")
        return kept | (set(layers) - wanted)


def _layers(model: nn.Module) -> list[str]:
    """Paths of the convolutions and linear layers."""
    return [
        path
        for path, layer in model.named_modules()
        if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd)
    ]
