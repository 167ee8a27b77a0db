"""Pipeline: stages in order, each from the artifact that the one before left on disk."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pantheon.compress.artifact import Artifact
from pantheon.compress.building import artifact_from, asked_of, stages_from
from pantheon.compress.config import PartedStreamConfig, PipelineConfig, resolved
from pantheon.compress.figures import Measuring, likeness
from pantheon.compress.onnx_model import OnnxModel
from pantheon.compress.order import check_stages
from pantheon.compress.report import Figures, Likeness, StageReport, figures_from
from pantheon.compress.run_folder import RunFolder, read_json, write_json
from pantheon.compress.stage import INTEGERS, Metric, Outcome, Stage, Timing, Work, read_metric
from pantheon.compress.watcher import Watcher
from pantheon.config import load
from pantheon.errors import CompressionError
from pantheon.ranks import Ranks
from pantheon.reference import resolve
from pantheon.stream import Parts
from pantheon.training.objective import call_student
from pantheon.training.rehearsal import first_batch

Streams = Callable[[PartedStreamConfig, Ranks], AbstractContextManager[Parts]]
"""Opens the streams that a configuration describes, and closes them."""

STREAMS = "pantheon.cli.streams:opened"
"""The default, named and not imported: what reaches teachers is no part of the core."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What a whole run came to.

    Args:
        reports: of the stages, in order.
        original: the model that went in.
        test: the metric on the test part: of the original, of the last artifact, and of the files
            of integers that were exported, as a runtime computes them.
        exported: how alike such a file and the last artifact's model answer there.
        artifact: the folder of the model that came out.
    """

    reports: tuple[StageReport, ...]
    original: Figures
    test: Mapping[str, Mapping[str, float]]
    artifact: Path
    exported: Mapping[str, Likeness] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class Pipeline:
    """Stages that make a smaller model of one, judged by one stream and one metric.

    After each stage its artifact is written, read back, and measured as it was read, and the next
    stage begins with that. So a run that was killed goes on after its last whole stage, within a
    stage after its last checkpoint, and ends with the same bits.

    Args:
        folder: takes all that the run leaves; see `pantheon.compress.run_folder`.
        artifact: the model that goes in.
        stages: what is done to it, in order.
        parts: the streams.
        metric: called with a model in evaluation mode, without gradients, and a stream of samples;
            answers numbers by name.
        test_metric: the same for the test part; `metric` if left out.
        agreement: the field of the knowledge that the model's outputs are compared with.
        seed: of all that is random.
        device: where to compute.
        measuring: how latency is measured.
        asked: what else the run was asked for, in values that JSON can hold. A run is only gone on
            with when that, the artifact, the seed and the stages' names, phases and costs are the
            same.
        ranks: the processes that run it together.
        watcher: told how far it is.
        closing: called by `close`, besides closing the streams.

    Raises:
        ConfigError: stages in an order that makes no sense.
    """

    folder: Path
    artifact: Artifact
    stages: Sequence[Stage]
    parts: Parts
    metric: Metric | None = None
    test_metric: Metric | None = None
    agreement: str = "logits"
    seed: int = 0
    device: str = "cpu"
    measuring: Measuring = field(default_factory=Measuring)
    asked: Mapping[str, Any] = field(default_factory=dict)
    ranks: Ranks = field(default_factory=Ranks)
    watcher: Watcher = field(default_factory=Watcher)
    closing: Callable[[], None] | None = None

    def __post_init__(self) -> None:
        check_stages(self.stages, self.artifact.model)

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        *,
        streams: Streams | None = None,
        ranks: Ranks | None = None,
        watcher: Watcher | None = None,
    ) -> Pipeline:
        """The pipeline that a YAML file describes.

        Its teachers are reached and its streams opened at once; close it in the end.

        Args:
            streams: opens its streams; by default those of `student_client`, with the teachers that
                the file says to bring about.
            ranks: the processes that run it together.
            watcher: told how far it is.

        Raises:
            ConfigError: names the file's line at fault.
        """
        config = load(path, PipelineConfig)
        return cls.from_config(config, streams=streams, ranks=ranks, watcher=watcher)

    @classmethod
    def from_config(
        cls,
        config: PipelineConfig,
        *,
        streams: Streams | None = None,
        ranks: Ranks | None = None,
        watcher: Watcher | None = None,
    ) -> Pipeline:
        """The pipeline of a configuration that was read; as `from_file`."""
        ranks = ranks or Ranks()
        stages = stages_from(config)
        metric, tested = (
            None if name is None else resolve(name, config.where(key))
            for key, name in (("metric", config.metric), ("test_metric", config.test_metric))
        )
        artifact = artifact_from(config)
        check_stages(stages, artifact.model)  # Before teachers are brought about for it.
        opened: Any = streams or resolve(STREAMS)
        stack = ExitStack()
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        parts = stack.enter_context(opened(config.stream, ranks))
        if config.threads:  # After a teacher in this process, which may have set its own.
            torch.set_num_threads(config.threads)
        return cls(
            folder=config.folder,
            artifact=artifact,
            stages=stages,
            parts=parts,
            metric=metric,
            test_metric=metric if tested is None else tested,
            agreement=config.agreement,
            seed=config.seed,
            device=ranks.device(config.device),
            measuring=Measuring(
                threads=config.latency.threads,
                batch=config.latency.batch,
                seconds=config.latency.seconds,
            ),
            asked=resolved(config),
            ranks=ranks,
            watcher=watcher or Watcher(),
            closing=stack.close,
        )

    def run(self, *, resume: bool = False) -> Summary:
        """Run all stages; with `resume`, go on with the run that the folder holds.

        Raises:
            ConfigError: the folder holds a run and `resume` is false.
            ResumeMismatch: it holds another one.
            CompressionError: a stage that should change the model did not.
        """
        kept = RunFolder(self.folder, [stage.name for stage in self.stages])
        start = self.parts.train.state_dict()
        if self.ranks.first:
            kept.begin(asked_of(self.asked, self.artifact, self.stages, self.seed), resume)
            self._begin(kept)
        self._together()
        for index in range(len(self.stages)):
            if not kept.done(index):
                # Each stage begins where the stream did, whether those before it ran just now.
                self.parts.train.load_state_dict(start)
                self._stage(kept, index)
            self._together()
        return self._finish(kept)

    def close(self) -> None:
        """Close the streams."""
        self.parts.close()
        if self.closing is not None:
            self.closing()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _together(self) -> None:
        """Wait for all ranks."""
        self.ranks.gather(torch.zeros(1))

    def _begin(self, kept: RunFolder) -> None:
        """Write down the model that goes in, and measure it."""
        figures = kept.original.parent / "figures.json"
        if figures.exists():
            return
        self.watcher.say("measures the model that goes in")
        self.artifact.save(kept.original)
        found = self._figures(Artifact.load(kept.original, self.device), kept, kept.original)
        write_json(figures, asdict(found))

    def _stage(self, kept: RunFolder, index: int) -> None:
        stage, folder = self.stages[index], kept.stage(index)
        self.watcher.stage(index, stage.name, len(self.stages))
        if self.ranks.first:
            folder.mkdir(exist_ok=True)
        self._together()
        began = time.perf_counter()
        work = Work(
            folder=folder,
            parts=replace(self.parts, test=None),
            metric=self.metric,
            seed=stage_seed(self.seed, index),
            device=self.device,
            ranks=self.ranks,
            watcher=self.watcher,
            agreement=self.agreement,
            timing=Timing(self.measuring.batch, self.measuring.threads, self.measuring.seconds),
        )
        given = Artifact.load(kept.artifact(index - 1), self.device)
        before = given.digest()
        outcome = stage.run(given, work)
        if self.ranks.first:
            self._conclude(kept, index, outcome, before, time.perf_counter() - began)

    def _conclude(
        self, kept: RunFolder, index: int, outcome: Outcome, before: str, seconds: float
    ) -> None:
        """Write a stage's artifact, read it back, measure it and write the report."""
        stage, path = self.stages[index], kept.artifact(index)
        outcome.artifact.save(path)
        artifact = Artifact.load(path, self.device)
        digest = artifact.digest()
        if not stage.changes and digest != before:
            raise CompressionError(
                f"stage {stage.name!r} is to {stage.phase} and changed the model; give it the "
                "phase that says what it does, or have it answer the artifact as it was"
            )
        if stage.changes and digest == before:
            raise CompressionError(
                f"stage {stage.name!r} left the model as it was, and should have changed it; look "
                "at its settings: nothing may have been selected by them"
            )
        report = StageReport(
            stage=stage.name,
            phase=stage.phase,
            before=_measured(kept, index - 1),
            after=self._figures(artifact, kept, path),
            changed=digest != before,
            samples=outcome.samples,
            seconds=seconds,
            seed=stage_seed(self.seed, index),
            history=[asdict(epoch) for epoch in outcome.history],
            figures=dict(outcome.figures),
            files={k: f"{kept.stage(index).name}/{v}" for k, v in outcome.files.items()},
            digest=digest,
        )
        write_json(kept.report(index), report.as_json())

    def _figures(self, artifact: Artifact, kept: RunFolder, path: Path) -> Figures:
        original = None if path == kept.original else Artifact.load(kept.original, self.device)
        return self.measuring.figures(
            artifact,
            path,
            self.parts,
            metric=self.metric,
            field=self.agreement,
            original=original,
            device=self.device,
        )

    def _finish(self, kept: RunFolder) -> Summary:
        """Read the test part, once, and sum up."""
        if self.ranks.first and not kept.summary.exists():
            last = kept.artifact(len(self.stages) - 1)
            tested, alike = self._tested(kept, last)
            values = {
                "artifact": str(last.relative_to(kept.path)),
                "test": tested,
                "exported": {name: asdict(each) for name, each in alike.items()},
            }
            write_json(kept.summary, values)
        self._together()
        return _summary(kept)

    def _tested(
        self, kept: RunFolder, last: Path
    ) -> tuple[dict[str, dict[str, float]], dict[str, Likeness]]:
        """The metric on the test part by model, and how alike files and the last one answer."""
        metric = self.test_metric or self.metric
        if metric is None or self.parts.test is None:
            return {}, {}
        self.watcher.say("reads the test part")
        result = Artifact.load(last, self.device).model.eval()
        models = {"original": Artifact.load(kept.original, self.device).model, "result": result}
        exported = self._exported(kept, result)
        tested = {
            name: read_metric(metric, model, self.parts.test)
            for name, model in (models | exported).items()
        }
        alike = {
            name: likeness(model, result, self.parts.test, self.agreement, self.device)
            for name, model in exported.items()
        }
        return tested, alike

    def _exported(self, kept: RunFolder, model: nn.Module) -> dict[str, nn.Module]:
        """Files of integers by their names; their answers are not the model's to the last bit."""
        files = [
            (stage.name, kept.path / found)
            for index, stage in enumerate(self.stages)
            for kind, found in read_json(kept.report(index))["files"].items()
            if kind == INTEGERS
        ]
        if not files or self.parts.test is None:
            return {}
        inputs = first_batch(self.parts.test.samples()).to(torch.device(self.device)).inputs
        with torch.inference_mode():
            like = call_student(model, inputs)
        threads = torch.get_num_threads()
        return {
            INTEGERS if len(files) == 1 else f"{INTEGERS} of {name}": OnnxModel(file, like, threads)
            for name, file in files
        }


