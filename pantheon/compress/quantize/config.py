"""The settings of quantization in ``pipeline.yaml``."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic.types import PositiveInt

from pantheon.compress.prune.config import Name
from pantheon.config import Section

Bits = Annotated[int, Field(ge=2, le=8)]
"""How many bits an integer has."""


class MixedConfig(Section):
    """Bits of some layers: of their weights, and of what they answer."""

    bits: Bits | None = None
    weight_bits: Bits | None = None

    @model_validator(mode="after")
    def _some(self) -> Self:
        if self.bits is None and self.weight_bits is None:
            raise ValueError("it has neither bits nor weight_bits; give one, or leave it out")
        return self


class RoundingConfig(Section):
    """What is rounded to integers, and by which scales.

    `observer` says where activations are clipped; `samples` of the training part are looked at.
    After that `thresholds` stay (``fixed``), follow the largest values in training
    (``moving_average``, ``range_abs_max``), are learned (``pact``, ``lsq``), or are those of each
    tensor by itself, at run time too (``dynamic``). `weight_thresholds` follow the largest weight,
    stay where rounding errs least (``mse``), or are learned from there (``lsq``). `bits` are those
    of activations; fewer than 8 are simulated. Weights have 7 (`reduce_range`) where the processor
    would clip sums of two products, x86 without VNNI, unless it is said otherwise. `only` and
    `keep` are patterns of the paths of convolutions and linear layers, as of a shell.
    """

    observer: Literal[
        "abs_max", "average", "moving_average", "range_abs_max", "percentile", "kl", "mse", "emd"
    ] = "percentile"
    thresholds: Literal["fixed", "moving_average", "range_abs_max", "dynamic", "pact", "lsq"] = (
        "fixed"
    )
    weight_thresholds: Literal["abs_max", "mse", "lsq"] = "abs_max"
    bits: Bits = 8
    per_channel: bool = True
    reduce_range: bool | None = None
    samples: PositiveInt = 512
    only: list[str] = Field(default_factory=list)
    keep: list[str] = Field(default_factory=list)


class QuantizeConfig(RoundingConfig):
    """A stage that has the model compute with integers, by scales found on samples.

    Weights have `weight_bits`. `mixed` has bits for some layers, by pattern; the last pattern that
    matches counts. `correct` learns which way each weight is rounded (AdaRound), and then shifts
    biases to the means that layers had.
    """

    stage: Literal["quantize"]
    name: Name | None = None
    weight_bits: Bits = 8
    mixed: dict[str, MixedConfig] = Field(default_factory=dict)
    correct: list[Literal["rounding", "biases"]] = Field(default_factory=list)


class DiagnoseConfig(Section):
    """A stage that measures what the rounding of each layer costs, and leaves the model as it is.

    Divergence from the teachers (of the model without rounding, where there are none) and the
    metric `by` are read on samples of the `validation` part.
    """

    stage: Literal["diagnose"]
    name: Name | None = None
    by: str | None = None
    lower_is_better: bool = False
    validation: PositiveInt | None = 1000
