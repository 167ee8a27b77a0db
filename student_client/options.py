"""What a loader was told, checked before anything is reached. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pantheon.errors import ConfigError
from student_client.verifying import NEVER, Verify

_T = TypeVar("_T")

WHOLE = {
    "batch_size": 1,
    "seed": 0,
    "rank": 0,
    "world": 1,
    "views": 0,
    "num_workers": 0,
    "request_rows": 1,
    "max_requests": 1,
    "attempts": 1,
    "cache_bytes": 1,
}
"""The arguments that are whole numbers, and the least that each may be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The numbers and names of a loader; see `student_client.KnowledgeLoader`.

    Raises:
        ConfigError: names the argument, what was expected and found.

    Example:
        >>> Options(patience=5.0).patience
        5.0
    """

    batch_size: int = 32
    shuffle: bool = False
    seed: int = 0
    drop_last: bool = False
    rank: int = 0
    world: int = 1
    views: int = 0
    view: int | None = None
    num_workers: int = 0
    request_rows: int | None = None
    window_bytes: int = 64 << 20
    max_requests: int = 8
    patience: float = 60.0
    lease: float = 30.0
    attempts: int = 3
    integrity: bool | None = None
    verify: Verify = NEVER
    cache_bytes: int | None = None

    def __post_init__(self) -> None:
        for name, least in WHOLE.items():
            value = getattr(self, name)
            absent = value is None and name in ("request_rows", "cache_bytes")
            if not absent and (not isinstance(value, int) or value < least):
                raise ConfigError(f"{name} is {value!r}; expected a whole number from {least}")
        for name in ("window_bytes", "patience", "lease"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not value > 0:
                raise ConfigError(f"{name} is {value!r}; expected a number of more than 0")
        if self.rank >= self.world:
            raise ConfigError(
                f"rank {self.rank} of {self.world} cannot be; expected ranks 0 to world - 1"
            )


def for_teachers(
    what: str, given: Mapping[str, _T] | None, teachers: Sequence[str]
) -> dict[str, _T]:
    """An argument that says something of some teachers, by their names.

    Raises:
        ConfigError: it names a teacher that is not there.
    """
    unknown = [name for name in given or {} if name not in teachers]
    if unknown:
        raise ConfigError(
            f"{what} names the teacher {unknown[0]!r}; the teachers are {', '.join(teachers)}"
        )
    return dict(given or {})
