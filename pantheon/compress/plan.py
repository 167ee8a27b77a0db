"""What a pipeline will do and take, without doing it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from pantheon.compress.building import artifact_from, finished, stages_from
from pantheon.compress.config import PipelineConfig
from pantheon.compress.order import check_stages
from pantheon.compress.parts import part_ids
from pantheon.compress.run_folder import RunFolder
from pantheon.config import SourceConfig, load
from pantheon.dataset import check_map_style
from pantheon.reference import call, resolve


@dataclass(frozen=True, slots=True)
class Planned:
    """One stage of a plan.

    Args:
        name, phase: of the stage.
        done: an earlier run came to its end.
        epochs, samples: of its training, counting each time a sample is read.
        bytes: on disk at most, while it works.
    """

    name: str
    phase: str
    done: bool
    epochs: int
    samples: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What a pipeline will take.

    Args:
        pipeline, folder: the file, and where its run goes.
        parts: samples of each part.
        parameters: of the model that goes in.
        teachers: how each comes about, and how many samples it will be asked for.
        stages: in order.
    """

    pipeline: str
    folder: str
    parts: dict[str, int]
    parameters: int
    teachers: dict[str, tuple[str, int]]
    stages: tuple[Planned, ...]

    def lines(self, size: Callable[[float], str]) -> Iterator[str]:
        """It as text; `size` says bytes."""
        parts = ", ".join(f"{count} {name}" for name, count in self.parts.items())
        yield f"{self.pipeline}: {self.parameters} parameters, {parts} samples, into {self.folder}"
        for stage in self.stages:
            done = "  (done)" if stage.done else ""
            yield (
                f"  {stage.name:<16} {stage.phase:<9} {stage.epochs:>4} epochs "
                f"{stage.samples:>10} samples  {size(stage.bytes):>9} on disk{done}"
            )
        for name, (how, count) in self.teachers.items():
            yield f"  teacher {name}: {how}; {count} samples"


def plan_of(path: Path, config: PipelineConfig) -> Plan:
    """The plan of a configuration that was read; the model is built, no teacher is reached.

    Raises:
        ConfigError: whatever building the pipeline would raise, its order of stages included.
    """
    stages = stages_from(config)
    model = model_to_come(config)
    check_stages(stages, model)
    for key, name in (("metric", config.metric), ("test_metric", config.test_metric)):
        if name is not None:
            resolve(name, config.where(key))
    stream = config.stream
    dataset = call(stream.dataset, stream.dataset_args, stream.where("dataset"))
    size = check_map_style(dataset)
    parts = {name: len(ids) for name, ids in part_ids(stream, dataset).items()} or {"train": size}
    weights = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    kept = RunFolder(config.folder, [stage.name for stage in stages])
    costs = [stage.cost(parts["train"]) for stage in stages]
    read = sum(cost.samples for cost in costs)
    # Every stage's artifact is compared with the teachers on the validation part, the original too.
    asked = read + parts.get("validation", 0) * (len(stages) + 1)
    return Plan(
        pipeline=str(path),
        folder=str(config.folder),
        parts=parts,
        parameters=sum(p.numel() for p in model.parameters()),
        teachers={name: (_how(given), asked) for name, given in stream.teachers.items()},
        stages=tuple(
            Planned(s.name, s.phase, kept.done(i), c.epochs, c.samples, c.copies * weights)
            for i, (s, c) in enumerate(zip(stages, costs, strict=True))
        ),
    )


def model_to_come(config: PipelineConfig) -> nn.Module:
    """The model that goes in; where a pipeline that it needs is to leave it, what goes into that.

    Stages of that one which change structures are not known by what they leave.
    """
    wanted = config.artifact and config.artifact.resolve()
    for path in config.needs:
        need = load(path, PipelineConfig)
        if need.folder.resolve() == wanted and not finished(need):
            return model_to_come(need)
    return artifact_from(config).model


def _how(given: Any) -> str:
    if isinstance(given, SourceConfig):
        if given.serve is not None:
            return f"served from {given.serve} while it runs"
        if given.dump is not None:
            return f"dumped from {given.dump} to {given.to} before"
        return f"scores in this process, from {given.local}"
    return "asked at " + (given if isinstance(given, str) else ", ".join(given))
