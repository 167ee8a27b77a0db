"""Going through one epoch: samples and knowledge side by side."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pantheon.errors import ConfigError, DatasetError
from pantheon.sampling.batch import Batch
from pantheon.sampling.position import Position
from student_client.epoch import Epoch
from student_client.stats import Totals


class Iteration:
    """An iterator over the rest of one epoch.

    Dropping it (a ``break``) abandons the epoch: what is in flight is cancelled. So does an error,
    an interrupt included, as samples and knowledge could be a step apart after it.

    Args:
        epoch: the knowledge.
        samples: (inputs, targets) of the same batches, or None without a dataset.
        position, totals: where the steps are counted.
        keep: what must live as long as this iterator.
    """

    def __init__(
        self,
        epoch: Epoch,
        samples: Iterator[tuple[Any, Any]] | None,
        position: Position,
        totals: Totals,
        keep: object,
    ) -> None:
        self.epoch = epoch
        self._samples = samples
        self._position, self._totals, self._keep = position, totals, keep
        self._closed: str | None = None

    @property
    def going(self) -> bool:
        """Whether it is neither over nor abandoned."""
        return self._closed is None

    def __iter__(self) -> Iteration:
        return self

    def __next__(self) -> Batch:
        if self._closed is not None:
            return self._end()
        try:
            batch = self._take()
        except BaseException as error:
            self.close(
                f"this epoch was ended by {type(error).__name__}; iter() begins the next one, and "
                "goes on after the last batch if load_state_dict(state_dict()) is called before"
            )
            raise
        if batch is None:
            self.close("")
            self._position.finish()
            raise StopIteration
        return batch

    def _take(self) -> Batch | None:
        # Before knowledge is waited for, so that teachers work while samples are read.
        sample = (None, None) if self._samples is None else next(self._samples, None)
        made = self.epoch.take()
        if made is None:
            return None
        if sample is None:
            raise DatasetError(
                f"the samples ended before the knowledge, at ids {made[0].ids[:5].tolist()}; does "
                "the dataset or collate_fn raise StopIteration?"
            )
        self._position.step()
        self._totals.batches += 1
        self._totals.samples += len(made[0]) if made[1] is None else int(made[1].sum())
        inputs, targets = sample
        return Batch(inputs, targets, *made)

    def _end(self) -> Batch:
        if self._closed:
            raise ConfigError(self._closed)
        raise StopIteration

    def close(self, why: str = "it was closed") -> None:
        """Abandon the epoch; a later `next` says why, or just ends."""
        if self._closed is None:
            self._closed = why
            self._samples = None
            self.epoch.close()

    def __del__(self) -> None:
        if getattr(self, "_closed", "") is None:
            self.close("")
