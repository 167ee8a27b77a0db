"""A data set of views: which sample an id is, what is kept of it, and how a net sees it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from torch import Tensor

from examples.vision import regions
from examples.vision.held import held
from examples.vision.photographs import Pixels
from examples.vision.views import PARTS, RANGES, Part, render
from pantheon.errors import ConfigError, IdOutOfRange

IdArray = NDArray[np.int64]

MEAN = torch.tensor([121.0, 110.0, 106.0])[:, None, None]
DEVIATION = torch.tensor([65.0, 59.0, 60.0])[:, None, None]
"""Of the red, green and blue values of the default training views, from 0 to 255, rounded."""

AT_ONCE = 64
"""Views rendered together; their contexts then fit a processor's cache."""

VERSION = 1
"""Of the way in which views are rendered; files of another one are not read."""


@dataclass(frozen=True)
class Patches:
    """All views: those for training first, then validation, then test; see `patches`."""

    classes: int
    train: int
    validation: int
    test: int
    size: int
    seed: int
    hold: bool
    cache: str | Path | None
    _held: dict[Part, Pixels] = field(default_factory=dict, init=False, repr=False, compare=False)
    _lock: Any = field(default_factory=threading.Lock, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        regions.regions(self.classes)
        if self.size % 2 or not 8 <= self.size <= regions.CONTEXT:
            raise ConfigError(
                f"size is {self.size}; expected an even number of pixels from 8 to "
                f"{regions.CONTEXT}"
            )
        if min(self.train, self.validation, self.test, self.seed) < 0 or not len(self):
            raise ConfigError(
                "train, validation and test count the views of each class, and some must be more "
                f"than 0; seed must not be negative; found train={self.train}, "
                f"validation={self.validation}, test={self.test}, seed={self.seed}"
            )

    def __reduce__(self) -> tuple[Callable[..., Patches], tuple[Any, ...]]:
        # Whoever unpickles this, such as a worker process, makes the same views again.
        return Patches, tuple(getattr(self, f.name) for f in fields(self) if f.init)

    def __len__(self) -> int:
        return sum(map(self.count, PARTS))

    def count(self, part: Part) -> int:
        """The views of a part."""
        each = {"train": self.train, "validation": self.validation, "test": self.test}
        return self.classes * each[part]

    def ids(self, part: Part) -> IdArray:
        """The ids of a part's views, int64 ``[n]``; classes take turns."""
        start = sum(map(self.count, PARTS[: PARTS.index(part)]))
        return np.arange(start, start + self.count(part), dtype=np.int64)

    def __getitem__(self, id: int) -> tuple[Tensor, int]:
        return self.get(id, 0)

    def __getitems__(self, ids: Sequence[int]) -> list[tuple[Tensor, int]]:
        return list(zip(normalised(self.images(ids)), self.labels(ids).tolist(), strict=True))

    def get(self, id: int, view: int) -> tuple[Tensor, int]:
        """Another view of the same class from the same part; 0 is the one that ``[id]`` answers.

        Returns:
            float32 ``[3, size, size]``, as `normalised` makes it, and the class.
        """
        return normalised(self.images([id], [view]))[0], int(self.labels([id])[0])

    def labels(self, ids: Sequence[int] | IdArray) -> IdArray:
        """The classes of some views, int64 ``[n]``."""
        made = np.empty(len(ids), np.int64)
        for _, rows, indices in self._by_part(ids):
            made[rows] = indices % self.classes
        return made

    def images(
        self, ids: Sequence[int] | IdArray, views: Sequence[int] | IdArray | None = None
    ) -> Pixels:
        """Some views as they are before `normalised`, uint8 ``[n, 3, size, size]``.

        Args:
            ids: of the samples, in any order.
            views: one for each of them; None for 0.

        Raises:
            IdOutOfRange: an id that the data set does not have.
        """
        seen = np.zeros(len(ids), np.int64) if views is None else np.asarray(views, np.int64)
        made = np.empty((len(ids), 3, self.size, self.size), np.uint8)
        for part, rows, indices in self._by_part(ids):
            if self._kept(part, seen[rows]):
                made[rows] = self.base(part)[indices]
            else:
                some = np.empty((len(rows), *made.shape[1:]), np.uint8)
                self._render(part, indices, seen[rows], some)
                made[rows] = some
        return made

    def _kept(self, part: Part, views: IdArray) -> bool:
        """Whether to read these from what is kept; no part is made for the sake of one sample."""
        if views.any() or not (self.hold or self.cache is not None):
            return False
        return part in self._held or len(views) > 1

    def base(self, part: Part) -> Pixels:
        """View 0 of all of a part's samples, uint8 ``[n, 3, size, size]``, made once and kept.

        With a `cache` it is read from a file there, which is written if it is absent.

        Raises:
            StoreError: that file is damaged.
        """
        with self._lock:
            if part not in self._held:
                shape = (self.count(part), 3, self.size, self.size)
                every = np.arange(shape[0]), np.zeros(shape[0], np.int64)
                self._held[part] = held(
                    self._file(part), shape, lambda into: self._render(part, *every, into)
                )
            return self._held[part]

    def _file(self, part: Part) -> Path | None:
        """Where a part is kept; the name tells everything that its views depend on."""
        if self.cache is None:
            return None
        made = [self.classes, self.count(part), self.size, self.seed, repr(RANGES), VERSION]
        digest = xxhash.xxh3_64(json.dumps(made).encode())
        digest.update(self._contexts.numpy().tobytes())
        return Path(self.cache) / f"{part}-{digest.hexdigest()}.npy"

    @cached_property
    def _contexts(self) -> Tensor:
        """Float32 ``[classes, 3, side, side]``: pixels of the photographs, or means of some.

        So that a view has about as many pixels as what it is read from.
        """
        shrink = 1
        while RANGES.window // (2 * shrink) >= self.size:
            shrink *= 2
        return torch.from_numpy(regions.contexts(self.classes, shrink)).float()

    def _render(self, part: Part, indices: IdArray, views: IdArray, into: Pixels) -> None:
        """Write some views of a part into an array of their number."""
        for start in range(0, len(indices), AT_ONCE):
            some, seen = indices[start : start + AT_ONCE], views[start : start + AT_ONCE]
            contexts = self._contexts[torch.from_numpy(some % self.classes)]
            made = render(contexts, self.seed, part, some.tolist(), seen.tolist(), self.size)
            into[start : start + AT_ONCE] = made

    def _by_part(self, ids: Sequence[int] | IdArray) -> Iterator[tuple[Part, IdArray, IdArray]]:
        """(part, rows of `ids` that are of it, their indices in it), for the parts there are."""
        wanted = np.asarray(ids, np.int64)
        outside = wanted[(wanted < 0) | (wanted >= len(self))]
        if len(outside):
            raise IdOutOfRange(f"sample id {outside[0]} is not in 0 to {len(self) - 1}")
        start = 0
        for part in PARTS:
            stop = start + self.count(part)
            rows = np.flatnonzero((wanted >= start) & (wanted < stop))
            if len(rows):
                yield part, rows, wanted[rows] - start
            start = stop


def normalised(pixels: Pixels) -> Tensor:
    """Images for a net: float32 of mean about 0 and standard deviation about 1.

    Args:
        pixels: uint8 ``[n, 3, height, width]``.

    Example:
        >>> normalised(np.full((1, 3, 1, 1), 121, np.uint8))[0, 0].item()
        0.0
    """
    return (torch.from_numpy(pixels.astype(np.float32)) - MEAN) / DEVIATION
