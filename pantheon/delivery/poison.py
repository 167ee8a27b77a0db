"""When a request is given up: attempts counted by replica, and the verdict."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from pantheon.delivery.lease import Ask

FORGIVEN = 16
"""How often a broken connection is not held against a request: it may be its answer that breaks it,
so there is an end."""


@dataclass(frozen=True, slots=True)
class Poisoned:
    """A request that one teacher failed too often; the caller raises `PoisonError` with its ids.

    Args:
        start, stop: its local rows.
        attempts: refusals and crashes counted.
        reasons: what each of them was, with the replica's name.
        leases: the numbers it had on the wire.
    """

    teacher: str
    request: int
    start: int
    stop: int
    attempts: int
    reasons: tuple[str, ...]
    leases: tuple[int, ...] = ()

    def concerns(self, ask: Ask) -> bool:
        """Whether this is the request given up."""
        return (self.teacher, self.request) == (ask.teacher, ask.request)


def count_attempt(ask: Ask, replica: str, reason: str, *, crash: bool = False) -> None:
    """Hold a refusal or a crash against a replica."""
    ask.blame[replica] = ask.blame.get(replica, 0) + 1
    ask.crashes += crash
    ask.reasons.append(f"{replica}: {reason}")


def forgive_crash(ask: Ask, replica: str, reason: str) -> None:
    """Take a crash back, for a request that is not forgiven for the `FORGIVEN`-th time.

    Example:
        >>> ask = Ask("t", 0, nbytes=64)
        >>> count_attempt(ask, "a", "left", crash=True), forgive_crash(ask, "a", "left")
        (None, None)
        >>> ask.blame, ask.crashes, ask.reasons
        ({'a': 0}, 0, [])
    """
    if ask.forgiven < FORGIVEN:
        ask.forgiven += 1
        ask.crashes -= 1
        ask.blame[replica] -= 1
        ask.reasons.remove(f"{replica}: {reason}")


def failed_too_often(ask: Ask, live: Collection[str], attempts: int) -> bool:
    """Whether a request's attempts are used up, on two replicas where there are two.

    A crash counts half: the request may merely have been there when somebody killed the replica.

    Args:
        live: names of the teacher's replicas.
        attempts: how many are granted.

    Example:
        >>> ask = Ask("t", 0, nbytes=64)
        >>> for _ in range(3):
        ...     count_attempt(ask, "a", "out of memory")
        >>> failed_too_often(ask, {"a"}, attempts=3), failed_too_often(ask, {"a", "b"}, attempts=3)
        (True, False)
    """
    culprits = {name for name, count in ask.blame.items() if count}
    others = set(live) - culprits
    spent = sum(ask.blame.values()) - ask.crashes / 2
    return spent >= attempts and (len(culprits) > 1 or not others)


def verdict(ask: Ask, span: tuple[int, int]) -> Poisoned:
    """A request given up, with its local rows."""
    attempts, reasons = sum(ask.blame.values()), tuple(ask.reasons)
    return Poisoned(ask.teacher, ask.request, *span, attempts, reasons, tuple(ask.late))
