"""What the replicas of a teacher, and the teachers of a student, have to agree on. No I/O."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from pantheon.errors import (
    DatasetMismatch,
    MismatchError,
    PantheonError,
    RefusedError,
    RevisionMismatch,
    SchemaMismatch,
    VersionMismatch,
)
from pantheon.wire.messages import PROTOCOL, Refused, Welcome

logger = logging.getLogger(__name__)

REFUSALS: Mapping[str, type[PantheonError]] = {
    "version": VersionMismatch,
    "schema": SchemaMismatch,
    "dataset": DatasetMismatch,
    "revision": RevisionMismatch,
    "model": RefusedError,
    "inputs": RefusedError,
    "limits": RefusedError,
    "range": RefusedError,
}
"""Refusals of a Hello that asking again cannot change."""


@dataclass(slots=True)
class Agreement:
    """What the first replica of a teacher said, and every other one has to say too.

    Args:
        teacher: its name, for messages.
        stated: the revision the user expects, or None.
        dataset: fingerprint of the student's dataset, or None.
        size: length of the student's dataset, or None without one.
        views: how many views the student asks for.
        queries: whether the student sends inputs that no dataset holds.
    """

    teacher: str
    stated: str | None = None
    dataset: str | None = None
    size: int | None = None
    views: int = 0
    queries: bool = False
    first: Welcome | None = None
    address: str = ""
    _warned: bool = field(default=False, repr=False)

    def accept(self, welcome: Welcome, address: str) -> None:
        """Take a replica's Welcome in.

        Raises:
            MismatchError: one of its kinds, naming both sides and both values.
        """
        who = f"teacher {self.teacher!r} at {address}"
        self._check_version(welcome, who)
        self._check_revision(welcome, who)
        self._check_dataset(welcome, who)
        if self.first is None:
            self.first, self.address = welcome, address
        else:
            self._check_replica(self.first, welcome, who)

    def _check_version(self, welcome: Welcome, who: str) -> None:
        if welcome.version != PROTOCOL:
            raise VersionMismatch(
                f"{who} chose protocol version {welcome.version}, this student speaks {PROTOCOL}; "
                "install the same release on both sides"
            )

    def _check_revision(self, welcome: Welcome, who: str) -> None:
        if welcome.revision and self.stated and welcome.revision != self.stated:
            raise RevisionMismatch(
                f"{who} has revision {welcome.revision}, revision={self.stated!r} was asked for; "
                "serve those weights, or change what is asked for"
            )
        if not welcome.revision and not self.stated and not self._warned:
            self._warned = True
            logger.warning("%s does not tell its revision: a change of weights goes unseen", who)

    def _check_dataset(self, welcome: Welcome, who: str) -> None:
        theirs, ours = welcome.dataset, self.dataset
        if self.size is not None and welcome.size is not None and welcome.size != self.size:
            raise DatasetMismatch(
                f"{who} has a dataset of {welcome.size} samples, the student's has {self.size}; "
                "give both the same dataset, and choose samples with ids="
            )
        if theirs is not None and ours is not None and theirs != ours:
            raise DatasetMismatch(
                f"{who} has a dataset with fingerprint {theirs}, the student's has {ours}; give "
                "both the same dataset, or, where they prepare inputs differently on purpose, the "
                "same dataset_fingerprint="
            )
        if self.views > welcome.views > 0:
            raise DatasetMismatch(
                f"{who} has {welcome.views} views of its dataset, views={self.views} were asked "
                "for; dump or serve that many, or ask for fewer"
            )
        if not (welcome.accepts_ids or self.queries) and self.size is None:
            raise DatasetMismatch(
                f"{who} has no dataset and this student has none either; give the student the "
                "dataset whose inputs are to be sent"
            )

    def _check_replica(self, first: Welcome, welcome: Welcome, who: str) -> None:
        other = f"its replica at {self.address}"
        first.schema.require_equal(welcome.schema, other, who)
        for name, error in (
            ("revision", RevisionMismatch),
            ("dataset", DatasetMismatch),
            ("size", DatasetMismatch),
            ("accepts_ids", MismatchError),
        ):
            a, b = getattr(first, name), getattr(welcome, name)
            if a != b:
                raise error(
                    f"{who} has {name} {b!r}, {other} has {a!r}; replicas of a teacher must be "
                    "identical: restart the one that is out of date"
                )


def check_together(agreements: Mapping[str, Agreement]) -> int | None:
    """Whether all teachers speak of one dataset; answers how many samples it has, if any says so.

    Raises:
        DatasetMismatch: two of them differ in fingerprint or size; names both.
    """
    for name in ("size", "dataset"):
        said = [
            (a.teacher, getattr(a.first, name))
            for a in agreements.values()
            if getattr(a.first, name) is not None
        ]
        for teacher, value in said[1:]:
            if value != said[0][1]:
                raise DatasetMismatch(
                    f"teacher {said[0][0]!r} has a dataset of {name} {said[0][1]}, teacher "
                    f"{teacher!r} one of {name} {value}; all teachers must know the same samples"
                )
    sizes = [a.first.size for a in agreements.values() if a.first and a.first.size is not None]
    return sizes[0] if sizes else None


def refused_hello(teacher: str, address: str, refused: Refused) -> PantheonError | None:
    """The error for a refused Hello, or None when it may be said again later."""
    kind = REFUSALS.get(refused.code)
    if kind is None:
        return None
    return kind(f"teacher {teacher!r} at {address} refused the handshake: {refused.message}")
