"""The settings of pruning in ``pipeline.yaml``."""

from __future__ import annotations

from math import ceil, log2
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic.types import PositiveFloat, PositiveInt

from pantheon.config import LearningConfig, LossConfig, Section
from pantheon.config.section import written

Fraction = Annotated[float, Field(gt=0, lt=1)]
"""More than nothing and less than all."""

Name = Annotated[
    str, written(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", "up to 64 letters, digits, - and _")
]
"""The name of a stage: part of the names of its files."""


class RankingConfig(Section):
    """By what units are ranked, and which layers take part.

    `criterion` is one of ours by name, or a reference to a function that is called with a
    `pantheon.compress.prune.Evidence` and answers a score for each unit. Those that look at
    gradients take them of `losses`, on `samples` samples of the training part. `only` and `keep`
    are patterns of the layers' paths, as of a shell.
    """

    criterion: str = "l1"
    losses: list[LossConfig] = Field(default_factory=list)
    samples: PositiveInt = 1024
    only: list[str] = Field(default_factory=list)
    keep: list[str] = Field(default_factory=list)
    align: PositiveInt = 1
    most: Annotated[float, Field(gt=0, le=1)] = 0.95
    seconds: PositiveFloat = 60.0


class MeasuringConfig(Section):
    """How it is measured what a layer's channels are worth.

    `by` is one of the metric's names (of which less may be better), or ``kl``: the divergence from
    what the teachers answer, or without teachers the unpruned model, for which no labels are
    needed. `validation` is the number of samples of the validation part, all of them by default.
    `tables` are files that other workers have measured; cycles after the first measure anew.
    """

    by: str | None = None
    lower_is_better: bool = False
    ratios: list[Fraction] = Field(
        default_factory=lambda: [round(0.1 * i, 1) for i in range(1, 10)], min_length=1
    )
    validation: PositiveInt | None = None
    tables: list[Path] = Field(default_factory=list)


class PruneConfig(RankingConfig):
    """A stage that removes channels, and all that depends on them.

    `remove` is the fraction of `of` that is to go; `ratios` are fractions of the channels of some
    layers, by pattern, which are removed as they are. Cuts of more than half are made in `cycles`,
    with the training that `distil` describes after each, unless `one_shot`.
    """

    stage: Literal["prune"]
    name: Name | None = None
    strategy: Literal["uniform", "global", "energy", "sensitivity"] = "uniform"
    remove: Fraction | None = None
    of: Literal["macs", "parameters", "bytes", "latency"] = "macs"
    ratios: dict[str, Fraction] = Field(default_factory=dict)
    recalibrate: bool = True
    sensitivity: MeasuringConfig = MeasuringConfig()
    cycles: PositiveInt | None = None
    one_shot: bool = False
    distil: LearningConfig | None = None

    @model_validator(mode="after")
    def _asked(self) -> Self:
        if self.remove is None and not self.ratios:
            raise ValueError("nothing is to be removed; give remove, or ratios of layers")
        if self.one_shot and (self.cycles or 1) > 1:
            raise ValueError("one_shot cuts once, and cycles asks for more; give one of them")
        if (self.cycles or 1) > 1 and self.distil is None:
            raise ValueError("cycles need distil: what is learned after each cut")
        if self.cycles and self.remove is None:
            raise ValueError("cycles share out what remove asks for; give remove")
        if self.remove is None or self.one_shot:
            return self
        fewest = self.fewest
        if fewest > 1 and self.distil is None:
            raise ValueError(
                f"remove is {self.remove}: more than half is cut in cycles, for which distil is "
                "missing; give it, or one_shot: true"
            )
        if self.cycles is not None and self.cycles < fewest:
            raise ValueError(
                f"{self.cycles} cycles would cut more than half at once to remove {self.remove}; "
                f"make it {fewest} or more, or say one_shot: true"
            )
        return self

    @property
    def fewest(self) -> int:
        """The fewest cycles that cut a half each, or less."""
        if self.remove is None or self.one_shot:
            return 1
        return max(1, ceil(log2(1 / (1 - self.remove)) - 1e-9))


class SensitivityConfig(RankingConfig, MeasuringConfig):
    """A stage that only measures, for a table that prune stages use, by itself or among workers.

    `part` is ``[i, n]``: measures the layers of worker i of n, from 0.
    """

    stage: Literal["sensitivity"]
    name: Name | None = None
    part: tuple[Annotated[int, Field(ge=0)], PositiveInt] = (0, 1)

    @model_validator(mode="after")
    def _worker(self) -> Self:
        if self.part[0] >= self.part[1]:
            raise ValueError(
                f"part is {list(self.part)}; expected [i, n] with i from 0 to n - 1, such as [0, 2]"
            )
        return self


class SparsifyConfig(Section):
    """A stage that sets single weights to zero, and keeps them there in later training.

    ``unstructured`` takes the smallest magnitudes, of all layers together (`scope` global) or of
    each, in `block` of rows and columns; ``2:4`` two of each four inputs. With `distil`, sparsity
    grows during that training: after `stable` epochs, over `ramp` epochs, in so many `updates`,
    from `initial` on. It is simulated: no runtime here is faster for it.
    """

    stage: Literal["sparsify"]
    name: Name | None = None
    pattern: Literal["unstructured", "2:4"] = "unstructured"
    sparsity: Fraction = 0.5
    scope: Literal["global", "layer"] = "global"
    block: tuple[PositiveInt, PositiveInt] = (1, 1)
    only: list[str] = Field(default_factory=list)
    keep: list[str] = Field(default_factory=list)
    stable: Annotated[float, Field(ge=0)] = 0.0
    ramp: Annotated[float, Field(ge=0)] = 0.0
    updates: PositiveInt = 20
    initial: Annotated[float, Field(ge=0, lt=1)] = 0.0
    distil: LearningConfig | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        sized = {"sparsity", "scope", "block", "ramp", "updates", "initial"}
        if self.pattern == "2:4" and (given := sorted(sized & self.model_fields_set)):
            raise ValueError(f"2:4 is half of the weights, at once; leave {', '.join(given)} out")
        epochs = self.distil.epochs if self.distil else 0
        if self.stable + self.ramp > epochs:
            raise ValueError(
                f"stable and ramp are {self.stable} and {self.ramp} epochs, and distil trains "
                f"{epochs}; train longer, or change the masks sooner"
            )
        if self.initial > self.sparsity:
            raise ValueError(
                f"initial is {self.initial} and sparsity {self.sparsity}; sparsity only grows"
            )
        if self.distil is not None and self.distil.ema is not None:
            raise ValueError("an average of weights (ema) cannot follow masks that change")
        return self
