"""What a student is trained on: weighted losses against knowledge and against targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pantheon.errors import ConfigError
from pantheon.knowledge import take_value
from pantheon.stream import Batch

IGNORE = -100
"""The target of a sample without a label, as in `torch.nn.functional.cross_entropy`."""


@dataclass(frozen=True, slots=True)
class Term:
    """One addend of an objective.

    Args:
        name: what to call it in reports.
        loss: called with the student's output and the knowledge of `field`, or the targets where
            `field` is None; answers a scalar, the mean over the rows.
        field: a field of the batch's knowledge, or None to compare with the targets.
        weight: factor of this addend.
        output: which output of a student that returns a mapping; by default `field`, or
            ``"logits"`` for targets.
        labelled: hand the targets to `loss` as a third argument.
    """

    name: str
    loss: Callable[..., Tensor]
    field: str | None = None
    weight: float = 1.0
    output: str | None = None
    labelled: bool = False

    def __call__(self, outputs: Any, batch: Batch) -> Tensor:
        """The weighted loss over the rows that are real, answered and (for targets) labelled."""
        student = _pick(outputs, self.output or self.field or "logits")
        if (self.field is None or self.labelled) and batch.targets is None:
            raise ConfigError(
                f"the loss {self.name!r} needs targets, but the dataset gives none; let dataset[i] "
                "be a pair of input and target, or leave this loss out"
            )
        rows = self._rows(batch)
        against = batch.targets if self.field is None else batch.knowledge[self.field]
        extra = (batch.targets,) if self.labelled else ()
        if rows is not None:
            if len(rows) == 0:
                return student.sum() * 0.0
            student, against = student[rows], take_value(against, rows)
            extra = tuple(value[rows] for value in extra)
        return self.weight * self.loss(student, against, *extra)

    def rows(self, batch: Batch) -> int:
        """How many rows count."""
        rows = self._rows(batch)
        return len(batch.ids) if rows is None else len(rows)

    def _rows(self, batch: Batch) -> Tensor | None:
        """The rows that count, or None for all of them."""
        keep = batch.mask
        if self.field is not None:
            keep = keep & batch.knowledge.mask[self.field]
        if (self.field is None or self.labelled) and not batch.targets.is_floating_point():
            unlabelled = batch.targets == IGNORE
            keep = keep & ~unlabelled.reshape(len(keep), -1).all(dim=1).to(keep.device)
        return None if bool(keep.all()) else keep.nonzero().squeeze(1).to(batch.ids.device)


class Objective:
    """The sum of some terms.

    Raises:
        ConfigError: no term, or two of one name.

    Example:
        >>> from types import SimpleNamespace
        >>> targets, mask = torch.tensor([1, IGNORE]), torch.tensor([True, True])
        >>> batch = SimpleNamespace(targets=targets, mask=mask, ids=torch.tensor([0, 1]))
        >>> objective = Objective([Term("labels", torch.nn.functional.cross_entropy)])
        >>> objective(torch.zeros(2, 2), batch)
        {'labels': tensor(0.6931)}
    """

    def __init__(self, terms: Sequence[Term]) -> None:
        names = [term.name for term in terms]
        if not names or len(set(names)) != len(names):
            raise ConfigError(
                f"an objective needs at least one loss, all of different names; found {names}"
            )
        self.terms = tuple(terms)

    def __call__(self, outputs: Any, batch: Batch) -> dict[str, Tensor]:
        """Each term's weighted loss, by name."""
        return {term.name: term(outputs, batch) for term in self.terms}

    def rows(self, batch: Batch) -> dict[str, int]:
        """How many rows each term's mean is over, by name."""
        return {term.name: term.rows(batch) for term in self.terms}


def _pick(outputs: Any, name: str) -> Tensor:
    """The student's only output, or the one of this name."""
    if isinstance(outputs, Mapping):
        if name not in outputs:
            raise ConfigError(
                f"the student returns {', '.join(map(str, outputs))}, but a loss wants {name!r}; "
                "name one of these as the loss's output"
            )
        outputs = outputs[name]
    if not isinstance(outputs, Tensor):
        raise ConfigError(
            f"the student's output {name!r} is a {type(outputs).__name__}; expected a tensor"
        )
    return outputs


def call_student(model: torch.nn.Module, inputs: Any) -> Any:
    """Call a model as its inputs ask: mappings by keyword, tuples and lists by position."""
    match inputs:
        case None:
            raise ConfigError(
                "batches have no inputs, because the loader has no dataset; give it one to train on"
            )
        case Mapping():
            return model(**inputs)
        case tuple() | list():
            return model(*inputs)
    return model(inputs)
