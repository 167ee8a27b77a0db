"""Which sample is seen when: a pure function of seed, epoch, global batch, rank and world size."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import isqrt

import numpy as np
from numpy.typing import NDArray

from pantheon.errors import ConfigError, DatasetError

MAX_SEED = 1 << 63
"""Largest seed and epoch."""

MAX_SIZE = 1 << 62
"""Largest number of positions that can be permuted."""

SMALL = 256
"""Below it the round function has so few values that more rounds are needed to mix."""

Words = NDArray[np.uint64]


def _word(value: int) -> Words:
    # An array without dimensions, as scalars cost every operation twice the time.
    return np.array(value, dtype=np.uint64)


_MASK = (1 << 64) - 1
_GAMMA, _FACTOR1, _FACTOR2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_MUL1, _MUL2 = _word(_FACTOR1), _word(_FACTOR2)
_SHIFT1, _SHIFT2, _HALF = _word(30), _word(27), _word(32)
_FEW_ROUNDS, _MANY_ROUNDS = 8, 12


def permute(positions: NDArray[np.int64], n: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Where some positions of ``0 … n - 1`` go in the permutation that (seed, epoch) names.

    A keyed permutation: position i is computed alone, in memory that does not depend on n. It is
    the generalised Feistel cipher on Z_a x Z_b, a * b just above n, with cycle walking (Black and
    Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002); its round function and key
    schedule are SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number
    Generators", OOPSLA 2014), reduced to a range by multiplication (Lemire, 2019). It depends on
    integer arithmetic only and is the same on every machine and in every release.

    Args:
        positions: int64, any shape, each in ``0 … n - 1``.
        n: number of positions, 1 to 2**62.
        seed, epoch: 0 to 2**63.

    Returns:
        int64 of the same shape, different positions going to different places in ``0 … n - 1``.

    Raises:
        ConfigError: n, seed or epoch out of range.
        DatasetError: a position out of range.

    Example:
        >>> permute(np.arange(5), 5, seed=0, epoch=0).tolist()
        [4, 0, 2, 3, 1]
    """
    _check_range("the number of positions", n, 1, MAX_SIZE)
    keys = _round_keys(seed, epoch)[: _FEW_ROUNDS if n >= SMALL else _MANY_ROUNDS]
    flat = np.asarray(positions, dtype=np.int64).ravel()
    if flat.size and (flat.min() < 0 or flat.max() >= n):
        raise DatasetError(
            f"positions run from {flat.min()} to {flat.max()}; expected 0 to {n - 1}, as there "
            f"are {n}"
        )
    a, b = _sides(n)
    found = _encipher(flat.astype(np.uint64), a, b, keys)
    outside = np.flatnonzero(found >= n)
    while outside.size:
        walked = _encipher(found[outside], a, b, keys)
        found[outside] = walked
        outside = outside[walked >= n]
    return found.astype(np.int64).reshape(np.shape(positions))


