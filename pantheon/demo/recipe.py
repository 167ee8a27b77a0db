"""How the demo trains its teachers and students; settings were chosen on training digits only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pantheon.demo import models
from pantheon.demo.data import LABELLED, Part, accuracy, held_out_part, training_part
from pantheon.losses import KLDivergence
from pantheon.stream import Batch, BatchStream
from pantheon.training.history import Epoch
from pantheon.training.loop import Training
from pantheon.training.objective import Objective, Term

BATCH = 64
EPOCHS = 40
TEACHER_EPOCHS = 20
TEMPERATURE = 4.0
LEARNING_RATE = 1e-2
LABEL_WEIGHT = 0.1


def train_teacher(model: nn.Module, seed: int = 0, epochs: int = TEACHER_EPOCHS) -> nn.Module:
    """Train a teacher on all labels of the training part, in place; a few seconds.

    The first weights are the caller's; `seed` fixes the order and dropout.
    """
    part, steps = training_part(), -(-len(training_part()) // BATCH)
    torch.manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=epochs * steps)
    model.train()
    for _ in range(epochs):
        for rows in _batches(torch.randperm(len(part))):
            loss = functional.cross_entropy(model(part.pixels[rows]), part.labels[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
            optimizer.step()
            schedule.step()
    return model.eval()


def _batches(rows: Tensor) -> list[Tensor]:
    return [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]


def train_student(
    stream: BatchStream,
    seed: int,
    epochs: int = EPOCHS,
    *,
    knowledge: bool = True,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> list[Epoch]:
    """Train a fresh student on a stream; each epoch's metrics have its accuracy on held-out digits.

    Args:
        stream: batches of digits, with ``"logits"`` where `knowledge` is true.
        seed: of the first weights.
        knowledge: learn from the teachers' logits as well as from the labels.

    The accuracy after the last epoch is the result; none is picked for being high.
    """
    torch.manual_seed(seed)
    model = models.student()
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(stream))
    return Training(
        model,
        stream,
        objective(knowledge),
        optimizer,
        epochs=epochs,
        scheduler=schedule,
        evaluate=held_out,
        on_epoch=on_epoch,
    ).run()


def objective(knowledge: bool) -> Objective:
    """Cross-entropy on the labels there are; with `knowledge`, KL to the teachers' logits too."""
    if not knowledge:
        return Objective([Term("labels", functional.cross_entropy)])
    labels = Term("labels", functional.cross_entropy, weight=LABEL_WEIGHT)
    return Objective([Term("teachers", KLDivergence(TEMPERATURE), field="logits"), labels])


def held_out(model: nn.Module) -> Mapping[str, float]:
    """The accuracy on the held-out digits, by name."""
    return {"accuracy": accuracy(model, held_out_part())}


def scored(model: nn.Module, stream: Iterable[Batch]) -> Mapping[str, float]:
    """The accuracy on a stream whose labels are known, from 0 to 1."""
    rows = right = 0
    for batch in stream:
        named = model(batch.inputs).argmax(dim=1) == batch.targets
        right += int((named & batch.mask).sum())
        rows += int(batch.mask.sum())
    return {"accuracy": right / rows}


def student_part(seed: int) -> Part:
    """What the student of a seed sees: all training digits, 100 of them with labels."""
    return training_part().with_labels(LABELLED, seed)


@dataclass(frozen=True, slots=True)
class LabelledBatch:
    """A batch without knowledge; see `pantheon.stream.Batch`."""

    inputs: Tensor
    targets: Tensor
    ids: Tensor
    mask: Tensor
    knowledge: Any = None

    def to(self, device: torch.device) -> LabelledBatch:
        """The batch on another device."""
        moved = (x.to(device) for x in (self.inputs, self.targets, self.ids, self.mask))
        return LabelledBatch(*moved)


class LabelledStream:
    """The labelled digits of a part only, repeated to as many steps as the whole part has.

    So a student alone makes as many steps as one with teachers.

    Example:
        >>> stream = LabelledStream(student_part(0), seed=0)
        >>> len(stream), len(next(iter(stream)).ids)
        (22, 64)
    """

    def __init__(self, part: Part, seed: int) -> None:
        self.part, self.seed = part.labelled(), seed
        self.steps, self.epoch = -(-len(part) // BATCH), 0

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[LabelledBatch]:
        generator = torch.Generator().manual_seed(self.seed * 10_000 + self.epoch)
        self.epoch += 1
        rounds = -(-self.steps * BATCH // len(self.part))
        rows = [torch.randperm(len(self.part), generator=generator) for _ in range(rounds)]
        for ids in _batches(torch.cat(rows)[: self.steps * BATCH]):
            mask = torch.ones(len(ids), dtype=torch.bool)
            yield LabelledBatch(self.part.pixels[ids], self.part.labels[ids], ids, mask)

    def state_dict(self) -> dict[str, Any]:
        """The next epoch."""
        return {"epoch": self.epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the epoch given."""
        self.epoch = state["epoch"]
