"""How fast a replica answers, from the replies that came while it had something to do."""

from __future__ import annotations

from dataclasses import dataclass

SMOOTH = 4.0
"""Replies over which a speed is averaged."""

FADE = 0.9
"""What is left of the longest pause between replies with each shorter one."""

OLD_S = 10.0
"""Seconds after which what is known of one that had nothing to do is old."""


@dataclass(slots=True)
class Speed:
    """Bytes a second, as a student sees them.

    Args:
        replies: how many were counted, at most `SMOOTH`.
        nbytes, seconds: sums over these, the older the less.
        since: seconds; the last reply, or when it was first given something to do after that.
        pause: seconds; the longest that it took to reply lately.
        cold: its next reply counts for all before: it has replied once at most, and may have been
            compiling, or had nothing to do for long.

    Example:
        >>> speed = Speed()
        >>> speed.begin(10.0), speed.reply(400, 12.0), speed.time(1000), speed.pause
        (None, None, 5.0, 2.0)
    """

    replies: float = 0.0
    nbytes: float = 0.0
    seconds: float = 0.0
    since: float = 0.0
    pause: float = 0.0
    cold: bool = True

    @property
    def known(self) -> bool:
        """Whether it has answered anything."""
        return self.replies > 0

    def begin(self, now: float) -> None:
        """It had nothing to do and now has."""
        self.cold |= now - self.since >= OLD_S
        self.since = now

    def reply(self, nbytes: int, now: float) -> None:
        """It answered some bytes."""
        keep = min(1.0, (SMOOTH - 1) / max(self.replies, 1.0))
        if self.cold and self.replies:
            keep, self.pause, self.cold = 0.0, 0.0, False
        self.replies = self.replies * keep + 1
        self.nbytes = self.nbytes * keep + nbytes
        took = max(0.0, now - self.since)
        self.seconds = self.seconds * keep + took
        self.pause = max(took, self.pause * FADE)
        self.since = now

    def miss(self, now: float) -> None:
        """It should have answered by now; until it does, it is as slow as that."""
        self.seconds += max(0.0, now - self.since)
        self.since = now

    def usual(self, nbytes: int) -> float:
        """Seconds within which some bytes are usually there.

        Replies may come in bursts, so that their mean would tell little of the next one.
        """
        return max(self.pause, self.time(nbytes))

    def time(self, nbytes: int) -> float:
        """Seconds that some bytes take; 0 while nothing is known."""
        return self.seconds * nbytes / self.nbytes if self.nbytes else 0.0
