"""What a search and a stage that searches have in common: spaces, scores, limits, a budget."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from pydantic.types import NonNegativeInt, PositiveFloat, PositiveInt

from pantheon.compress.prune.config import Name, RankingConfig
from pantheon.compress.quantize.config import Bits, RoundingConfig
from pantheon.config import Arguments, LearningConfig, LossConfig, Section
from pantheon.config.section import written

Percent = Annotated[str, written(r"[0-9]{1,4}(\.[0-9]{1,4})? ?%", "percent, such as 50 %")]
"""Of something else, such as ``50 %``."""

Left = Annotated[float, Field(gt=0, le=1)]
"""A fraction that is left."""


class PruningSpaceConfig(RankingConfig):
    """How much of each group of channels is left: automatic pruning.

    `left` are the fractions that may be; units that score least go first.
    """

    left: list[Left] = Field(
        default_factory=lambda: [round(0.1 * i, 1) for i in range(1, 11)], min_length=2
    )


class BitsSpaceConfig(RoundingConfig):
    """How many bits each layer has: mixed precision.

    `values` are the numbers of bits that weights may have; `of` both, what layers answer has them
    too.
    """

    values: list[Bits] = Field(default_factory=lambda: [4, 8], min_length=2)
    of: Literal["weights", "both"] = "weights"


class ScoreConfig(LearningConfig):
    """How a point is scored: a short training, from teachers of the stream, targets, or both.

    It is trained for `epochs`, none if 0, on `samples` of the training part (all by default), and
    measured on `validation` samples of the validation part (all by default). `recalibrate` is the
    number of training samples by which batch norms measure their statistics anew in between; 0 for
    none. With `stop`, a training is given up after an epoch in which it is worse than the median of
    those before it, or (``halving``) not among the best of its rung.
    """

    epochs: NonNegativeInt = 1
    losses: list[LossConfig] = Field(default_factory=list)
    samples: PositiveInt | None = None
    validation: PositiveInt | None = None
    recalibrate: NonNegativeInt = 1024
    stop: Literal["median", "halving"] | None = None

    @model_validator(mode="after")
    def _taught(self) -> Self:
        if self.epochs and not self.losses:
            raise ValueError("it trains and has no losses; name some, or make epochs 0")
        if not self.epochs and (given := {"losses", "samples", "stop"} & self.model_fields_set):
            raise ValueError(f"nothing is trained; leave {', '.join(sorted(given))} out")
        return self


class LatencyTableConfig(Section):
    """Where latencies are predicted from: a table that ``pantheon latency build`` made.

    With `other_device` the table may be of another device than the worker's.
    """

    table: Path
    other_device: bool = False


class SearchSettings(Section):
    """What is wanted of the points of a space, and how they are tried.

    `objectives` say what is wanted, by name: of the metric, or of the costs ``macs`` (of one
    sample), ``parameters``, ``bytes`` and, where `latency` names a table, ``latency`` in
    milliseconds; of several, the best are a Pareto front. `limits` are the largest allowed costs,
    which are looked at before anything is trained; in percent, of what the model costs that the
    space is made around, or that the factory makes with nothing chosen. With `repair`, points
    beyond them are brought back within. `trials` is the number of points that are trained.
    `strategy` chooses them, with `options` of its own.
    """

    score: ScoreConfig
    objectives: dict[str, Literal["maximise", "minimise"]] = Field(min_length=1)
    limits: dict[str, PositiveFloat | Percent] = Field(default_factory=dict)
    latency: LatencyTableConfig | None = None
    repair: bool = True
    strategy: str = "tpe"
    options: Arguments = Field(default_factory=dict)
    trials: PositiveInt = 100


class SearchStageConfig(SearchSettings):
    """A stage that searches around the model that goes in, and goes on with the best.

    Either `prune` it, or give its layers `bits`. The stage leaves the best point's channels or
    bits, with the weights that the model had: what points learned while they were scored is
    forgotten.
    """

    stage: Literal["search"]
    name: Name | None = None
    prune: PruningSpaceConfig | None = None
    bits: BitsSpaceConfig | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.prune is None) == (self.bits is None):
            raise ValueError("give one of prune and bits: what is searched for")
        if len(self.objectives) > 1:
            raise ValueError(
                "a stage goes on with one model, and several objectives have several that are best;"
                " give one, and limits of the others"
            )
        return self


class ChoiceConfig(Section):
    """The values of a choice, and whether neighbours among them are alike."""

    values: list[Any] = Field(min_length=1)
    ordered: bool = True