@lru_cache(maxsize=64)
def _sides(n: int) -> tuple[int, int]:
    """a and b, near the root of n, with the smallest product that holds n: fewer walks."""
    root = isqrt(n - 1) + 1
    last = root if n < SMALL else min(2 * root, root + 64)
    return min(
        ((a, -(-n // a)) for a in range(root, last + 1)),
        key=lambda sides: sides[0] * sides[1],
    )


def _encipher(x: Words, a: int, b: int, keys: tuple[Words, ...]) -> Words:
    """One pass of the cipher over ``0 … a * b - 1``."""
    sides = (_word(a), _word(b))
    left, right = np.divmod(x, sides[1])
    for i, key in enumerate(keys):
        _add_round(left, right, sides[i % 2], key)
        left, right = right, left
    left *= sides[1]
    left += right
    return left


def _add_round(half: Words, other: Words, modulus: Words, key: Words) -> None:
    """``half += F(other, key)`` modulo `modulus`, in place."""
    mixed = other ^ key
    shifted = mixed >> _SHIFT1
    mixed ^= shifted
    mixed *= _MUL1
    np.right_shift(mixed, _SHIFT2, out=shifted)
    mixed ^= shifted
    mixed *= _MUL2
    mixed >>= _HALF
    mixed *= modulus
    mixed >>= _HALF
    half += mixed
    # Below the modulus the subtraction wraps to a huge number, and the minimum undoes it.
    np.subtract(half, modulus, out=shifted)
    np.minimum(half, shifted, out=half)


@lru_cache(maxsize=64)
def _round_keys(seed: int, epoch: int) -> tuple[Words, ...]:
    _check_range("seed", seed, 0, MAX_SEED)
    _check_range("epoch", epoch, 0, MAX_SEED)
    start = _splitmix(_splitmix(seed) ^ (epoch + _GAMMA))
    return tuple(_word(_splitmix(start + i * _GAMMA)) for i in range(_MANY_ROUNDS))


def _splitmix(state: int) -> int:
    """The output of SplitMix64 for one state, all 64 bits."""
    z = (state + _GAMMA) & _MASK
    z = ((z ^ (z >> 30)) * _FACTOR1) & _MASK
    z = ((z ^ (z >> 27)) * _FACTOR2) & _MASK
    return z ^ (z >> 31)


@dataclass(frozen=True)
class Order:
    """The order of an epoch's samples, as one rank sees it.

    Step s of the epoch takes places ``[s * G, (s + 1) * G)`` of the permutation, G the global
    batch ``batch_size * world``; rank r takes its r-th part of `batch_size`. Another world size
    with the same G keeps the same sequence. The rank's *local rows* count its own places from 0,
    step after step: row i belongs to step ``i // batch_size``.

    Args:
        size: number of samples.
        batch_size: samples of one rank in one step.
        seed: names the permutation, together with the epoch; 0 to 2**63.
        shuffle: permute; else the samples come in their own order, every epoch alike.
        rank, world: which of how many ranks this is.
        drop_last: leave out the last samples that fill no global batch. Otherwise a single rank
            ends with a short batch, and several ranks pad: every rank has the same number of rows,
            and places beyond the last sample hold the first sample of their global batch.

    Raises:
        ConfigError: a batch size, world, rank or seed that cannot be.
        DatasetError: no samples, or fewer than one global batch with `drop_last`.

    Example:
        >>> order = Order(size=5, batch_size=2, rank=1, world=2)
        >>> order.global_batch, order.steps, order.rows
        (4, 2, 4)
        >>> positions, real = order.positions(epoch=0, start=0, stop=4)
        >>> positions.tolist(), real.tolist()
        ([2, 3, 4, 4], [True, True, False, False])
    """

    size: int
    batch_size: int
    seed: int = 0
    shuffle: bool = False
    rank: int = 0
    world: int = 1
    drop_last: bool = False

    def __post_init__(self) -> None:
        _check_range("batch_size", self.batch_size, 1, MAX_SIZE)
        _check_range("the number of ranks", self.world, 1, MAX_SIZE)
        _check_range("the rank", self.rank, 0, self.world - 1)
        _check_range("seed", self.seed, 0, MAX_SEED)
        if not 1 <= self.size <= MAX_SIZE:
            raise DatasetError(
                f"there are {self.size} samples; expected 1 to {MAX_SIZE}, so give a dataset, or "
                "ids, that are not empty"
            )
        if self.steps == 0:
            raise DatasetError(
                f"{self.size} samples fill no global batch of {self.global_batch} and drop_last "
                "leaves them out: nothing is left; use a smaller batch_size or drop_last=False"
            )

    @property
    def global_batch(self) -> int:
        """Samples of all ranks in one step."""
        return self.batch_size * self.world

    @property
    def steps(self) -> int:
        """Steps of an epoch, the same for every rank."""
        whole, rest = divmod(self.size, self.global_batch)
        return whole + (rest > 0 and not self.drop_last)

    @property
    def rows(self) -> int:
        """Local rows of an epoch, padding included."""
        full = self.steps * self.batch_size
        return min(full, self.size) if self.world == 1 else full

    def positions(
        self, epoch: int, start: int, stop: int
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_] | None]:
        """The positions in the dataset (or in the chosen ids) of local rows ``[start, stop)``.

        Returns:
            int64 ``[stop - start]``, and bool ``[stop - start]``, False for rows that only pad;
            None when all are real.

        Raises:
            ConfigError: rows that this rank does not have, or an epoch that cannot be.
        """
        if not 0 <= start <= stop <= self.rows:
            raise ConfigError(
                f"rows {start} to {stop} were asked for; rank {self.rank} has 0 to {self.rows} in "
                "an epoch"
            )
        _check_range("epoch", epoch, 0, MAX_SEED)
        places, real = self._places(start, stop)
        if self.shuffle:
            places = permute(places, self.size, self.seed, epoch)
        return places, real

    def _places(self, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.bool_] | None]:
        """Places in the permutation of local rows, and which of them are not padding."""
        rows = np.arange(start, stop, dtype=np.int64)
        if self.world == 1:
            return rows, None
        first = rows // self.batch_size * self.global_batch
        places = first + self.rank * self.batch_size + rows % self.batch_size
        if stop == start or places[-1] < self.size:
            return places, None
        real = places < self.size
        return np.where(real, places, first), real


def _check_range(what: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{what} is {value}; expected {low} to {high}")
