"""A stage: (model, knowledge) -> (model, report)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from torch import nn

from pantheon.compress.watcher import Watcher
from pantheon.errors import ConfigError, DivergedError
from pantheon.ranks import Ranks
from pantheon.stream import BatchStream, KnowledgeStream, Parts
from pantheon.training.evaluating import evaluating

if TYPE_CHECKING:
    from pantheon.compress.artifact import Artifact
    from pantheon.training.history import Epoch

Phase = Literal["analyse", "search", "prune", "sparsify", "train", "quantize", "export"]
"""What a stage does to a model, for the rules of order."""

INTEGERS = "int8"
"""What a stage calls a file whose kernels compute with integers, among those that it left."""

Metric = Callable[[nn.Module, BatchStream], Mapping[str, float]]
"""The user's own measure: called with a model in evaluation mode, gradients off, and samples."""


@dataclass(frozen=True, slots=True)
class Timing:
    """How latency is measured.

    Args:
        batch: rows.
        threads: torch's.
        seconds: to spend on it.
    """

    batch: int = 1
    threads: int = 1
    seconds: float = 1.0


@dataclass(frozen=True, slots=True)
class Work:
    """What a stage works with.

    Args:
        folder: for its own files; what is there was left by the same stage of an interrupted run.
        parts: the streams.
        metric: the user's measure, None without one.
        seed: of all that is random in this stage.
        device: where to compute.
        ranks: the processes that run the pipeline together.
        watcher: told how far it is.
        agreement: the field of the knowledge that outputs are compared with.
        timing: how latency is measured.
    """

    folder: Path
    parts: Parts
    metric: Metric | None = None
    seed: int = 0
    device: str = "cpu"
    ranks: Ranks = field(default_factory=Ranks)
    watcher: Watcher = field(default_factory=Watcher)
    agreement: str = "logits"
    timing: Timing = field(default_factory=Timing)

    def validate(self, model: nn.Module) -> dict[str, float]:
        """The metric on the validation part; empty without one of them."""
        if self.metric is None or self.parts.validation is None:
            return {}
        return read_metric(self.metric, model, self.parts.validation)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a stage came to.

    Args:
        artifact: the model, changed or as it was.
        samples: how many samples were read from the stream, counting each time.
        history: what the epochs of its training came to.
        figures: what else it found, as values that JSON can hold; shown in the report.
        files: what it left in its folder, by what it is.
    """

    artifact: Artifact
    samples: int = 0
    history: tuple[Epoch, ...] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)


class Stage(Protocol):
    """One step of a compression.

    Attributes:
        name: what to call it in the report and in the names of files.
        phase: what it does to a model.
        changes: whether a model that comes out as it went in is an error.
    """

    @property
    def name(self) -> str: ...
    @property
    def phase(self) -> Phase: ...
    @property
    def changes(self) -> bool: ...

    def check(self, model: nn.Module) -> None:
        """Raise `ConfigError` if it cannot be done to the model; called before any stage runs."""

    def run(self, artifact: Artifact, work: Work) -> Outcome:
        """Do it. Called again after a kill, it goes on from what `Work.folder` holds."""

    def cost(self, samples: int) -> Cost:
        """What it will take on a training part of `samples` samples."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a stage will take.

    Args:
        epochs: passes over the training part.
        samples: samples read from the stream.
        copies: how many times the model's weights are on disk at most, optimizer states included.
    """

    epochs: int = 0
    samples: int = 0
    copies: int = 1


def read_metric(metric: Metric, model: nn.Module, stream: KnowledgeStream) -> dict[str, float]:
    """The user's metric of a model, in evaluation mode, on a stream's samples.

    Raises:
        ConfigError: it answers something else than finite numbers by name.
    """
    with evaluating(model):
        found = metric(model, stream.samples())
    return check_metric(found, getattr(metric, "__qualname__", type(metric).__name__))


def check_metric(found: Any, name: str) -> dict[str, float]:
    """What a metric answered, as numbers by name.

    Example:
        >>> check_metric({"top1": 55}, "accuracy")
        {'top1': 55.0}
    """
    if not isinstance(found, Mapping) or not found:
        raise ConfigError(
            f"the metric {name} answered {found!r:.80}; expected numbers by name, such as "
            "{'top1': 71.2}"
        )
    for key, value in found.items():
        try:
            finite = math.isfinite(float(value))
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"the metric {name} answered {key} = {value!r:.80}; expected a number"
            ) from error
        if not finite:
            raise DivergedError(
                f"the metric {name} answered {key} = {value!r:.80}; expected a finite number: is "
                "its part empty, or does the model give NaN?"
            )
    return {str(key): float(value) for key, value in found.items()}
