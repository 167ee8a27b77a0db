"""Which devices a teacher's model runs on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch

from pantheon.errors import ConfigError
from pantheon.scoring.calling import own_device

Devices = int | Literal["auto"] | Sequence[str]


def device_names(devices: Devices, model: Any = None, device: Any = None) -> list[str]:
    """The devices meant by ``devices=``.

    Args:
        devices: 1 for the model's own device; a larger number for that many GPUs, or CPU processes
            on a machine without one; ``"auto"`` for all GPUs; or their names.
        model: asked for its device.
        device: a single device's name, which stands above ``devices=1``.

    Raises:
        ConfigError: not a device of this machine, or none at all.

    Example:
        >>> device_names(["cpu", "cpu"]), device_names(1)
        (['cpu', 'cpu'], ['cpu'])
    """
    if device is not None:
        if devices != 1:
            raise ConfigError(f"device={device!r} and devices={devices!r}: give one of them")
        return [_checked(str(device))]
    gpus = torch.cuda.device_count()
    if devices == "auto":
        return [f"cuda:{i}" for i in range(gpus)] or ["cpu"]
    if isinstance(devices, str) or not devices:
        raise ConfigError(f"devices={devices!r}; expected a number, 'auto' or a list of names")
    if not isinstance(devices, int):
        return [_checked(str(name)) for name in devices]
    if devices == 1:
        return [str(own_device(model))]
    if devices < 1 or (gpus and devices > gpus):
        raise ConfigError(f"devices={devices}; this machine has {gpus or 'no'} GPUs")
    return [f"cuda:{i}" for i in range(devices)] if gpus else ["cpu"] * devices


def _checked(name: str) -> str:
    """A device name that torch knows and this machine has."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"{name!r} is no device: {str(error).splitlines()[0]}") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"{name!r} is not on this machine, which has {torch.cuda.device_count()} GPUs"
        )
    return str(device)
