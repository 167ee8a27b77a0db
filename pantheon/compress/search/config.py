"""``search.yaml``: a space, what is wanted of its models, and how they are scored."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator
from pydantic.types import NonNegativeFloat, PositiveInt

from pantheon.compress.config import PartedStreamConfig
from pantheon.compress.prune.config import Name
from pantheon.compress.search.settings import (
    BitsSpaceConfig,
    ChoiceConfig,
    PruningSpaceConfig,
    SearchSettings,
)
from pantheon.config import Arguments, Reference, Section


class SpaceConfig(Section):
    """What is searched through: models that a factory makes, or what can be made of one model.

    A ready-made space around the net `net` of `pantheon.nets`, or a factory of the user's, `model`,
    is called with other arguments. `model_args` are those that all have. `choices` are values by
    where they go: an argument, or a key within a mapping, such as ``stages.3.channels``; ordered
    ones from the value that costs least on. Those of a ready-made space take the place of its own,
    and one value fixes a choice. `start` is what a search begins at, a value for each choice, with
    smaller ones where it breaks a limit; that of a ready-made space is the paper's net, or what
    costs most of choices that do not have the paper's value.

    Or else `artifact`, which a pipeline left, is pruned (`prune`) or rounded (`bits`).
    """

    net: str | None = None
    model: Reference | None = None
    model_args: Arguments = Field(default_factory=dict)
    choices: dict[str, list[Any] | ChoiceConfig] = Field(default_factory=dict)
    start: dict[str, Any] | None = None
    artifact: Path | None = None
    prune: PruningSpaceConfig | None = None
    bits: BitsSpaceConfig | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(each is not None for each in (self.net, self.model, self.artifact)) != 1:
            raise ValueError(
                "give one of net, a ready-made space, model, a factory, and artifact, a model"
            )
        if self.artifact is None:
            wrong, right = {"prune", "bits"} & self.model_fields_set, "an artifact"
        else:
            own = {"model_args", "choices", "start"}
            wrong, right = own & self.model_fields_set, "net or model"
            if (self.prune is None) == (self.bits is None):
                raise ValueError("give one of prune and bits: what becomes of the artifact")
        if wrong:
            raise ValueError(f"{', '.join(sorted(wrong))} belongs to {right}; leave it out")
        return self


class SearchConfig(SearchSettings):
    """``search.yaml``: what `pantheon search` looks for.

    `metric` names a function as that of a pipeline does. All is kept in `folder`, the trials in a
    database at `storage`, by default a file of SQLite there; workers on other machines share one of
    PostgreSQL. A worker that gives no sign of life for `grace` seconds is taken for dead; a server
    that went away is waited for `patience` seconds. `needs` are pipelines (YAML files) that are run
    first, unless they are finished. `workers` is the number of processes that one command begins,
    which have `threads` each: by default the processors are divided among them.
    """

    folder: Path
    name: Name = "search"
    space: SpaceConfig
    stream: PartedStreamConfig
    metric: Reference
    storage: str | None = None
    grace: Annotated[float, Field(ge=3)] = 60.0
    patience: NonNegativeFloat = 300.0
    seed: int = Field(default=0, ge=0)
    device: str = "cpu"
    workers: PositiveInt = 1
    threads: PositiveInt | None = None
    needs: list[Path] = Field(default_factory=list)

    @property
    def url(self) -> str:
        """Where trials are kept."""
        return self.storage or f"sqlite:///{(self.folder / 'search.db').absolute()}"
