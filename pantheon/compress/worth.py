"""What a model is worth: a metric, or the divergence from what it should answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from pantheon.compress.figures import answer
from pantheon.compress.measure import Agreement
from pantheon.compress.stage import Metric, Work, read_metric
from pantheon.errors import ConfigError
from pantheon.knowledge import Value
from pantheon.stream import KnowledgeStream
from pantheon.training.evaluating import evaluating

KL = "kl"
"""The name of the divergence, in place of a metric's."""

SEED = 0
"""Of the samples that models are measured on: the same for all workers, stages and cycles."""


@dataclass(frozen=True, slots=True)
class Worth:
    """How models are measured.

    Args:
        by: a metric's name, or ``"kl"``.
        samples: how many are read.
        measure: a metric or a divergence in nats.
        lower: whether less of the metric is better.
    """

    by: str
    samples: int
    measure: Callable[[nn.Module], float]
    lower: bool = False

    def lost(self, base: float, found: float) -> float:
        """What a model has lost: a fraction of the base, or nats.

        Raises:
            ConfigError: the whole model's metric is 0, so that no fraction of it can be lost.

        Example:
            >>> round(Worth("top1", 100, lambda model: 0.0).lost(base=80.0, found=76.0), 6)
            0.05
        """
        if self.by == KL:
            return found
        if not base:
            raise ConfigError(
                f"the metric {self.by} of the whole model is 0, so that no fraction of it can be "
                "lost; train the model first, or measure by kl"
            )
        return (found - base if self.lower else base - found) / abs(base)


def worth_of(
    work: Work, whole: nn.Module, by: str | None, samples: int | None, lower: bool = False
) -> Worth:
    """How a stage measures models on its validation part.

    Args:
        whole: the model that others are compared with where there are no teachers.
        by: a metric's name, ``"kl"``, or None for the first that the metric answers, else kl.
        samples: of the part; None for all. They are the same for every model and every worker.
        lower: whether less of the metric is better.

    Raises:
        ConfigError: there is no validation part, no metric of this name, fewer samples, or teachers
            without the field that outputs are compared with.
    """
    part = work.parts.validation
    if part is None:
        raise ConfigError("models are measured on the validation part; name one in parts")
    count = samples or sum(int(batch.mask.sum()) for batch in part.samples())
    stream = part.slice(count, SEED)
    if by is None:
        by = KL if work.metric is None else next(iter(read_metric(work.metric, whole, stream)))
    if by == KL:
        measure = _divergence(stream, whole, work.agreement, torch.device(work.device))
        return Worth(KL, count, measure)
    if work.metric is None:
        raise ConfigError(f"measuring by {by!r} needs a metric; name one, or measure by kl")
    return Worth(by, count, _metric(work.metric, stream, by), lower)


def _metric(metric: Metric, stream: KnowledgeStream, by: str) -> Callable[[nn.Module], float]:
    def measure(model: nn.Module) -> float:
        found = read_metric(metric, model, stream)
        if by not in found:
            raise ConfigError(f"measuring by {by!r}: the metric answers {', '.join(found)}")
        return found[by]

    return measure


def _divergence(
    stream: KnowledgeStream, whole: nn.Module, field: str, device: torch.device
) -> Callable[[nn.Module], float]:
    """From the teachers' answers, or the whole model's, which are asked for once and held."""
    held: list[tuple[torch.Tensor, Value]] = []
    with evaluating(whole):
        for batch in stream:
            batch = batch.to(device)
            if field in batch.knowledge:
                mask = batch.mask & batch.knowledge.mask[field]
                held.append((mask, batch.knowledge[field]))
            elif answered := list(batch.knowledge):
                raise ConfigError(
                    f"outputs are compared with the field {field!r}, which the teachers do not "
                    f"answer; name one of {', '.join(answered)} as the pipeline's agreement"
                )
            else:
                held.append((batch.mask, answer(whole, batch.inputs, field)))

    def measure(model: nn.Module) -> float:
        agreement = Agreement()
        with evaluating(model):
            for batch, (mask, wanted) in zip(stream.samples(), held, strict=True):
                found = answer(model, batch.to(device).inputs, field)
                agreement.add(found, wanted, mask)
        return agreement.result().kl

    return measure
