"""The space of mixed precision: how many bits each layer of a model has."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from glob import escape
from typing import Any

from pantheon.compress.artifact import Artifact
from pantheon.compress.quantize.calibrating import Calibration, calibrate
from pantheon.compress.quantize.fitting import fit
from pantheon.compress.quantize.observers import observer
from pantheon.compress.quantize.spots import Spots
from pantheon.compress.quantize.stage import Bits, Quantize
from pantheon.compress.search.space import Choice, Point, check_choices, highest
from pantheon.compress.stage import Work
from pantheon.compress.together import SEED


@dataclass(frozen=True)
class BitsSpace:
    """Roundings of one model.

    There is a choice for each layer whose weight is rounded, named by its path. Its values are
    numbers of bits: of the weight, and with `both` of what the layer answers too, where that is
    rounded. What several layers answer has the most bits of theirs.

    Args:
        base: the model, its batch norms folded, which stays as it is.
        stage: how all else of it is quantized.
        spots: what of it is rounded.
        found: thresholds of its activations, by their bits.
        values: numbers of bits, rising.
        both: whether activations have bits of their layers' own.

    Raises:
        ConfigError: fewer than two numbers of bits, or no layer that is rounded.
    """

    base: Artifact
    stage: Quantize = field(repr=False)
    spots: Spots = field(repr=False)
    found: Mapping[int, Calibration] = field(repr=False)
    values: Sequence[int] = (4, 8)
    both: bool = False

    def __post_init__(self) -> None:
        check_choices(self.choices)

    @classmethod
    def of(
        cls, artifact: Artifact, stage: Quantize, values: Sequence[int], both: bool, work: Work
    ) -> BitsSpace:
        """The space around a model, whose activations are looked at once for each number of bits.

        Args:
            artifact: the model, which stays as it is.
            stage: how it is quantized.
            values: numbers of bits.
            both: whether activations have some too.
            work: the stream and the device.
        """
        base = copy.deepcopy(artifact)
        spots = stage.prepared(base, work)[0]
        stream = work.parts.train.excerpt(stage.samples, SEED).samples()
        make = partial(observer, stage.observer)
        asked = {stage.bits, *values} if both else {stage.bits}
        found = {
            bits: calibrate(base.model, spots, stream, make, bits, work.device, stage.thresholds)
            for bits in sorted(asked)
        }
        return cls(base, stage, spots, found, sorted(values), both)

    @cached_property
    def choices(self) -> Sequence[Choice]:
        """One for each layer, in the order in which they are called."""
        return tuple(Choice(path, tuple(self.values)) for path in self.spots.weights)

    @property
    def told(self) -> Mapping[str, Any]:
        """The model, and how it is rounded otherwise."""
        how = {
            "observer": self.stage.observer,
            "bits": self.stage.bits,
            "thresholds": self.stage.thresholds,
            "weight": [self.stage.weight.per_channel, self.stage.weight.by],
            "reduce_range": self.stage.reduce_range,
            "samples": self.stage.samples,
        }
        return {"round": self.base.digest(), "how": how, "both": self.both}

    @property
    def start(self) -> Point:
        """The largest point."""
        return highest(self.choices)

    def canonical(self, point: Point) -> Point:
        """The point itself."""
        return point

    def artifact(self, point: Point) -> Artifact:
        """The model that rounds to these bits."""
        made = copy.deepcopy(self.base)
        bits, weights = replace(self.stage, mixed=self._mixed(point)).bits_of(self.spots)
        picked = [self.found[own] for own in bits]
        found = Calibration(
            tuple(each.activations[i] for i, each in enumerate(picked)),
            tuple(each.thresholds[i] for i, each in enumerate(picked)),
            self.found[self.stage.bits].samples,
        )
        fit(made, found, weights)
        return made

    def _mixed(self, point: Point) -> dict[str, Bits]:
        """Bits by the patterns of paths."""
        found = {}
        for choice in self.choices:
            own = choice.values[point[choice.name]]
            answered = own if self.both and choice.name in self.spots.answers else None
            found[escape(choice.name)] = Bits(activations=answered, weights=own)
        return found
