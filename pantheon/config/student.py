"""``student.yaml``: what a stream reads, from which teachers, and how a student learns from it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic.types import PositiveFloat, PositiveInt

from pantheon.config.loop import LoopConfig
from pantheon.config.losses import LossConfig
from pantheon.config.section import Arguments, Reference, Section
from pantheon.config.security import SecurityConfig
from pantheon.saving import copies


def _local(path: Any) -> Any:
    """What was written, unless it is a URL, which a path would be made of."""
    return copies.local(path) if isinstance(path, str) else path


class CheckpointConfig(Section):
    """Where a training's state is kept, in how many files, and after how many steps."""

    path: Annotated[Path, BeforeValidator(_local)]
    every: PositiveInt | None = None
    keep: PositiveInt = 2


class SourceConfig(Section):
    """A teacher that the command itself brings about, from its own YAML file.

    Give one of: `serve`, which serves it in a process of its own on this machine while the command
    runs; `dump`, which first writes what is missing of its knowledge to the folder `to`; `local`,
    which scores in the student's process.
    """

    serve: Path | None = None
    dump: Path | None = None
    to: str | None = None
    local: Path | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = [key for key in ("serve", "dump", "local") if getattr(self, key)]
        if len(given) != 1:
            raise ValueError("name one of serve, dump and local: the teacher's YAML file")
        if (self.dump is None) != (self.to is None):
            raise ValueError("a teacher that is dumped has both dump: TEACHER.YAML and to: FOLDER")
        return self


class StreamConfig(Section):
    """What a stream reads and from whom; the keys are those of `student_client.KnowledgeLoader`.

    `ids` names a function that answers the ids to learn from.
    """

    dataset: Reference
    dataset_args: Arguments = Field(default_factory=dict)
    collate_fn: Reference | None = None
    ids: Reference | None = None
    teachers: dict[str, str | list[str] | SourceConfig] = Field(default_factory=dict)
    merge: dict[str, str | dict[str, Any]] = Field(default_factory=dict)
    fields: dict[str, list[str]] | None = None
    batch_size: PositiveInt = 32
    shuffle: bool = True
    seed: int = 0
    drop_last: bool = False
    views: int = Field(default=0, ge=0)
    num_workers: int = Field(default=0, ge=0)
    request_rows: PositiveInt | None = None
    window_bytes: PositiveInt | None = None
    max_requests: PositiveInt | None = None
    patience: PositiveFloat | None = None
    lease: PositiveFloat | None = None
    attempts: PositiveInt | None = None
    integrity: bool | None = None
    security: SecurityConfig | None = None
    verify: float | None = Field(default=None, ge=0, le=1)
    tolerance: float | None = Field(default=None, ge=0)
    cache: str | None = None
    cache_bytes: PositiveInt | None = None
    http: str | None = None
    dataset_fingerprint: str | None = None
    revision: dict[str, str] | None = None


class LearningConfig(LoopConfig):
    """How a student learns: for how long, by which losses, by which optimizer."""

    losses: list[LossConfig] = Field(min_length=1)


class StudentConfig(StreamConfig, LearningConfig):
    """``student.yaml``: what `pantheon distill` trains, on which data, with whose knowledge.

    The loader's keys are those of `student_client.KnowledgeLoader`. `ids` names a function that
    answers the ids to train on; `evaluate` one that is called with the model after each epoch and
    answers numbers by name; `weights` is a safetensors file to start from, `output` one to write;
    `report` is a JSON file about the training, `curves` a picture of its losses and metrics.
    """

    model: Reference
    model_args: Arguments = Field(default_factory=dict)
    weights: Path | None = None
    output: Path | None = None
    report: Path | None = None
    curves: Path | None = None
    device: str = "cpu"
    threads: PositiveInt | None = None
    teachers: dict[str, str | list[str] | SourceConfig] = Field(min_length=1)
    evaluate: Reference | None = None
    checkpoint: CheckpointConfig | None = None
