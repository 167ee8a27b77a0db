"""A loader's batches for trainers that count epochs and batches themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pantheon.stream import Batch, KnowledgeStream


class Batches:
    """A loader whose epochs are never empty.

    A loader that is restored after the last batch of an epoch has nothing left of that epoch, and
    says so by an empty one, which a plain loop wants. Hugging Face's and Lightning's trainers have
    counted that epoch as done by then, and expect the next one. Nothing is read before the first
    batch is asked for.

    Args:
        loader: a `student_client.KnowledgeLoader`, or anything like it.

    Example:
        >>> class Twice:
        ...     def __init__(self): self.epoch, self.done = 0, 0
        ...     def __len__(self): return 2
        ...     def __iter__(self):
        ...         left, self.done = range(self.done, 2), 0
        ...         return iter([(self.epoch, i) for i in left])
        ...     def state_dict(self): return {}
        ...     def load_state_dict(self, state): self.epoch, self.done = 1, state["done"]
        >>> batches = Batches(Twice())
        >>> batches.load_state_dict({"done": 2}); list(batches)
        [(1, 0), (1, 1)]
    """

    def __init__(self, loader: KnowledgeStream) -> None:
        self.loader = loader
        self._restored = False

    def __len__(self) -> int:
        return len(self.loader)

    def state_dict(self) -> dict[str, Any]:
        """The loader's."""
        return self.loader.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Have the next epoch go on there."""
        self.loader.load_state_dict(state)
        self._restored = True

    def __iter__(self) -> Iterator[Batch]:
        restored, self._restored = self._restored, False
        batches = iter(self.loader)
        first = next(batches, None)
        if first is None and restored:
            batches = iter(self.loader)
            first = next(batches, None)
        if first is not None:
            yield first
        yield from batches
