"""From a configuration to the optimizer and the schedule of its learning rate."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim import lr_scheduler as schedulers

from pantheon.config.loop import OptimizerConfig
from pantheon.errors import ConfigError, PantheonError
from pantheon.reference import resolve

OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}


def optimizer_from(config: OptimizerConfig, model: nn.Module) -> Optimizer:
    """The optimizer over the parameters that can be trained.

    Raises:
        ConfigError: a reference that cannot be called with the parameters, or that answers
            something else than an optimizer.

    Example:
        >>> optimizer_from(OptimizerConfig(name="sgd", lr=0.1), nn.Linear(1, 1)).defaults["lr"]
        0.1
    """
    parameters: Any = [p for p in model.parameters() if p.requires_grad]
    if not config.decay_norms:
        parameters = _groups(parameters)
    if config.name in OPTIMIZERS:
        made: Optimizer = OPTIMIZERS[config.name](parameters, **config.settings)
        return made
    return _users(config, parameters)


def _groups(parameters: list[nn.Parameter]) -> list[dict[str, Any]]:
    """Weights as they are, and what has fewer than two dimensions without weight decay."""
    weights = [p for p in parameters if p.dim() >= 2]
    others = [p for p in parameters if p.dim() < 2]
    groups: list[dict[str, Any]] = [{"params": weights}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _users(config: OptimizerConfig, parameters: Any) -> Optimizer:
    """What the user's own function answers."""
    where = config.where("name")
    build = resolve(config.name, where)
    try:
        made = build(parameters, **config.args)
    except PantheonError:
        raise
    except Exception as error:  # the user's function may raise anything
        raise ConfigError(
            f"{where}: {config.name}, called with the parameters and {config.args}, raised "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(made, Optimizer):
        raise ConfigError(
            f"{where}: {config.name} answers a {type(made).__name__}; expected a "
            "torch.optim.Optimizer"
        )
    return made


def schedule_from(config: OptimizerConfig, optimizer: Optimizer, epochs: int, steps: int) -> Any:
    """The schedule, stepped after every step; None for a rate that stays.

    While it warms up over n steps, step i (from 0) has the rate ``lr * (i + 1) / (n + 1)``, so that
    step n is the first of the whole rate.

    Args:
        steps: of an epoch.

    Raises:
        ConfigError: the warm-up takes longer than the training, or reaches into a milestone.

    Example:
        >>> config = OptimizerConfig(name="sgd", lr=0.4, warmup_steps=3)
        >>> optimizer = optimizer_from(config, nn.Linear(1, 1))
        >>> schedule_from(config, optimizer, epochs=1, steps=9).get_last_lr()
        [0.1]
    """
    warmup, total = config.warmup_steps, epochs * steps
    if warmup and warmup >= total:
        raise ConfigError(
            f"{config.where('warmup_steps')}: the warm-up takes {warmup} steps, and the training "
            f"has {total}; expected fewer"
        )
    # The scheduler of the rest is made first, because making one sets the optimizer's rates.
    rest = _after(config, optimizer, total - warmup, steps)
    if not warmup:
        return rest
    rise = schedulers.LinearLR(optimizer, 1 / (warmup + 1), 1.0, total_iters=warmup)
    if rest is None:
        return rise
    return schedulers.SequentialLR(optimizer, [rise, rest], milestones=[warmup])


def _after(config: OptimizerConfig, optimizer: Optimizer, total: int, steps: int) -> Any:
    """The schedule of the `total` steps after the warm-up."""
    match config.schedule:
        case "constant":
            return None
        case "cosine":
            rates = [group["lr"] for group in optimizer.param_groups]
            lowest = config.min_lr * min(rates) if config.min_lr else 0
            return schedulers.CosineAnnealingLR(optimizer, total, eta_min=lowest)
        case "linear":
            return schedulers.LinearLR(optimizer, 1.0, config.min_lr, total_iters=total)
        case "step":
            at = [epoch * steps - config.warmup_steps for epoch in config.milestones]
            if at[0] <= 0:
                raise ConfigError(
                    f"{config.where('milestones')}: the first, {config.milestones[0]}, is reached "
                    f"after {config.milestones[0] * steps} steps, while the rate still warms up, "
                    f"for {config.warmup_steps}; expected a later one"
                )
            return schedulers.MultiStepLR(optimizer, at, config.gamma)
