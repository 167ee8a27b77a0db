"""From a student's configuration to its training."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import nn

from pantheon import losses
from pantheon.cli.build import function_from, model_from
from pantheon.config import LossConfig, OptimizerConfig, StudentConfig
from pantheon.errors import ConfigError
from pantheon.objective import Objective, Term
from pantheon.ranks import Ranks
from pantheon.reference import call
from pantheon.stream import BatchStream
from pantheon.training import Training
from teacher_server.devices import device_names

KNOWN = {
    "kl": losses.KLDivergence,
    "soft_cross_entropy": losses.SoftLabelCrossEntropy,
    "dkd": losses.DKD,
    "mse": losses.LogitMSE,
    "cross_entropy": nn.CrossEntropyLoss,
}
"""The losses by the names a configuration gives them."""


def training_from(
    config: StudentConfig, stream: BatchStream, ranks: Ranks, **callbacks: Any
) -> Training:
    """The training that a configuration describes, on a stream, in one or several ranks."""
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    model = model_from(config)
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"{config.where('model')}: {config.model} answers a {type(model).__name__}; expected "
            "a torch.nn.Module"
        )
    model.to(_device(config, ranks))
    optimizer = optimizer_from(config.optimizer, model)
    return Training(
        model,
        stream,
        Objective([term_from(config, index) for index in range(len(config.losses))]),
        optimizer,
        epochs=config.epochs,
        scheduler=_schedule(config, optimizer, len(stream)),
        evaluate=function_from(config, config.evaluate, "evaluate"),
        path=config.checkpoint.path if config.checkpoint else None,
        every=config.checkpoint.every if config.checkpoint else None,
        keep=config.checkpoint.keep if config.checkpoint else 2,
        ranks=ranks,
        **callbacks,
    )


def _device(config: StudentConfig, ranks: Ranks) -> str:
    """The device to train on, if this machine has it; a GPU for each rank."""
    device = config.device
    if ranks.world > 1 and device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', ranks.rank)}"
    try:
        return device_names(1, device=device)[0]
    except ConfigError as error:
        raise ConfigError(f"{config.where('device')}: {error}") from None


def optimizer_from(config: OptimizerConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer over the parameters that can be trained."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    decay = config.weight_decay
    match config.name:
        case "adam":
            return torch.optim.Adam(parameters, config.lr, weight_decay=decay)
        case "adamw":
            return torch.optim.AdamW(parameters, config.lr, weight_decay=decay)
        case "sgd":
            return torch.optim.SGD(parameters, config.lr, config.momentum, weight_decay=decay)


def _schedule(config: StudentConfig, optimizer: torch.optim.Optimizer, steps: int) -> Any:
    if config.optimizer.schedule == "constant":
        return None
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.epochs * steps)


def term_from(config: StudentConfig, index: int) -> Term:
    """One of a configuration's losses."""
    loss = config.losses[index]
    return Term(
        name=loss.name or loss.loss.rpartition(":")[2],
        loss=_loss(loss, config.where("losses", index, "loss")),
        field=loss.field,
        weight=loss.weight,
        output=loss.output,
        labelled=loss.loss == "dkd" and loss.mask != "teacher",
    )


def _loss(config: LossConfig, where: str) -> Any:
    kind = KNOWN.get(config.loss)
    return kind(**config.settings) if kind else call(config.loss, config.args, where)
