"""How the training loop computes its steps: what one is made of, in which numbers, and averaged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from pantheon.config.loop import LoopConfig
from pantheon.errors import ConfigError

Precision = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSettings:
    """Settings of `pantheon.Training` that change how a step is computed, and nothing else of it.

    Args:
        clip_norm: the most that the norm of all gradients together may be, after they were summed
            over all ranks; None for no bound.
        accumulate: batches that one step learns from, as from one batch of all their rows. The last
            step of an epoch takes what is left.
        ema: the decay of the moving average of the weights that is evaluated and kept in the end,
            see `pantheon.training.average.Average`; None for none.
        precision: what the model computes in, under `torch.autocast`; its outputs are made float32
            before the losses see them. ``"float16"`` scales the gradients, and needs a GPU.
        channels_last: keep images and 4-D weights in `torch.channels_last` while training.
        compile: train through `torch.compile`, one compilation for each shape of a batch;
            evaluation and `state_dict` are those of the model itself.

    Raises:
        ConfigError: a value that is out of range.

    Example:
        >>> TrainingSettings(accumulate=4).steps(10)
        3
    """

    clip_norm: float | None = None
    accumulate: int = 1
    ema: float | None = None
    precision: Precision = "float32"
    channels_last: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ConfigError(f"clip_norm is {self.clip_norm}; expected a number above 0, or None")
        if self.accumulate < 1:
            raise ConfigError(f"accumulate is {self.accumulate}; expected a number from 1")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ConfigError(f"ema is {self.ema}; expected a decay between 0 and 1, or None")
        if self.precision not in get_args(Precision):
            raise ConfigError(
                f"precision is {self.precision!r}; expected one of {', '.join(get_args(Precision))}"
            )

    def steps(self, batches: int) -> int:
        """The steps of an epoch of so many batches."""
        return -(-batches // self.accumulate)


def settings_from(config: LoopConfig) -> TrainingSettings:
    """The settings that a configuration describes.

    >>> settings_from(LoopConfig(accumulate=2, ema={"decay": 0.9}))
    TrainingSettings(clip_norm=None, accumulate=2, ema=0.9, precision='float32', \
channels_last=False, compile=False)
    """
    return TrainingSettings(
        clip_norm=config.optimizer.clip_norm,
        accumulate=config.accumulate,
        ema=None if config.ema is None else config.ema.decay,
        precision=config.precision,
        channels_last=config.channels_last,
        compile=config.compile,
    )
