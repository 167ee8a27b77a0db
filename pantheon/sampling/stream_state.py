"""Where a loader stands, as plain values, and whether it may go on there."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from pantheon.errors import ResumeMismatch

logger = logging.getLogger(__name__)

VERSION = 1


@dataclass(frozen=True, slots=True)
class Run:
    """What fixes a loader's sequence of ids, whatever its world size.

    Args:
        global_batch: samples in a step of all ranks together.
        size: samples in the dataset.
        ids: fingerprint of the chosen ids, None for all of them.
        views: how many views there are, 0 for none.
        view: the only one that is shown, if it is only one.
    """

    global_batch: int
    seed: int
    shuffle: bool
    size: int
    ids: str | None
    drop_last: bool
    views: int
    view: int | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """Where what was learned came from, as far as it is known.

    Args:
        dataset: its fingerprint; None where it is not known.
        teachers: the revision of each teacher that is known.
    """

    dataset: str | None = None
    teachers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Origin:
        """What a saved state says; nothing where it says nothing.

        Raises:
            ResumeMismatch: the state was altered.
        """
        dataset, teachers = state.get("dataset"), state.get("teachers", {})
        told = isinstance(teachers, Mapping) and all(
            isinstance(text, str) for text in (*teachers, *teachers.values())
        )
        if not told or not isinstance(dataset, str | None):
            raise ResumeMismatch(
                f"the saved loader state has dataset {dataset!r:.80} and teachers "
                f"{teachers!r:.80}; expected a fingerprint and revisions by name: it was altered"
            )
        return cls(dataset, dict(teachers))

    def check(self, found: Origin, stated: Mapping[str, str | None]) -> None:
        """Make sure that what is `found` now is what this state has learned from.

        Args:
            stated: the revisions that the user asks for; going on with those is deliberate.

        Raises:
            ResumeMismatch: another dataset, or another revision of a teacher; names both.
        """
        if None not in (self.dataset, found.dataset) and self.dataset != found.dataset:
            raise ResumeMismatch(
                f"the saved loader state has learned from a dataset with fingerprint "
                f"{self.dataset}, this loader has one with {found.dataset}; resume with the same "
                "samples, or start a new run without the state"
            )
        for name, before in self.teachers.items():
            now = found.teachers.get(name, before)
            if now == before:
                continue
            if stated.get(name) != now:
                raise ResumeMismatch(
                    f"the saved loader state has learned from revision {before} of teacher "
                    f"{name!r}, which has {now} now; serve those weights again, or, to go on with "
                    f"the others on purpose, ask for revision={{{name!r}: {now!r}}}"
                )
            logger.warning("going on with revision %s of teacher %r after %s", now, name, before)


def ids_fingerprint(ids: NDArray[np.int64] | None) -> str | None:
    """xxh3_64 of the chosen ids in order, 16 hexadecimal digits; None for all.

    >>> ids_fingerprint(np.arange(3)) == ids_fingerprint(np.array([0, 2, 1]))
    False
    """
    if ids is None:
        return None
    return str(xxhash.xxh3_64_hexdigest(np.ascontiguousarray(ids, dtype="<i8").tobytes()))


def save(run: Run, epoch: int, steps: int, origin: Origin | None = None) -> dict[str, Any]:
    """The state after `steps` yielded steps of an epoch; JSON can hold it.

    ``position`` counts rows of all ranks, padding included.
    """
    position = {"epoch": epoch, "position": steps * run.global_batch}
    return {"version": VERSION} | position | asdict(run) | asdict(origin or Origin())


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
