"""What a refused request means: ask again elsewhere, or an error that names the ids. No I/O."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from pantheon.errors import (
    IdOutOfRange,
    IntegrityError,
    ModelError,
    NotFiniteError,
    PantheonError,
    PoisonError,
    RefusedError,
)

FINAL: Mapping[str, type[PantheonError]] = {
    "range": IdOutOfRange,
    "inputs": RefusedError,
    "limits": RefusedError,
    "finite": NotFiniteError,
    "wrong": ModelError,
    "protocol": RefusedError,
}
"""Refusals that every replica would repeat."""

LATER = frozenset({"hello", "draining", "busy"})
"""Refusals that say nothing about the request."""

AGAIN: Mapping[str, type[PantheonError]] = {"checksum": IntegrityError}
"""What a request that failed again and again raises, where it is not `PoisonError`."""

NAMED = 5
"""How many ids an error names."""

ADVICE: Mapping[str, str] = {
    "limits": "; ask for fewer rows at once with request_rows=",
    "finite": "; look at these samples, or serve with finite='allow'",
}


def name_ids(ids: NDArray[np.int64]) -> str:
    """The first few ids, for messages.

    >>> name_ids(np.arange(7))
    '0, 1, 2, 3, 4 and 2 more'
    """
    more = f" and {len(ids) - NAMED} more" if len(ids) > NAMED else ""
    return ", ".join(map(str, ids[:NAMED].tolist())) + more


def final_error(
    teacher: str, address: str, code: str, message: str, ids: NDArray[np.int64]
) -> PantheonError | None:
    """The error of a refusal that asking again cannot change; None for others."""
    kind = FINAL.get(code)
    if kind is None:
        return None
    return kind(
        f"teacher {teacher!r} at {address} cannot answer for ids {name_ids(ids)}: {message}"
        f"{ADVICE.get(code, '')}"
    )


def poison_error(
    teacher: str, code: str, attempts: int, reason: str, ids: NDArray[np.int64]
) -> PantheonError:
    """The error of a request that failed too often."""
    kind = AGAIN.get(code, PoisonError)
    return kind(
        f"teacher {teacher!r} failed {attempts} times on ids {name_ids(ids)}: {reason}; look at "
        "the teacher's log and at these samples"
    )
