"""Watcher: who is told how far a pipeline is."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pantheon.training.history import Epoch, Step


class Watcher:
    """Told how far a pipeline is; what it does not care about it leaves out."""

    def stage(self, index: int, name: str, of: int) -> None:
        """A stage begins."""

    def step(self, step: Step) -> None:
        """A training made a step."""

    def epoch(self, epoch: Epoch) -> None:
        """A training came to an epoch's end."""

    def say(self, text: str) -> None:
        """Something else that people want to know."""
