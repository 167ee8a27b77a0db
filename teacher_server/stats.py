"""What a server counts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class ServerStats:
    """Counters since the server started, and how it stands now.

    Args:
        requests, rows, bytes: answered, and the payload bytes of the answers.
        refusals: requests and Hellos refused, by code.
        sessions: students connected now.
        queued, scoring: requests that wait, and that are being scored.
        unsent: bytes of replies that students have not taken yet.
        cancelled: requests that nobody waited for any more.
        restarts: worker processes started again.
    """

    requests: int = 0
    rows: int = 0
    bytes: int = 0
    refusals: Counter[str] = field(default_factory=Counter)
    sessions: int = 0
    queued: int = 0
    scoring: int = 0
    unsent: int = 0
    cancelled: int = 0
    restarts: int = 0
