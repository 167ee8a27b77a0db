"""What a training tells of its steps and epochs."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Step:
    """Where a run stands after a step.

    Args:
        epoch, step: both from 0; `step` counts within the epoch, the optimizer's steps.
        epochs, steps: how many there are.
        done: steps since the run began or was resumed.
        samples: real rows since then.
        seconds, wait: since then, in all and waiting for the stream.
        loss: the step's loss on this rank, a scalar on the model's device; the mean of several
            batches' losses.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    done: int
    samples: int
    seconds: float
    wait: float
    loss: Tensor

    @property
    def remaining(self) -> float:
        """Seconds until the end at the mean pace so far."""
        left = (self.epochs - self.epoch) * self.steps - self.step - 1
        return self.seconds / self.done * left


@dataclass(frozen=True, slots=True)
class Epoch:
    """What an epoch came to.

    Args:
        epoch: from 0.
        losses: mean over the epoch's steps, by term.
        metrics: what `evaluate` answered.
        seconds: of training, waiting included.
        wait: seconds waited for the stream.
        samples: real rows seen.
    """

    epoch: int
    losses: dict[str, float]
    metrics: dict[str, float]
    seconds: float
    wait: float
    samples: int


@dataclass(slots=True)
class Running:
    """Sums over the epoch at hand, saved with a checkpoint in its middle."""

    steps: int = 0
    samples: int = 0
    seconds: float = 0.0
    wait: float = 0.0
    losses: dict[str, Tensor] = field(default_factory=dict)
