"""Which ids the rows of an epoch are: the order, the chosen ids and the view. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pantheon.errors import ConfigError, DatasetError, IdOutOfRange
from pantheon.sampling.order import Order

BLOCK = 4096
"""Rows whose ids are computed at a time; a permutation of few costs as much as of many."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Some local rows of an epoch.

    Args:
        start, stop: local rows.
        ids: int64 ``[stop - start]``.
        real: bool, False for rows that only pad; None when all are real.
    """

    start: int
    stop: int
    ids: NDArray[np.int64]
    real: NDArray[np.bool_] | None

    def cut(self, start: int, stop: int) -> Stretch:
        """Some of its rows, as views."""
        a, b = start - self.start, stop - self.start
        real = None if self.real is None else self.real[a:b]
        return Stretch(start, stop, self.ids[a:b], real)


def joined(stretches: Sequence[Stretch], start: int, stop: int) -> Stretch:
    """Rows ``[start, stop)`` from the stretches that cover them, in order; views where one does."""
    first = stretches[0]
    if len(stretches) == 1:
        same = first.start == start and first.stop == stop
        return first if same else first.cut(start, stop)
    cuts = [s.cut(max(start, s.start), min(stop, s.stop)) for s in stretches]
    ids = np.concatenate([c.ids for c in cuts])
    if all(c.real is None for c in cuts):
        return Stretch(start, stop, ids, None)
    real = [np.ones(len(c.ids), bool) if c.real is None else c.real for c in cuts]
    return Stretch(start, stop, ids, np.concatenate(real))


class Itinerary:
    """The ids of every epoch's rows.

    Args:
        order: the order of positions.
        ids: int64, the ids that the positions stand for; None when they are the ids.
        views: how many views there are, 0 for none.
        fixed: the view of every epoch; None shows one after another.

    Example:
        >>> Itinerary(Order(4, 2), np.array([7, 5, 3, 1])).batch_ids(0, 1)
        [3, 1]
    """

    def __init__(
        self,
        order: Order,
        ids: NDArray[np.int64] | None = None,
        views: int = 0,
        fixed: int | None = None,
    ) -> None:
        self.order, self.ids, self.views, self.fixed = order, ids, views, fixed
        self._block: tuple[int, Stretch] | None = None

    def view(self, epoch: int) -> int:
        """The view every sample of an epoch is seen in."""
        if self.fixed is not None:
            return self.fixed
        return 1 + epoch % self.views if self.views else 0

    def stretch(self, epoch: int, start: int, stop: int) -> Stretch:
        """Local rows ``[start, stop)`` of an epoch."""
        positions, real = self.order.positions(epoch, start, stop)
        ids = positions if self.ids is None else self.ids[positions]
        return Stretch(start, stop, ids, real)

    def batch_ids(self, epoch: int, step: int) -> list[int]:
        """The ids of one batch, for reading samples one batch after another."""
        start = step * self.order.batch_size
        stop = min(start + self.order.batch_size, self.order.rows)
        block = self._block
        if (
            block is None
            or block[0] != epoch
            or not block[1].start <= start < stop <= block[1].stop
        ):
            end = min(start + max(BLOCK, self.order.batch_size), self.order.rows)
            block = self._block = (epoch, self.stretch(epoch, start, end))
        found: list[int] = block[1].cut(start, stop).ids.tolist()
        return found


def check_view(view: int | None, views: int) -> int | None:
    """A fixed view, checked: 0, or one of ``1 … views``; None for none.

    Example:
        >>> check_view(2, views=3), check_view(None, views=0)
        (2, None)
    """
    if view is not None and (not isinstance(view, int) or not 0 <= view <= views):
        raise ConfigError(f"view is {view!r}; expected 0 to {views}, as there are {views} views")
    return view


def chosen_ids(ids: object, size: int | None) -> NDArray[np.int64] | None:
    """The ids a user chose, checked; None for all.

    Raises:
        IdOutOfRange: an id below 0, or beyond the dataset of `size` samples; names it.
        DatasetError: ids that are no whole numbers, none at all, or the same one twice.

    Example:
        >>> chosen_ids([3, 1], size=4).tolist()
        [3, 1]
    """
    if ids is None:
        return None
    found = np.asarray(ids)
    if found.ndim != 1 or found.size == 0 or found.dtype.kind not in "iu":
        raise DatasetError(
            f"ids must be a list of at least one whole number, found {found.dtype} of shape "
            f"{found.shape}"
        )
    found = found.astype(np.int64)
    check_range(found, size)
    values, counts = np.unique(found, return_counts=True)
    if len(values) != len(found):
        twice = values[counts > 1][:5].tolist()
        raise DatasetError(
            f"ids names {len(found) - len(values)} samples more than once, the first {twice}; "
            "an epoch sees each sample once"
        )
    return found


def check_range(ids: NDArray[np.int64], size: int | None) -> None:
    """Raise `IdOutOfRange` naming the first ids that are not in ``0 … size - 1``."""
    wrong = (ids < 0) if size is None else (ids < 0) | (ids >= size)
    if wrong.any():
        limit = "at least 0" if size is None else f"0 to {size - 1}"
        raise IdOutOfRange(
            f"{int(wrong.sum())} of the ids given are out of range, the first "
            f"{ids[wrong][:5].tolist()}; expected {limit}"
        )