def left_of(config: PipelineConfig, resume: bool, ranks: Ranks) -> Summary | None:
    """What the run in a configuration's folder came to; None if it is not finished, or not begun.

    Looked for before any teacher is brought about: a run that may not be gone on with is refused.

    Raises:
        ConfigError: the folder holds a run and `resume` is false.
        ResumeMismatch: it holds another one.
    """
    stages = stages_from(config)
    kept = RunFolder(config.folder, [stage.name for stage in stages])
    if not kept.run.exists():
        return None
    if ranks.first:
        asked = asked_of(resolved(config), artifact_from(config), stages, config.seed)
        kept.begin(asked, resume)
    return _summary(kept) if kept.summary.exists() else None


def _summary(kept: RunFolder) -> Summary:
    """What a finished run came to."""
    count = len(kept.names)
    found = read_json(kept.summary)
    return Summary(
        reports=tuple(StageReport.from_json(read_json(kept.report(i))) for i in range(count)),
        original=_measured(kept, -1),
        test=found["test"],
        artifact=kept.artifact(count - 1),
        exported={name: Likeness(**each) for name, each in found.get("exported", {}).items()},
    )


def _measured(kept: RunFolder, index: int) -> Figures:
    """The figures of the artifact that a stage left, or that went in."""
    if index < 0:
        return figures_from(read_json(kept.original.parent / "figures.json"))
    return StageReport.from_json(read_json(kept.report(index))).after


def stage_seed(seed: int, index: int) -> int:
    """The seed of a stage.

    >>> stage_seed(3, 0), stage_seed(3, 1)
    (3001, 3002)
    """
    return seed * 1000 + index + 1
