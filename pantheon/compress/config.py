"""``pipeline.yaml``: what `pantheon compress` does to which model, checked when it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from pydantic.types import NonNegativeInt, PositiveFloat, PositiveInt

from pantheon.compress.prune.config import (
    Name,
    PruneConfig,
    SensitivityConfig,
    SparsifyConfig,
)
from pantheon.compress.quantize.config import DiagnoseConfig, QuantizeConfig
from pantheon.compress.search.settings import SearchStageConfig
from pantheon.config import (
    Arguments,
    LearningConfig,
    ModelConfig,
    RampConfig,
    Reference,
    Section,
    StreamConfig,
)


class PartsConfig(Section):
    """The ids of the dataset's parts.

    Each is ``[first, last + 1]``, or names a function that is called with the dataset and answers
    the ids.
    """

    train: Reference | tuple[NonNegativeInt, PositiveInt]
    validation: Reference | tuple[NonNegativeInt, PositiveInt] | None = None
    test: Reference | tuple[NonNegativeInt, PositiveInt] | None = None

    @model_validator(mode="after")
    def _ranges(self) -> Self:
        for name in ("train", "validation", "test"):
            part = getattr(self, name)
            if isinstance(part, tuple) and part[0] >= part[1]:
                raise ValueError(f"{name} is {list(part)}; expected [first, last + 1], as [0, 100]")
        return self


class PartedStreamConfig(StreamConfig):
    """The stream that all stages read; `parts` says which samples are for what."""

    parts: PartsConfig | None = None

    @model_validator(mode="after")
    def _either(self) -> Self:
        if self.parts is not None and self.ids is not None:
            raise ValueError("both ids and parts are given; parts.train takes the place of ids")
        return self


class PeerConfig(Section):
    """A student that learns at the side of the pipeline's model, and is left behind after it."""

    model: Reference
    model_args: Arguments = Field(default_factory=dict)


class MutualConfig(Section):
    """What peers learn from each other: weight and temperature of their divergence."""

    weight: float | RampConfig = 1.0
    temperature: PositiveFloat = 1.0
    output: str = "logits"


class PenaltyConfig(Section):
    """An addend that looks at weights alone, so that channels can be done without.

    ``slimming`` is the sum of absolute scales of batch norms, ``group_lasso`` that of the norms of
    filters. `layers` are patterns of paths, as of a shell; all layers by default.
    """

    penalty: Literal["slimming", "group_lasso"]
    name: str | None = None
    weight: float | RampConfig
    layers: list[str] = Field(default_factory=list)


class DistilConfig(LearningConfig):
    """A stage that trains the model on the stream: from teachers, targets, or both.

    Its state is kept after every epoch, and every `every` steps; the metric is read after every
    `validate_every` epochs (0: never). With `peers` it is mutual learning.
    """

    stage: Literal["distil"]
    name: Name | None = None
    every: PositiveInt | None = None
    validate_every: int = Field(default=1, ge=0)
    peers: list[PeerConfig] = Field(default_factory=list)
    mutual: MutualConfig = MutualConfig()
    penalties: list[PenaltyConfig] = Field(default_factory=list)


class ExportConfig(Section):
    """A stage that writes the model for another runtime, and checks the outputs there.

    `tolerance` bounds the largest absolute difference from torch's outputs; `integer_tolerance`
    that of a quantized model's integers from the model that rounds. With `freeze`, scales that a
    quantized model finds at run time are fixed in the file, where they were in training. With
    `openvino` the files are also compared and timed in OpenVINO, which has to be installed.
    """

    stage: Literal["export"]
    name: Name | None = None
    format: Literal["onnx"] = "onnx"
    opset: PositiveInt = 20
    dynamic_batch: bool = True
    tolerance: PositiveFloat = 1e-3
    integer_tolerance: PositiveFloat = 0.2
    freeze: bool = False
    openvino: bool = False


class RunConfig(Section):
    """A stage of the user's own.

    `run` names a function that is called with the artifact, a `pantheon.compress.Work` and `args`,
    and answers a `pantheon.compress.Outcome`. `phase` says what it does, for the rules of order.
    """

    stage: Literal["run"]
    name: Name | None = None
    run: Reference
    args: Arguments = Field(default_factory=dict)
    phase: Literal["analyse", "search", "prune", "train", "quantize", "export"] = "train"


StageConfig = Annotated[
    DistilConfig
    | SensitivityConfig
    | PruneConfig
    | SparsifyConfig
    | QuantizeConfig
    | DiagnoseConfig
    | SearchStageConfig
    | ExportConfig
    | RunConfig,
    Field(discriminator="stage"),
]
"""One stage, told by its ``stage``."""


class LatencyConfig(Section):
    """How latency is measured: rows of a batch, torch's threads, seconds to spend."""

    batch: PositiveInt = 1
    threads: PositiveInt = 1
    seconds: PositiveFloat = 2.0


class PipelineConfig(ModelConfig):
    """``pipeline.yaml``: a model, a stream, and the stages between the two.

    The model is made by the function `model` with `model_args` (and the safetensors file
    `weights`), or is the `artifact` that another pipeline left. `folder` takes everything that the
    run leaves. `needs` are pipelines (YAML files) that are run first, unless they are finished.
    `metric` names a function that is called with a model and a stream of samples, and answers
    numbers by name; it is read on the validation part, and once at the end on the test part, where
    `test_metric` may take its place.
    `agreement` is the field of the teachers' knowledge that the model's outputs are compared with.
    """

    folder: Path
    stream: PartedStreamConfig
    metric: Reference | None = None
    test_metric: Reference | None = None
    agreement: str = "logits"
    seed: int = Field(default=0, ge=0)
    device: str = "cpu"
    threads: PositiveInt | None = None
    latency: LatencyConfig = LatencyConfig()
    needs: list[Path] = Field(default_factory=list)
    stages: list[StageConfig] = Field(min_length=1)


def resolved(config: PipelineConfig) -> dict[str, Any]:
    """All that a configuration says, defaults included, as values that JSON can hold."""
    return config.model_dump(mode="json", by_alias=True)
