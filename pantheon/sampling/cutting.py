"""What streams have in common: being made again with other samples, and closed together."""

from __future__ import annotations

import weakref
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from pantheon.sampling.itinerary import Itinerary
from pantheon.sampling.selecting import fixed_view, sliced, splitted


class Closing(Protocol):
    """Something that can be closed."""

    def close(self) -> None: ...


_C = TypeVar("_C", bound=Closing)


class Cuttable:
    """A stream that other streams can be cut from.

    Args:
        given: the keyword arguments that it was made with.
    """

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._given = dict(given)
        self._cut: weakref.WeakSet[Closing] = weakref.WeakSet()

    @abstractmethod
    def _read_in(self) -> Itinerary:
        """Which ids it reads in which order."""

    @abstractmethod
    def _again(self, changes: dict[str, Any]) -> Self:
        """The same stream, from its beginning, with some arguments changed."""

    @abstractmethod
    def close(self) -> None:
        """Let go of whatever it reads from."""

    def _keep(self, made: _C) -> _C:
        """Have a stream closed with this one."""
        self._cut.add(made)
        return made

    def _close_cut(self) -> None:
        for stream in list(self._cut):
            stream.close()

    def select(
        self,
        ids: Sequence[int] | NDArray[np.int64],
        *,
        shuffle: bool | None = None,
        view: int | None = None,
    ) -> Self:
        """A stream of other ids, otherwise the same, from its beginning.

        It is read on its own, and closed with this one.

        Args:
            shuffle, view: those of this one if left out.
        """
        changed: dict[str, Any] = {"ids": ids}
        changed |= {} if shuffle is None else {"shuffle": shuffle}
        changed |= {} if view is None else {"view": view}
        return self._keep(self._again(changed))

    def slice(self, n: int, seed: int = 0) -> Self:
        """`n` samples chosen by `seed`, in one order and one view that stay the same for ever.

        Raises:
            ConfigError: more samples than there are.
        """
        at = self._read_in()
        view = fixed_view(at.views, seed) if at.fixed is None else at.fixed
        ids = sliced(at.ids, at.order.size, n, seed)
        return self.select(ids, shuffle=False, view=view)

    def excerpt(self, n: int, seed: int = 0) -> Self:
        """At most `n` samples, as `slice` has them, read by this process alone.

        Ranks that share this stream do not share what is cut from it so.
        """
        at = self._read_in()
        view = fixed_view(at.views, seed) if at.fixed is None else at.fixed
        ids = sliced(at.ids, at.order.size, min(n, at.order.size), seed)
        alone = {"rank": 0, "world": 1, "drop_last": False, "shuffle": False}
        changed = {"ids": ids} | ({} if view is None else {"view": view})
        return self._keep(self._again(alone | changed))

    def split(self, k: int, seed: int = 0) -> tuple[Self, ...]:
        """`k` streams that share the samples, of the same size give or take one sample.

        Raises:
            ConfigError: fewer than one sample for each.
        """
        at = self._read_in()
        return tuple(self.select(part) for part in splitted(at.ids, at.order.size, k, seed))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
