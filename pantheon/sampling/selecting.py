"""Which ids a slice or a part of a stream has. No I/O."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pantheon.errors import ConfigError
from pantheon.sampling.order import permute

SLICES, SPLITS = 0x51, 0x59
"""Keep the permutations of slices and of splits apart from each other and from an epoch's."""


def sliced(ids: NDArray[np.int64] | None, size: int, n: int, seed: int) -> NDArray[np.int64]:
    """`n` of the ids, in a random order that `seed` names.

    Args:
        ids: int64, those to choose from; None for ``0 … size - 1``.
        size: how many there are.

    Raises:
        ConfigError: more than there are, or none.

    Example:
        >>> sliced(None, 10, 4, seed=0).tolist()
        [8, 5, 6, 0]
    """
    if not isinstance(n, int) or not 1 <= n <= size:
        raise ConfigError(f"a slice of {n!r} samples was asked for; expected 1 to {size}")
    places = permute(np.arange(n), size, seed, SLICES)
    return places if ids is None else ids[places]


def splitted(
    ids: NDArray[np.int64] | None, size: int, k: int, seed: int
) -> list[NDArray[np.int64]]:
    """The ids in `k` parts of the same size, give or take one, chosen at random by `seed`.

    Each id is in one part, and each part in ascending order of positions.

    Raises:
        ConfigError: fewer than one sample a part.

    Example:
        >>> [part.tolist() for part in splitted(None, 5, 2, seed=0)]
        [[2, 3, 4], [0, 1]]
    """
    if not isinstance(k, int) or not 1 <= k <= size:
        raise ConfigError(
            f"{size} samples cannot be split into {k!r} parts; expected 1 to {size} parts"
        )
    places = permute(np.arange(size), size, seed, SPLITS)
    parts = [np.sort(part) for part in np.array_split(places, k)]
    return parts if ids is None else [ids[part] for part in parts]


def fixed_view(views: int, seed: int) -> int | None:
    """The view that a slice shows, one of ``1 … views``; None where there are no views.

    Example:
        >>> fixed_view(4, 6), fixed_view(0, 6)
        (3, None)
    """
    return 1 + seed % views if views else None
