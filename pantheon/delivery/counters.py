"""What happened to the requests of an epoch, counted."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """What happened so far.

    Attributes:
        answered: replies that were the first for their request and teacher.
        duplicates: replies dropped because another came before, or nobody knows their lease.
        requeued: requests put back because of a death, an expiry or a refusal.
        expired: leases that ran out.
        refused: refusals of requests that were still wanted.
        lost: replicas that left while they held a lease.
        suspected: requests taken from replicas that were silent.
    """

    answered: int = 0
    duplicates: int = 0
    requeued: int = 0
    expired: int = 0
    refused: int = 0
    lost: int = 0
    suspected: int = 0
