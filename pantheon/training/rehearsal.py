"""A look at a stream's next batch, and at the losses of it, before any step is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pantheon.errors import ConfigError
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
    """Make the alignments that a learner's losses need, from the losses of the next batches.

    The next batch is enough, unless none of its rows count for one of the losses.

    Called before the optimizer is made, so that they are trained too; does nothing where there are
    none. Nothing is learned, no batch norm sees the batch, and the stream stands where it did.

    Raises:
        PantheonError: whatever a step of the training would raise, such as shapes that no
            alignment brings together.
        ConfigError: an epoch has no row that counts for one of the losses.
    """
    aligned = [loss for loss in learner.losses if isinstance(loss, Aligned)]
    if not aligned:
        return
    device = next((p.device for p in learner.parameters()), torch.device("cpu"))
    state = stream.state_dict()
    learner.eval()
    learner.rehearsing = True
    try:
        with torch.no_grad():
            for batch in stream:
                batch = batch.to(device)
                objective(call_student(learner, batch.inputs), batch)
                if all(len(loss.aligns) for loss in aligned):
                    return
        raise ConfigError(
            "a loss with align has no rows to learn from in a whole epoch: none is answered by its "
            "teacher and, where it needs targets, labelled; leave it out"
        )
    finally:
        learner.rehearsing = False
        learner.train()
        stream.load_state_dict(state)


def first_batch(stream: BatchStream) -> Batch:
    """The stream's next batch, which it will yield again."""
    state = stream.state_dict()
    batch = next(iter(stream))
    stream.load_state_dict(state)
    return batch
