"""``teacher.yaml``: what a teacher is made of."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic.types import PositiveInt

from pantheon.codec.names import parse_name
from pantheon.config.section import Arguments, Reference, Section
from pantheon.config.security import SecurityConfig


def _codec(name: str) -> str:
    """The name as it was written, if a codec has it."""
    parse_name(name)
    return name


CodecSpelling = Annotated[str, AfterValidator(_codec)]
"""A codec by its name, such as ``float16`` or ``topk:64``."""


class ModelConfig(Section):
    """A model by the function that makes it, or by the folder of an artifact."""

    model: Reference | None = None
    model_args: Arguments = Field(default_factory=dict)
    weights: Path | None = None
    artifact: Path | None = None

    @model_validator(mode="after")
    def _one_model(self) -> Self:
        if (self.model is None) == (self.artifact is None):
            raise ValueError("give one of model (package.module:function) and artifact (a folder)")
        if self.artifact is not None and (self.model_args or self.weights):
            raise ValueError("an artifact has its arguments and weights; leave yours out")
        return self


class TeacherConfig(ModelConfig):
    """``teacher.yaml``: the model that `pantheon serve` and `pantheon dump` run.

    Keys are those of `teacher_server.Teacher`; `model`, `dataset` and `collate_fn` name functions
    that are called with `model_args` and `dataset_args` (`collate_fn` is used as it is).
    `weights` is a safetensors file for the model; `artifact`, in its place, the folder of a
    compressed model or of the run of `pantheon compress` that made it. `threads` are torch's,
    `bind` the addresses of `pantheon serve` when the command line gives none, `http` where it
    serves metrics and health. Paths are relative to the folder that the command runs in.
    """

    dataset: Reference | None = None
    dataset_args: Arguments = Field(default_factory=dict)
    collate_fn: Reference | None = None
    schema_: dict[str, CodecSpelling] | None = Field(default=None, alias="schema")
    labels: dict[str, str | list[str]] | None = None
    example: Reference | None = None
    name: str = ""
    revision: str | None = None
    features: dict[str, str] | None = None
    devices: PositiveInt | Literal["auto"] | list[str] = 1
    deterministic: bool = False
    fixed_rows: PositiveInt | None = None
    buckets: list[PositiveInt] | None = None
    batch_rows: PositiveInt = 256
    finite: Literal["raise", "allow"] = "raise"
    views: int = Field(default=0, ge=0)
    dataset_fingerprint: str | None = None
    threads: PositiveInt | None = None
    bind: list[str] = Field(default_factory=list)
    http: str | None = None
    security: SecurityConfig | None = None
    shard_rows: PositiveInt | None = None
