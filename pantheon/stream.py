"""What training and stages need of a loader: a stream of batches that can be continued and cut."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from pantheon.knowledge import Knowledge


class Batch(Protocol):
    """One step's samples and what the teachers know of them; n rows.

    Attributes:
        inputs: what the collate function made of the samples' inputs, None without a dataset.
        targets: what it made of their targets, None where there are none.
        ids: int64 ``[n]``.
        mask: bool ``[n]``, False for rows that only pad the batch.
        knowledge: the merged knowledge of the rows.
    """

    @property
    def inputs(self) -> Any: ...
    @property
    def targets(self) -> Any: ...
    @property
    def ids(self) -> Tensor: ...
    @property
    def mask(self) -> Tensor: ...
    @property
    def knowledge(self) -> Knowledge: ...

    def to(self, device: torch.device) -> Batch:
        """The batch with its tensors on another device."""


@runtime_checkable
class BatchStream(Protocol):
    """Batches, epoch after epoch: all that the training loop needs.

    Every ``iter()`` starts the next epoch at its beginning; only after `load_state_dict` does the
    next one go on in the middle. `state_dict` counts the batches that were yielded.

    Example:
        >>> class Nothing:
        ...     def __iter__(self): return iter(())
        ...     def __len__(self): return 0
        ...     def state_dict(self): return {"epoch": 0}
        ...     def load_state_dict(self, state): pass
        >>> isinstance(Nothing(), BatchStream), isinstance(Nothing(), KnowledgeStream)
        (True, False)
    """

    def __iter__(self) -> Iterator[Batch]:
        """The batches of one epoch."""

    def __len__(self) -> int:
        """Batches in an epoch."""

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands, as values that JSON can hold; ``epoch`` is among them."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on after the last batch that `state` counts."""


@runtime_checkable
class KnowledgeStream(BatchStream, Protocol):
    """Batches that can also be cut into other streams: what compression stages depend on.

    `student_client.KnowledgeLoader` is one, and so is `pantheon.SampleStream`, which has no
    teachers. A stream that was cut from another one stands at its own beginning and is read
    independently; closing the first one closes them all.
    """

    def slice(self, n: int, seed: int = 0) -> KnowledgeStream:
        """`n` samples chosen by `seed`, in one order and one view that stay the same for ever."""

    def excerpt(self, n: int, seed: int = 0) -> KnowledgeStream:
        """At most `n` samples, as `slice` has them, read by this process alone."""

    def split(self, k: int, seed: int = 0) -> tuple[KnowledgeStream, ...]:
        """`k` streams that share the samples among them, each sample in one of them."""

    def samples(self) -> KnowledgeStream:
        """The same samples in the same order without knowledge, which asks no teacher."""

    def close(self) -> None:
        """Let go of whatever it reads from. Safe to call twice."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The streams of one dataset's parts.

    Args:
        train: what is learned from.
        validation: what choices are made by; None where there is none.
        test: read once, at the end; None where there is none.
    """

    train: KnowledgeStream
    validation: KnowledgeStream | None = None
    test: KnowledgeStream | None = None

    def close(self) -> None:
        """Close all of them."""
        for stream in (self.test, self.validation, self.train):
            if stream is not None:
                stream.close()
