"""What a stage came to, in one fixed form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

VERSION = 1


@dataclass(frozen=True, slots=True)
class Likeness:
    """How alike two models answer.

    Args:
        kl: mean divergence of the model's outputs from the other's, in nats, at temperature 1.
        agreement: fraction of samples with the same most likely class.
        samples: how many were compared.
    """

    kl: float
    agreement: float
    samples: int


@dataclass(frozen=True, slots=True)
class Figures:
    """A model in numbers, measured on the artifact as it was read back from disk.

    Args:
        macs: multiply-accumulates of one sample.
        counter: which counter found them.
        parameters: how many there are.
        bytes: of the artifact on disk.
        latency: milliseconds of one forward; its median, quartiles and circumstances. Empty where
            the model simulates integers, whose time would tell nothing.
        metric: the user's own, on the validation part.
        teacher: likeness to the merged teachers on the validation part; None without teachers.
        original: likeness to the model that went into the pipeline; None without a validation part.
    """

    macs: int
    counter: str
    parameters: int
    bytes: int
    latency: Mapping[str, Any]
    metric: Mapping[str, float] = field(default_factory=dict)
    teacher: Likeness | None = None
    original: Likeness | None = None


@dataclass(frozen=True, slots=True)
class StageReport:
    """What a stage came to.

    Args:
        stage: its name.
        phase: what it did.
        before, after: the model.
        changed: whether it is another model.
        samples: how many were read from the stream, counting each time.
        seconds: that the stage took in the process that ended it.
        seed: of all that was random in it.
        history: of each epoch of its training, losses, metrics, seconds and samples.
        figures: what else it found.
        files: what it left, by what it is; relative to the run's folder.
        digest: of the artifact that came out.
    """

    stage: str
    phase: str
    before: Figures
    after: Figures
    changed: bool
    samples: int
    seconds: float
    seed: int
    history: list[dict[str, Any]]
    figures: Mapping[str, Any]
    files: Mapping[str, str]
    digest: str

    def as_json(self) -> dict[str, Any]:
        """As values that JSON can hold."""
        return {"version": VERSION} | asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> StageReport:
        """The report that `as_json` told."""
        kept = {k: v for k, v in values.items() if k != "version"}
        return cls(**kept | {k: figures_from(kept[k]) for k in ("before", "after")})


def figures_from(values: Mapping[str, Any]) -> Figures:
    """The figures that ``asdict`` told."""
    alike = {k: values[k] for k in ("teacher", "original")}
    read = {k: None if v is None else Likeness(**v) for k, v in alike.items()}
    return Figures(**{**values, **read})
