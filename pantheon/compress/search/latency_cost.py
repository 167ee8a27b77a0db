"""Latency as a cost of points: predicted from a table, before anything is trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from pantheon.compress.latency_table.prediction import Predictor
from pantheon.compress.search.costs import LATENCY
from pantheon.compress.search.settings import SearchSettings
from pantheon.errors import ConfigError, MismatchError
from pantheon.sampling.reading import slice_rows


def predictor_from(settings: SearchSettings) -> Predictor | None:
    """What predicts latencies, if a table is given.

    Raises:
        ConfigError: there is none, and latency is an objective or has a limit; or it is no table.
        MismatchError: it is of another device, and that was not said.
    """
    if settings.latency is None:
        for name, asked in (("objectives", settings.objectives), ("limits", settings.limits)):
            if LATENCY in asked:
                raise ConfigError(
                    f"{settings.where(name, LATENCY)}: there is no table to predict it from; make "
                    "one by pantheon latency build, and say latency: {table: FILE}"
                )
        return None
    try:
        return Predictor.load(settings.latency.table, other=settings.latency.other_device)
    except (ConfigError, MismatchError) as error:
        raise type(error)(f"{settings.latency.where('table')}: {error}") from error


def latency_by(predictor: Predictor | None, inputs: Any) -> Callable[[nn.Module], float] | None:
    """A function that tells a model's latency in milliseconds, if there is a table.

    Args:
        inputs: as many samples as the table is of, or more, on the CPU.
    """
    if predictor is None:
        return None
    some = slice_rows(inputs, 0, predictor.table.conditions.batch)
    return lambda model: predictor.predict(model, some).milliseconds
