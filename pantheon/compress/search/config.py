"""``search.yaml``: a space, what is wanted of its models, and how they are scored."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from pydantic.types import NonNegativeInt, PositiveFloat, PositiveInt

from pantheon.compress.config import PartedStreamConfig
from pantheon.compress.prune.config import Name
from pantheon.config import Arguments, LearningConfig, Reference, Section


class ChoiceConfig(Section):
    """The values of a choice, and whether neighbours among them are alike."""

    values: list[Any] = Field(min_length=1)
    ordered: bool = True


class SpaceConfig(Section):
    """What is searched through: models that a factory makes, called with other arguments.

    Either a ready-made space around the net `net` of `pantheon.nets`, or a factory of the user's,
    `model`. `model_args` are the arguments that all have. `choices` are values by where they go: an
    argument, or a key within a mapping, such as ``stages.3.channels``; ordered ones from the value
    that costs least on. Those of a ready-made space take the place of its own, and one value fixes
    a choice.
    """

    net: str | None = None
    model: Reference | None = None
    model_args: Arguments = Field(default_factory=dict)
    choices: dict[str, list[Any] | ChoiceConfig] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.net is None) == (self.model is None):
            raise ValueError("give one of net, a ready-made space, and model, a factory")
        return self


class ScoreConfig(LearningConfig):
    """How a point is scored: a short training, from teachers of the stream, targets, or both.

    `recalibrate` is the number of training samples by which batch norms measure their statistics
    anew afterwards; 0 for none. With `stop`, a training is given up after an epoch in which it is
    worse than the median of those before it, or (``halving``) not among the best of its rung.
    """

    recalibrate: NonNegativeInt = 1024
    stop: Literal["median", "halving"] | None = None


class SearchConfig(Section):
    """``search.yaml``: what `pantheon search` looks for.

    `objectives` say what is wanted, by name: of `metric`, or of the costs ``macs`` (of one sample),
    ``parameters`` and ``bytes``; of several, the best are a Pareto front. `limits` are the largest
    allowed costs, which are looked at before anything is trained; with `repair`, points beyond them
    are brought back within. `trials` is the number of points that are trained. `strategy` chooses
    them, with `options` of its own. All is kept in `folder`, the trials in a database at `storage`,
    by default a file of SQLite there; workers on other machines share one of PostgreSQL. A worker
    that gives no sign of life for `grace` seconds is taken for dead. `needs` are pipelines (YAML
    files) that are run first, unless they are finished.
    """

    folder: Path
    name: Name = "search"
    space: SpaceConfig
    stream: PartedStreamConfig
    metric: Reference
    score: ScoreConfig
    objectives: dict[str, Literal["maximise", "minimise"]] = Field(min_length=1)
    limits: dict[str, PositiveFloat] = Field(default_factory=dict)
    repair: bool = True
    strategy: str = "tpe"
    options: Arguments = Field(default_factory=dict)
    trials: PositiveInt = 100
    storage: str | None = None
    grace: Annotated[float, Field(ge=3)] = 60.0
    seed: int = Field(default=0, ge=0)
    device: str = "cpu"
    threads: PositiveInt | None = None
    needs: list[Path] = Field(default_factory=list)

    @property
    def url(self) -> str:
        """Where trials are kept."""
        return self.storage or f"sqlite:///{(self.folder / 'search.db').absolute()}"
