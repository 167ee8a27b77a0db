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
from pantheon.training.learner import Outputs
from pantheon.training.ramp import Ramp

IGNORE = -100
"""The target of a sample without a label, as in `torch.nn.functional.cross_entropy`."""


Names = str | tuple[str, ...]
"""One field or layer, or several that a loss compares as a tuple."""


@dataclass(frozen=True, slots=True)
class Term:
    """One addend of an objective.

    Args:
        name: what to call it in reports.
        loss: called with the student's side and the teacher's; answers a scalar, the mean over the
            rows.
        field: a field of the batch's knowledge (several: a tuple of values goes to `loss`), or None
            to compare with the targets.
        weight: factor of this addend, or a `Ramp` over the epochs.
        output: which output of a student that returns a mapping; by default `field`, or
            ``"logits"`` for targets.
        layer: compare what the student's module at this path returns (several: a tuple) in place of
            its output; the student is a `pantheon.training.learner.Learner` that taps them.
        labelled: hand the targets to `loss` as a third argument.

    Raises:
        ConfigError: both an output and a layer, or other numbers of fields and of layers.
    """

    name: str
    loss: Callable[..., Tensor]
    field: Names | None = None
    weight: float | Ramp = 1.0
    output: str | None = None
    layer: Names | None = None
    labelled: bool = False

    def __post_init__(self) -> None:
        if self.layer is not None and self.output is not None:
            raise ConfigError(
                f"the loss {self.name!r} names the output {self.output!r} and the layer "
                f"{self.layer!r}; name one of them"
            )
        several = isinstance(self.field, tuple)
        if several != isinstance(self.layer, tuple) or (
            several and len(self.field or ()) != len(self.layer or ())
        ):
            raise ConfigError(
                f"the loss {self.name!r} compares layer {self.layer!r} with field {self.field!r}; "
                "expected one of each, or as many layers as fields"
            )

    @property
    def layers(self) -> tuple[str, ...]:
        """The paths of the student's modules that it looks at."""
        return _names(self.layer)

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of the knowledge that it looks at."""
        return _names(self.field)

    def __call__(self, outputs: Any, batch: Batch, epoch: float = 0.0) -> Tensor:
        """The weighted loss over the rows that are real, answered and (for targets) labelled."""
        student = self._student(outputs)
        rows = self._rows(batch)
        against = [batch.knowledge[f] for f in self.fields] or [batch.targets]
        extra = (batch.targets,) if self.labelled else ()
        if rows is not None:
            if len(rows) == 0:
                return torch.stack([value.sum() * 0.0 for value in student]).sum()
            student = [value[rows] for value in student]
            against = [take_value(value, rows) for value in against]
            extra = tuple(value[rows] for value in extra)
        weight = self.weight.at(epoch) if isinstance(self.weight, Ramp) else self.weight
        if isinstance(self.field, tuple):
            return weight * self.loss(tuple(student), tuple(against), *extra)
        return weight * self.loss(student[0], against[0], *extra)

    def _student(self, outputs: Any) -> list[Tensor]:
        if self.layer is None:
            answered = outputs.output if isinstance(outputs, Outputs) else outputs
            return [pick_output(answered, self.output or next(iter(self.fields), "logits"))]
        if not isinstance(outputs, Outputs):
            raise ConfigError(
                f"the loss {self.name!r} looks at the layer {self.layer!r}, which nobody taps; "
                "train a pantheon.training.learner.Learner of the student with these layers"
            )
        return [outputs.layers[path] for path in self.layers]

    def rows(self, batch: Batch) -> int:
        """How many rows count."""
        rows = self._rows(batch)
        return len(batch.ids) if rows is None else len(rows)

    def _rows(self, batch: Batch) -> Tensor | None:
        """The rows that count, or None for all of them."""
        keep = batch.mask
        for field in self.fields:
            keep = keep & batch.knowledge.mask[field]
        if self.field is None or self.labelled:
            if batch.targets is None:
                raise ConfigError(
                    f"the loss {self.name!r} needs targets, but the dataset gives none; let "
                    "dataset[i] be a pair of input and target, or leave this loss out"
                )
            if not batch.targets.is_floating_point():
                unlabelled = batch.targets == IGNORE
                keep = keep & ~unlabelled.reshape(len(keep), -1).all(dim=1).to(keep.device)
        return None if bool(keep.all()) else keep.nonzero().squeeze(1).to(batch.ids.device)


class Objective:
    """The sum of some terms.

    Attributes:
        epoch: how far the training is, fractions counting steps; the loop sets it before a step.

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
        self.terms, self.epoch = tuple(terms), 0.0

    def __call__(self, outputs: Any, batch: Batch) -> dict[str, Tensor]:
        """Each term's weighted loss, by name."""
        return {term.name: term(outputs, batch, self.epoch) for term in self.terms}

    def rows(self, batch: Batch) -> dict[str, int]:
        """How many rows each term's mean is over, by name."""
        return {term.name: term.rows(batch) for term in self.terms}


def _names(given: Names | None) -> tuple[str, ...]:
    return () if given is None else (given,) if isinstance(given, str) else given


def pick_output(outputs: Any, name: str) -> Tensor:
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


def call_student(model: Callable[..., Any], inputs: Any) -> Any:
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
