"""The training loop: what a step is made of, what it is told by, and its losses put together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pantheon.exports import lazily

if TYPE_CHECKING:
    from pantheon.training.history import Epoch as Epoch
    from pantheon.training.history import Step as Step
    from pantheon.training.loop import Training as Training
    from pantheon.training.settings import TrainingSettings as TrainingSettings

__all__ = ["Epoch", "Step", "Training", "TrainingSettings"]

_HOMES = {
    "history": ("Epoch", "Step"),
    "loop": ("Training",),
    "settings": ("TrainingSettings",),
}

__getattr__, __dir__ = lazily(__name__, _HOMES)
