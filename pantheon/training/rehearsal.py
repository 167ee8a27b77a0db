"""A look at a stream's next batch, and at the losses of it, before any step is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pantheon.losses import Aligned
from pantheon.stream import Batch, BatchStream
from pantheon.training.learner import Learner
from pantheon.training.objective import Term, call_student


def learner_of(
    student: nn.Module, terms: Sequence[Term], peers: Sequence[nn.Module] = ()
) -> Learner:
    """A student (and its peers) with the taps and the trained losses that some terms need.

    Raises:
        ConfigError: a term looks at a layer that one of them does not have.
    """
    return Learner(
        student,
        layers=[path for term in terms for path in term.layers],
        losses=[term.loss for term in terms if isinstance(term.loss, Aligned)],
        peers=peers,
    )


def rehearse(
    learner: Learner,
    objective: Callable[[Any, Batch], Mapping[str, Tensor]],
    stream: BatchStream,
) -> None:
    """Make the alignments that a learner's losses need, from the losses of the next batch.

    Called before the optimizer is made, so that they are trained too; does nothing where there are
    none. Nothing is learned, no batch norm sees the batch, and the stream stands where it did.

    Raises:
        PantheonError: whatever a step of the training would raise, such as shapes that no
            alignment brings together.
    """
    if not len(learner.losses):
        return
    batch = first_batch(stream)
    batch = batch.to(next((p.device for p in learner.parameters()), torch.device("cpu")))
    learner.eval()
    learner.rehearsing = True
    try:
        with torch.no_grad():
            objective(call_student(learner, batch.inputs), batch)
    finally:
        learner.rehearsing = False
        learner.train()


def first_batch(stream: BatchStream) -> Batch:
    """The stream's next batch, which it will yield again."""
    state = stream.state_dict()
    batch = next(iter(stream))
    stream.load_state_dict(state)
    return batch
