"""Which epoch comes next and how much of it was yielded. No I/O."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Position:
    """Where a loader stands in its epochs.

    Args:
        epoch, steps: the epoch at hand and the steps of it that were yielded.
        following: the epoch that starts when this one is over or abandoned.
        resume: whether the next start goes on in the middle.

    Example:
        >>> at = Position(); at.ahead; at.begin(); at.step(); at
        (0, 0)
        (0, 0)
        Position(epoch=0, steps=1, following=1, resume=False)
        >>> at.begin()
        (1, 0)
    """

    epoch: int = 0
    steps: int = 0
    following: int = 0
    resume: bool = False

    @property
    def ahead(self) -> tuple[int, int]:
        """Epoch and step that the next start begins with."""
        return (self.epoch, self.steps) if self.resume else (self.following, 0)

    def begin(self) -> tuple[int, int]:
        """Start the next epoch, or go on with the restored one; answers epoch and step."""
        self.epoch, self.steps = self.ahead
        self.resume, self.following = False, self.epoch + 1
        return self.epoch, self.steps

    def step(self) -> None:
        """A step was yielded."""
        self.steps += 1

    def finish(self) -> None:
        """The epoch came to its end."""
        self.epoch, self.steps = self.following, 0

    def jump(self, epoch: int, *, going: bool) -> None:
        """Have `epoch` start next; `going`: another one is still being read meanwhile."""
        if self.resume and epoch == self.epoch:
            return
        self.resume, self.following = False, epoch
        if not going:
            self.epoch, self.steps = epoch, 0

    def restore(self, epoch: int, steps: int) -> None:
        """Go on there at the next start."""
        self.epoch, self.steps, self.following, self.resume = epoch, steps, epoch + 1, True
