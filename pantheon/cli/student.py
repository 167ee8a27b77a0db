"""From a student's configuration to its training."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from pantheon.cli.build import function_from, model_from
from pantheon.config import StudentConfig
from pantheon.errors import ConfigError
from pantheon.ranks import Ranks
from pantheon.stream import BatchStream
from pantheon.training.loop import Training
from pantheon.training.objective import Objective
from pantheon.training.optimizing import optimizer_from, schedule_from
from pantheon.training.rehearsal import learner_of, rehearse
from pantheon.training.settings import settings_from
from pantheon.training.terms import term_from
from teacher_server.devices import device_names


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
    terms = [term_from(loss) for loss in config.losses]
    learner = learner_of(model, terms).to(_device(config, ranks))
    objective = Objective(terms)
    rehearse(learner, objective, stream)
    optimizer = optimizer_from(config.optimizer, learner)
    settings = settings_from(config)
    steps = settings.steps(len(stream))
    return Training(
        learner,
        stream,
        objective,
        optimizer,
        epochs=config.epochs,
        settings=settings,
        scheduler=schedule_from(config.optimizer, optimizer, config.epochs, steps),
        evaluate=function_from(config, config.evaluate, "evaluate"),
        path=config.checkpoint.path if config.checkpoint else None,
        every=config.checkpoint.every if config.checkpoint else None,
        keep=config.checkpoint.keep if config.checkpoint else 2,
        ranks=ranks,
        **callbacks,
    )


def _device(config: StudentConfig, ranks: Ranks) -> str:
    """The device to train on, if this machine has it; a GPU for each rank."""
    try:
        return device_names(1, device=ranks.device(config.device))[0]
    except ConfigError as error:
        raise ConfigError(f"{config.where('device')}: {error}") from None
