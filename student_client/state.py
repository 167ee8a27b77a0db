"""Where a loader stands, as plain values, and whether it may go on there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from pantheon.errors import ResumeMismatch

VERSION = 1


@dataclass(frozen=True, slots=True)
class Run:
    """What fixes a loader's sequence of ids, whatever its world size.

    Args:
        global_batch: samples in a step of all ranks together.
        size: samples in the dataset.
        ids: fingerprint of the chosen ids, None for all of them.
        views: how many views there are, 0 for none.
    """

    global_batch: int
    seed: int
    shuffle: bool
    size: int
    ids: str | None
    drop_last: bool
    views: int


def ids_fingerprint(ids: NDArray[np.int64] | None) -> str | None:
    """xxh3_64 of the chosen ids in order, 16 hexadecimal digits; None for all.

    >>> ids_fingerprint(np.arange(3)) == ids_fingerprint(np.array([0, 2, 1]))
    False
    """
    if ids is None:
        return None
    return str(xxhash.xxh3_64_hexdigest(np.ascontiguousarray(ids, dtype="<i8").tobytes()))


def save(run: Run, epoch: int, steps: int) -> dict[str, Any]:
    """The state after `steps` yielded steps of an epoch; JSON can hold it.

    ``position`` counts rows of all ranks, padding included.
    """
    position = {"epoch": epoch, "position": steps * run.global_batch}
    return {"version": VERSION} | position | asdict(run)


def restore(state: Mapping[str, Any], run: Run, world: int) -> tuple[int, int]:
    """The epoch and the number of steps yielded that a saved state stands for.

    Raises:
        ResumeMismatch: the state is of another sequence of ids; says what differs and, for another
            global batch, which ``batch_size`` keeps it.

    Example:
        >>> run = Run(8, 0, True, 100, None, False, 0)
        >>> restore(save(run, 2, 3), run, world=2)
        (2, 3)
    """
    if not isinstance(state, Mapping):
        raise ResumeMismatch(
            f"the saved loader state is {state!r:.80}; expected the dict that state_dict() answered"
        )
    if state.get("version") != VERSION:
        raise ResumeMismatch(
            f"the saved loader state has version {state.get('version')!r}, this loader reads "
            f"{VERSION}; save it again with this release"
        )
    _check_global_batch(state.get("global_batch"), run, world)
    for name, ours in asdict(run).items():
        if state.get(name) != ours:
            raise ResumeMismatch(
                f"the saved loader state has {name} = {state.get(name)!r}, this loader has "
                f"{ours!r}; construct it with the saved one's, or start a new run without the state"
            )
    epoch, position = state.get("epoch"), state.get("position")
    if not isinstance(epoch, int) or not isinstance(position, int) or min(epoch, position) < 0:
        raise ResumeMismatch(
            f"the saved loader state has epoch {epoch!r} and position {position!r}; expected two "
            "counts: it was altered"
        )
    steps, rest = divmod(position, run.global_batch)
    if rest:
        raise ResumeMismatch(
            f"the saved loader state stands at row {position}, which is no multiple of the global "
            f"batch {run.global_batch}: it was altered"
        )
    return epoch, steps


def _check_global_batch(saved: Any, run: Run, world: int) -> None:
    if saved == run.global_batch:
        return
    fits = isinstance(saved, int) and saved > 0 and saved % world == 0
    advice = (
        f"use batch_size={saved // world} with {world} rank{'s' * (world > 1)}"
        if fits
        else f"use a number of ranks that divides {saved}"
    )
    raise ResumeMismatch(
        f"the saved loader state has a global batch of {saved!r} samples, this loader has "
        f"{run.global_batch} (batch_size {run.global_batch // world} x {world} ranks); {advice}"
    )
