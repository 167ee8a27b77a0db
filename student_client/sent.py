"""What a student sends to teachers that have no dataset, told from what others send for its ids."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import xxhash

from pantheon.dataset import SAMPLED, encode_item
from pantheon.errors import DatasetError, StoreError
from pantheon.sampling.reading import Reader
from pantheon.saving import chance


def inputs_digest(reader: Reader, size: int, view: int) -> str:
    """xxh3_64 of the collated inputs of 64 evenly spaced samples, 16 hexadecimal digits.

    Each is read and collated alone, and twice; global random generators are left as they were.

    Args:
        reader: of the student's dataset.
        size: its samples.
        view: the one they are read in, 0 for none.

    Raises:
        DatasetError: a sample that cannot be read, or whose inputs differ when it is read again.

    Example:
        >>> import torch
        >>> plain, scaled = (Reader([1.0, 2.0], f) for f in (torch.tensor, lambda x: torch.ones(1)))
        >>> inputs_digest(plain, 2, 0) == inputs_digest(scaled, 2, 0)
        False
    """
    total = xxhash.xxh3_64()
    with _no_draws():
        for id in sorted({i * (size - 1) // (SAMPLED - 1) for i in range(SAMPLED)}):
            digest, again = _digest(reader, id, view), _digest(reader, id, view)
            if digest != again:
                raise DatasetError(
                    f"what is sent for sample {id} differs each time it is read; draw nothing at "
                    "random in collate_fn or dataset[i], but augment in get(id, view), with views="
                )
            total.update(digest)
    return str(total.hexdigest())


def _digest(reader: Reader, id: int, view: int) -> bytes:
    ids, state = np.array([id], np.int64), xxhash.xxh3_64()
    for chunk in encode_item(reader.batch(ids, np.full(1, view, np.int64) if view else None)):
        state.update(chunk)
    return state.digest()


@contextmanager
def _no_draws() -> Iterator[None]:
    """A student with a cache trains with the same random numbers as one without."""
    try:
        saved = chance.states()
    except StoreError:
        # A generator whose state nobody can save is not promised to go on the same either.
        yield
        return
    try:
        yield
    finally:
        chance.restore(saved)
