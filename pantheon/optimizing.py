"""From a configuration to the optimizer and the schedule of its learning rate."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from pantheon.config import OptimizerConfig


def optimizer_from(config: OptimizerConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer over the parameters that can be trained.

    Example:
        >>> optimizer_from(OptimizerConfig(name="sgd", lr=0.1), nn.Linear(1, 1)).defaults["lr"]
        0.1
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    decay = config.weight_decay
    match config.name:
        case "adam":
            return torch.optim.Adam(parameters, config.lr, weight_decay=decay)
        case "adamw":
            return torch.optim.AdamW(parameters, config.lr, weight_decay=decay)
        case "sgd":
            return torch.optim.SGD(parameters, config.lr, config.momentum, weight_decay=decay)


def schedule_from(
    config: OptimizerConfig, optimizer: torch.optim.Optimizer, epochs: int, steps: int
) -> Any:
    """The schedule, stepped after every step; None for a rate that stays.

    Args:
        steps: of an epoch.
    """
    if config.schedule == "constant":
        return None
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps)
