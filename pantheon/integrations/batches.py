"""A loader's batches for trainers that count epochs and batches themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pantheon.stream import Batch, BatchStream

BEGUN = "batches.begun"
"""The entry of a state that says whether the loader is within an epoch."""


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

    def __init__(self, loader: BatchStream) -> None:
        self.loader = loader
        self._begun = False
        self._then: Callable[[Batches], Iterator[Batch]] = Batches._epoch

    def __len__(self) -> int:
        return len(self.loader)

    def state_dict(self) -> dict[str, Any]:
        """The loader's, and whether it is within an epoch."""
        return {**self.loader.state_dict(), BEGUN: self._begun}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Have the next epoch go on there; a loader's own state will do."""
        self.resume(state)

    def resume(self, state: Mapping[str, Any], *, over: bool = False, refill: bool = True) -> None:
        """Have the next epoch go on there.

        Args:
            state: of `state_dict`, or of the loader's.
            over: the epoch it is within is done, whatever is left of it: the next one begins.
            refill: begin the next epoch where nothing is left of this one; else the rest is empty.
        """
        loaded = dict(state)
        self._begun = loaded.pop(BEGUN, True)
        self.loader.load_state_dict(loaded)
        if over:
            self._then = Batches._after if self._begun else Batches._epoch
        elif refill:
            self._then = Batches._filled
        else:
            self._then = Batches._epoch if self._begun else Batches._nothing

    def __iter__(self) -> Iterator[Batch]:
        then, self._then = self._then, Batches._epoch
        yield from then(self)

    def _epoch(self) -> Iterator[Batch]:
        for batch in self.loader:
            self._begun = True
            yield batch
        self._begun = False

    def _filled(self) -> Iterator[Batch]:
        empty = True
        for batch in self._epoch():
            empty = False
            yield batch
        if empty:
            yield from self._epoch()

    def _after(self) -> Iterator[Batch]:
        next(iter(self.loader), None)  # The restored epoch, abandoned by the next.
        yield from self._epoch()

    def _nothing(self) -> Iterator[Batch]:
        return iter(())
