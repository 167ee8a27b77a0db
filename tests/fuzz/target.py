"""A format under fuzzing: how to begin, how to change an input, what reading it may raise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

MEMORY_BYTES = 256 << 20
"""What reading one input may take beyond what the process has, the input itself included."""

SECONDS = 10
"""How long reading one input may take, on a busy machine."""

MAX_INPUT = 1 << 14
"""Bytes of the longest input made; claims inside it may be of any size."""


@dataclass(frozen=True, slots=True)
class Target:
    """One format.

    Args:
        seeds: well-formed inputs.
        mutate: another input, near the one given; well-formed often enough to get deep.
        read: does with an input what the project does; returns nothing.
        documented: the errors that `read` may raise.
        count: inputs that `make test` reads.
    """

    seeds: Callable[[], list[bytes]]
    mutate: Callable[[bytes, Random], bytes]
    read: Callable[[bytes], None]
    documented: tuple[type[Exception], ...]
    count: int = 10_000

    def __call__(self, data: bytes) -> bool:
        """Whether an input was read; False if it was refused, as documented."""
        try:
            self.read(data)
        except self.documented:
            return False
        return True

    def mutations(self, seed: int, count: int) -> Iterator[bytes]:
        """So many inputs, one to four changes away from a well-formed one: the same each time."""
        rng, seeds = Random(seed), self.seeds()
        for _ in range(count):
            data = rng.choice(seeds)
            for _ in range(rng.choice((1, 1, 2, 4))):
                data = self.mutate(data, rng)
            yield data[:MAX_INPUT]
