"""The settings of quantization in ``pipeline.yaml``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.types import PositiveInt

from pantheon.compress.prune.config import Name
from pantheon.config import Section

Bits = Annotated[int, Field(ge=2, le=8)]
"""How many bits an integer has."""


class QuantizeConfig(Section):
    """A stage that has the model compute with integers, by scales found on samples.

    `observer` says where activations are clipped; `samples` of the training part are looked at.
    In later `training` thresholds stay (``fixed``), follow the largest values
    (``moving_average``, ``range_abs_max``), or are learned (``pact``, ``lsq``). `bits` are those of
    activations; fewer than 8 are simulated. `only` and `keep` are patterns of the paths of
    convolutions and linear layers, as of a shell.
    """

    stage: Literal["quantize"]
    name: Name | None = None
    observer: Literal[
        "abs_max", "average", "moving_average", "range_abs_max", "percentile", "kl", "mse", "emd"
    ] = "percentile"
    training: Literal["fixed", "moving_average", "range_abs_max", "pact", "lsq"] = "fixed"
    bits: Bits = 8
    weight_bits: Bits = 8
    per_channel: bool = True
    samples: PositiveInt = 512
    only: list[str] = Field(default_factory=list)
    keep: list[str] = Field(default_factory=list)
