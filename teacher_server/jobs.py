"""What the server owes: sessions of students and the requests they wait for."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from pantheon.wire.messages import Score

PeerKey = tuple[int, Hashable]
"""Number of the listener and its name for the peer."""


@dataclass(slots=True, eq=False)
class Session:
    """A student that said Hello.

    Args:
        key: whom to answer.
        model: the model it asks.
        fields: names of the fields it wants, None for all.
        integrity: whether its replies carry a digest.
        name: for logs.
        client: who has proven to be behind it, None where nobody has to.
    """

    key: PeerKey
    model: str
    fields: tuple[str, ...] | None = None
    integrity: bool = False
    name: str = ""
    client: Hashable = None
    jobs: dict[int, Job] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Job:
    """One request for knowledge until it is answered.

    Args:
        session: who asked.
        score: what was asked.
        rows: number of samples.
        nbytes: bytes it takes while it waits.
        since: seconds, on `time.monotonic`'s clock, when it was accepted.
        crashes: how many worker processes died while they may have worked on it.
        cancelled: nobody waits for the answer any more.
    """

    session: Session
    score: Score
    rows: int
    nbytes: int = 0
    since: float = 0.0
    crashes: int = 0
    cancelled: bool = False

    @property
    def kind(self) -> tuple[object, ...]:
        """Requests of one kind may share a forward; inputs and suspects stay alone."""
        if self.score.ids is None or self.crashes:
            return (id(self),)
        return (self.session.fields, self.score.views is None)
