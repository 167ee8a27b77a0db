"""What a YAML file may say of a training loop: its optimizer, its schedule and how it steps."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic.types import PositiveFloat, PositiveInt

from pantheon.config.section import Arguments, Reference, Section

OPTIMIZERS: Mapping[str, frozenset[str]] = {
    "adam": frozenset({"lr", "weight_decay", "betas"}),
    "adamw": frozenset({"lr", "weight_decay", "betas"}),
    "sgd": frozenset({"lr", "weight_decay", "momentum", "nesterov"}),
}
"""The optimizers that a configuration can name, and the settings each of them takes."""

SCHEDULES: Mapping[str, frozenset[str]] = {
    "constant": frozenset(),
    "cosine": frozenset({"min_lr"}),
    "linear": frozenset({"min_lr"}),
    "step": frozenset({"milestones", "gamma"}),
}
"""The schedules of the learning rate, and the settings each of them takes."""

Beta = Annotated[float, Field(ge=0, lt=1)]


class OptimizerConfig(Section):
    """An optimizer and its learning-rate schedule, which moves with every step.

    `name` is one of `OPTIMIZERS`, or a reference to a function that is called with the parameters
    and `args` and answers a `torch.optim.Optimizer`, such as ``torch.optim:RAdam``. Without
    `decay_norms`, parameters of fewer than two dimensions (weights of norms, biases) have no weight
    decay. `clip_norm` bounds the norm of all gradients together, over all
    ranks. The rate rises over `warmup_steps` and then follows `schedule`: down to `min_lr` times
    `lr` at the end, or times `gamma` at each of `milestones`, in epochs.

    Example:
        >>> config = OptimizerConfig(name="sgd", lr=0.1, momentum=0.9, nesterov=True)
        >>> config.settings
        {'lr': 0.1, 'momentum': 0.9, 'nesterov': True, 'weight_decay': 0.0}
    """

    name: Literal["adam", "adamw", "sgd"] | Reference = "adamw"
    args: Arguments = Field(default_factory=dict)
    lr: PositiveFloat = 1e-3
    weight_decay: float = Field(default=0.0, ge=0)
    decay_norms: bool = True
    momentum: float = Field(default=0.0, ge=0, lt=1)
    nesterov: bool = False
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    clip_norm: PositiveFloat | None = None
    schedule: Literal["constant", "cosine", "linear", "step"] = "constant"
    warmup_steps: int = Field(default=0, ge=0)
    min_lr: float = Field(default=0.0, ge=0, le=1)
    milestones: tuple[PositiveInt, ...] = ()
    gamma: float = Field(default=0.1, gt=0, le=1)

    @property
    def settings(self) -> dict[str, object]:
        """What the named optimizer is called with besides the parameters, by keyword."""
        return {name: getattr(self, name) for name in sorted(OPTIMIZERS.get(self.name, ()))}

    @model_validator(mode="after")
    def _fits(self) -> Self:
        takes = OPTIMIZERS.get(self.name, frozenset({"args"}))
        self._require("optimizer", self.name, takes, {"args"}.union(*OPTIMIZERS.values()))
        takes = SCHEDULES[self.schedule]
        self._require("schedule", self.schedule, takes, set().union(*SCHEDULES.values()))
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs momentum above 0; add momentum: 0.9")
        if self.schedule == "step" and not self.milestones:
            raise ValueError("the schedule 'step' needs epochs; add milestones: [30, 60]")
        if any(a >= b for a, b in pairwise(self.milestones)):
            raise ValueError(f"milestones must rise, found {list(self.milestones)}")
        return self

    def _require(self, what: str, name: str, takes: frozenset[str], known: set[str]) -> None:
        """Nothing was said that this optimizer or schedule does not take."""
        wrong = sorted((self.model_fields_set & known) - takes)
        if wrong:
            settings = ", ".join(sorted(takes)) or "no settings"
            raise ValueError(f"the {what} {name!r} has no {', '.join(wrong)}; it takes {settings}")


class EmaConfig(Section):
    """An exponential moving average of the weights; see `pantheon.training.average.Average`."""

    decay: float = Field(default=0.999, gt=0, lt=1)


class LoopConfig(Section):
    """How long and how a model is trained; see `pantheon.training.settings.TrainingSettings`."""

    epochs: PositiveInt = 1
    optimizer: OptimizerConfig = OptimizerConfig()
    accumulate: PositiveInt = 1
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    ema: EmaConfig | None = None
    channels_last: bool = False
    compile: bool = False
