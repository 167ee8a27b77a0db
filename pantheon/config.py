"""What a YAML file may say, checked when it is read, with the line at fault."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    model_validator,
)
from pydantic.types import PositiveFloat, PositiveInt

from pantheon import copies
from pantheon.codec.names import parse_name
from pantheon.config_file import load as load
from pantheon.section import Arguments as Arguments
from pantheon.section import Reference as Reference
from pantheon.section import Section as Section
from pantheon.training_config import EmaConfig as EmaConfig
from pantheon.training_config import LoopConfig as LoopConfig
from pantheon.training_config import OptimizerConfig as OptimizerConfig


def _codec(name: str) -> str:
    """The name as it was written, if a codec has it."""
    parse_name(name)
    return name


CodecSpelling = Annotated[str, AfterValidator(_codec)]
"""A codec by its name, such as ``float16`` or ``topk:64``."""


def _local(path: Any) -> Any:
    """What was written, unless it is a URL, which a path would be made of."""
    return copies.local(path) if isinstance(path, str) else path


class TlsConfig(Section):
    """TLS of gRPC; see `pantheon.transport.Tls`."""

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    name: str | None = None


class SecurityConfig(Section):
    """Keys: a folder of CURVE keys for ``tcp`` and ``ipc``, TLS for ``grpc``.

    `client` is whose CURVE key a student uses.
    """

    curve: Path | None = None
    client: str = "student"
    tls: TlsConfig | None = None


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


LOSSES: Mapping[str, frozenset[str]] = {
    "kl": frozenset({"temperature"}),
    "soft_cross_entropy": frozenset({"student_temperature", "teacher_temperature"}),
    "dkd": frozenset({"temperature", "alpha", "beta", "mask", "absent"}),
    "mse": frozenset(),
    "spherical": frozenset({"multiplier"}),
    "cross_entropy": frozenset({"label_smoothing"}),
    "feature": frozenset(),
    "fsp": frozenset(),
    "attention": frozenset({"power"}),
    "rkd_distance": frozenset(),
    "rkd_angle": frozenset(),
}
"""The losses that a configuration can name, and the settings each of them takes."""

LossName = Literal[
    "kl",
    "soft_cross_entropy",
    "dkd",
    "mse",
    "spherical",
    "cross_entropy",
    "feature",
    "fsp",
    "attention",
    "rkd_distance",
    "rkd_angle",
]


class RampConfig(Section):
    """A weight that goes from `start` to `end` between two epochs; see `pantheon.ramp.Ramp`."""

    start: float
    end: float
    begin: float = Field(default=0.0, ge=0)
    until: float = Field(gt=0)
    shape: Literal["linear", "cosine"] = "linear"

    @model_validator(mode="after")
    def _forward(self) -> Self:
        if self.begin > self.until:
            raise ValueError(f"begin is {self.begin}, after until, which is {self.until}")
        return self


class LossConfig(Section):
    """One addend of a student's loss.

    `loss` is one of `LOSSES` or a reference to a function that answers a callable; `field` the
    knowledge compared with (not for ``cross_entropy``, which compares with the targets). It is
    compared with the student's output of that name, with `output`, or with what the student's
    module at the path `layer` returns. ``fsp`` compares two fields with two layers. `align` learns
    to bring the student's shape to the teacher's, as in FitNets; see `pantheon.losses.ShapeAlign`.
    """

    loss: LossName | Reference
    args: Arguments = Field(default_factory=dict)
    name: str | None = None
    field: str | list[str] | None = None
    output: str | None = None
    layer: str | list[str] | None = None
    align: Literal["auto", "conv1x1", "conv3x3", "conv1x1_bn", "conv3x3_bn", "linear"] | None = None
    weight: float | RampConfig = 1.0
    temperature: PositiveFloat | None = None
    student_temperature: PositiveFloat | None = None
    teacher_temperature: PositiveFloat | None = None
    alpha: float | None = None
    beta: float | None = None
    mask: Literal["label", "teacher"] | None = None
    absent: Literal["raise", "skip"] | None = None
    multiplier: PositiveFloat | None = None
    label_smoothing: float | None = Field(default=None, ge=0, le=1)
    power: PositiveFloat | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """The settings given, by name."""
        keys = frozenset().union(*LOSSES.values())
        return {k: v for k in sorted(keys) if (v := getattr(self, k)) is not None}

    @model_validator(mode="after")
    def _fits(self) -> Self:
        known = LOSSES.get(self.loss, frozenset())
        wrong = sorted(set(self.settings) - known)
        if wrong:
            takes = ", ".join(sorted(known)) or "no settings"
            raise ValueError(f"the loss {self.loss!r} has no {', '.join(wrong)}; it takes {takes}")
        if self.loss == "cross_entropy" and (self.field or self.layer or self.align):
            raise ValueError(
                "cross_entropy compares outputs with targets; leave out field, layer and align"
            )
        if self.loss in LOSSES and self.loss != "cross_entropy" and not self.field:
            raise ValueError(
                f"the loss {self.loss!r} needs a field to compare with; add field: NAME"
            )
        self._check_sides()
        return self

    def _check_sides(self) -> None:
        if self.layer and self.output:
            raise ValueError(
                f"the loss {self.loss!r} names an output and a layer; leave one of them out"
            )
        fields, layers = (
            len(side) if isinstance(side, list) else 1 for side in (self.field, self.layer)
        )
        pairs = self.loss == "fsp"
        if pairs and not (fields == layers == 2 and self.field and self.layer):
            raise ValueError("the loss 'fsp' compares two fields with two layers; name both pairs")
        if self.loss in LOSSES and not pairs and (fields > 1 or layers > 1):
            raise ValueError(f"the loss {self.loss!r} compares one field with one layer or output")
        if fields != layers and (fields > 1 or layers > 1):
            raise ValueError(f"{fields} fields are compared with {layers} layers; name as many")


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
