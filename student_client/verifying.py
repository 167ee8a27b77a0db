"""Asking another replica the same again, so that replicas that disagree are found."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pantheon.delivery.ledger import Assignment
from pantheon.errors import ConfigError, ReplicaDisagreement
from pantheon.wire.messages import Cancel, RawTensor, Scored
from student_client.comparing import chosen, difference
from student_client.fleet import Fleet
from student_client.known import KnownTeacher
from student_client.refusals import name_ids
from student_client.replica import Replica
from student_client.requests import Request


@dataclass(frozen=True, slots=True)
class Verify:
    """How replicas are checked against each other.

    Args:
        fraction: of the requests, which are asked twice; 0 to 1.
        tolerance: the largest absolute difference of decoded values that is only counted and
            logged; a larger one raises.

    Raises:
        ConfigError: numbers that cannot be.

    Example:
        >>> Verify(0.01, tolerance=1e-4)
        Verify(fraction=0.01, tolerance=0.0001)
    """

    fraction: float = 0.0
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        if not isinstance(self.fraction, int | float) or not 0 <= self.fraction <= 1:
            raise ConfigError(f"verify is {self.fraction!r}; expected a number from 0 to 1")
        wrong = not isinstance(self.tolerance, int | float) or math.isnan(self.tolerance)
        if wrong or self.tolerance < 0:
            raise ConfigError(f"tolerance is {self.tolerance!r}; expected a number from 0")


NEVER = Verify()


@dataclass(frozen=True, slots=True)
class _Open:
    """A question that was answered once, by some lease, and is asked again."""

    lease: int
    request: Request
    first: Replica
    second: Replica
    teacher: KnownTeacher
    parts: tuple[RawTensor, ...]


class Verifier:
    """Has a fraction of one epoch's requests answered by two replicas, and compares.

    One question is open for each teacher at a time, so that memory stays bounded; a request chosen
    meanwhile, or while a teacher has one replica only, is counted as skipped.

    Args:
        fleet: the replicas.
        verify: how much, and how exactly.
        epoch: which one.
    """

    def __init__(self, fleet: Fleet, verify: Verify, epoch: int) -> None:
        self.fleet, self.verify, self.epoch = fleet, verify, epoch
        self._open: dict[int, _Open] = {}

    def consider(
        self,
        assignment: Assignment,
        request: Request,
        teacher: KnownTeacher,
        parts: tuple[RawTensor, ...],
        number: int,
    ) -> bool:
        """Ask another replica what was just answered, if it is one of those chosen.

        Args:
            number: what the question is to be called on the wire.

        Returns:
            Whether the number was used.
        """
        fraction = self.verify.fraction
        if not parts or not chosen(fraction, teacher.name, self.epoch, assignment.request):
            return False
        first = self.fleet.find(teacher.name, assignment.replica)
        others = [r for r in self.fleet.up(teacher.name) if r is not first and r.supervised]
        if first is None or not others or self._asking(teacher.name):
            teacher.unverified += 1
            return False
        second = others[number % len(others)]
        if not second.send(request.score(number, teacher.name, teacher.reader)):
            teacher.unverified += 1
            return False
        self.fleet.trace.asked_twice(second, number, assignment)
        self._open[number] = _Open(assignment.lease, request, first, second, teacher, parts)
        return True

    def _asking(self, teacher: str) -> bool:
        return any(o.second.teacher == teacher for o in self._open.values())

    def asked(self, number: int | None, replica: Replica) -> Request | None:
        """The request a replica was asked again by this number; None if it was not."""
        found = self._open.get(-1 if number is None else number)
        return found.request if found is not None and found.second is replica else None

    def compare(self, message: Scored, teacher: KnownTeacher) -> None:
        """A second answer came.

        Raises:
            ReplicaDisagreement: it differs from the first by more than the tolerance.
        """
        asked = self._open.pop(message.request)
        size, field = difference(teacher.codec, asked.parts, message.parts)
        teacher.verified += 1
        if not field:
            return
        teacher.disagreements += 1
        teacher.disagreement = max(teacher.disagreement, size)
        ids = name_ids(asked.request.ids_for(teacher.name))
        what = (
            f"replicas of teacher {teacher.name!r} disagree: {asked.first.address} and "
            f"{asked.second.address} differ by {size:g} in {field!r} for ids {ids}"
        )
        self.fleet.trace.disagreed(
            (asked.second, message.request), (asked.first, asked.lease), size, what
        )
        if size > self.verify.tolerance:
            raise ReplicaDisagreement(
                f"{what}, more than tolerance={self.verify.tolerance:g}; see whether both have the "
                "same weights, devices and libraries, or serve with deterministic=True"
            )

    def drop(self, replica: Replica, number: int | None = None) -> None:
        """A replica left, or refused a second question: it stays unanswered, and is so counted."""
        gone = [
            n
            for n, o in self._open.items()
            if (o.second is replica if number is None else n == number)
        ]
        for n in gone:
            self._open.pop(n).teacher.unverified += 1

    def close(self) -> None:
        """Nobody waits any more."""
        for number, asked in self._open.items():
            asked.second.send(Cancel((number,)))
            asked.teacher.unverified += 1
        self._open.clear()
