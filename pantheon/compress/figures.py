"""A model in numbers: what every report says of the artifact before and after a stage."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pantheon.compress.artifact import Artifact
from pantheon.compress.measure import Agreement, bytes_on_disk, latency, macs, parameters
from pantheon.compress.quantize.simulated import is_quantized
from pantheon.compress.report import Figures, Likeness
from pantheon.compress.stage import Metric, read_metric
from pantheon.sampling.reading import slice_rows
from pantheon.stream import KnowledgeStream, Parts
from pantheon.training.objective import call_student, pick_output
from pantheon.training.rehearsal import first_batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Measuring:
    """How models are measured.

    Args:
        threads: torch's, while latency is measured.
        batch: rows of the forward whose latency is measured.
        seconds: to spend on it.
    """

    threads: int = 1
    batch: int = 1
    seconds: float = 2.0

    def figures(
        self,
        artifact: Artifact,
        path: Path,
        parts: Parts,
        *,
        metric: Metric | None,
        field: str,
        original: Artifact | None,
        device: str,
    ) -> Figures:
        """All figures of an artifact that was read from `path`.

        Args:
            field: of the knowledge that its outputs are compared with.
            original: the model that went into the pipeline, to be compared with.
        """
        model = artifact.model.to(device).eval()
        samples = (parts.validation or parts.train).samples()
        inputs = first_batch(samples).to(torch.device(device)).inputs
        one, some = slice_rows(inputs, 0, 1), slice_rows(inputs, 0, self.batch)
        counted = macs(model, one)
        teacher, first = None, None
        if parts.validation is not None:
            teacher, first = likenesses(model, parts.validation, field, original, device)
        return Figures(
            macs=counted.total,
            counter=counted.counter,
            parameters=parameters(model).total,
            bytes=bytes_on_disk(path),
            latency=self._latency(model, some),
            metric=self._metric(metric, model, parts),
            teacher=teacher,
            original=first,
        )

    def _latency(self, model: nn.Module, inputs: Any) -> dict[str, Any]:
        if is_quantized(model):
            # What rounds in torch is slower; only an export's time tells something of integers.
            return {}
        return asdict(latency(model, inputs, threads=self.threads, seconds=self.seconds))

    def _metric(self, metric: Metric | None, model: nn.Module, parts: Parts) -> dict[str, float]:
        if metric is None or parts.validation is None:
            return {}
        return read_metric(metric, model, parts.validation)


def likeness(
    model: nn.Module, other: nn.Module, stream: KnowledgeStream, field: str, device: str
) -> Likeness:
    """How alike a model answers to another one on a stream's samples."""
    found = Agreement()
    with torch.inference_mode():
        for batch in stream.samples():
            batch = batch.to(torch.device(device))
            ours, theirs = (answer(each, batch.inputs, field) for each in (model, other))
            found.add(ours.to(theirs.device), theirs, batch.mask)
    result = found.result()
    return Likeness(result.kl, result.agreement, result.samples)


def likenesses(
    model: nn.Module,
    stream: KnowledgeStream,
    field: str,
    original: Artifact | None,
    device: str,
) -> tuple[Likeness | None, Likeness | None]:
    """How alike a model answers to the teachers of a stream and to the original."""
    teacher, first = Agreement(), Agreement()
    other = None if original is None else original.model.to(device).eval()
    with torch.inference_mode():
        for batch in stream:
            batch = batch.to(torch.device(device))
            found = answer(model, batch.inputs, field)
            if field in batch.knowledge:
                mask = batch.mask & batch.knowledge.mask[field]
                teacher.add(found, batch.knowledge[field], mask)
            if other is not None:
                first.add(found, answer(other, batch.inputs, field), batch.mask)
    return _told(teacher), _told(first)


def answer(model: nn.Module, inputs: Any, field: str) -> Tensor:
    """What a model answers under a name."""
    return pick_output(call_student(model, inputs), field)


def _told(found: Agreement) -> Likeness | None:
    if not found.samples:
        return None
    result = found.result()
    return Likeness(result.kl, result.agreement, result.samples)
