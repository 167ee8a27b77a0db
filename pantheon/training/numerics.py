"""How a step is computed: precision, memory layout, compilation, and the bound of the gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from pantheon.errors import ConfigError
from pantheon.training.learner import Learner, Outputs
from pantheon.training.objective import call_student
from pantheon.training.settings import TrainingSettings


class Numerics:
    """The forward, the backward and the update of a step, as some settings ask for them.

    Args:
        settings: what they ask for.
        model: what is trained; laid out in memory as they say.
        device: where.

    Attributes:
        scaler: of float16's gradients, a part of checkpoints; else None.

    Raises:
        ConfigError: float16 on the CPU, or a compiled model whose layers are tapped.
    """

    def __init__(self, settings: TrainingSettings, model: nn.Module, device: torch.device) -> None:
        self.settings, self.device = settings, device
        half = settings.precision == "float16"
        if half and device.type == "cpu":
            raise ConfigError(
                "precision is float16, and the model is on the CPU, where gradients cannot be "
                "scaled; use bfloat16 or float32, or a GPU"
            )
        self.scaler = torch.amp.GradScaler(device.type) if half else None
        self._compiled = compiled(model) if settings.compile else None
        if settings.channels_last:
            lay_out(model, torch.channels_last)

    def forward(self, model: nn.Module, inputs: Any) -> Any:
        """The model's outputs, those of a lower precision made float32."""
        if self.settings.channels_last:
            inputs = _over(inputs, _as_image)
        with self._cast():
            outputs = call_student(model if self._compiled is None else self._compiled, inputs)
        return outputs if self.settings.precision == "float32" else _over(outputs, _as_float32)

    def _cast(self) -> AbstractContextManager[Any]:
        if self.settings.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, getattr(torch, self.settings.precision))

    def backward(self, loss: Tensor) -> None:
        """Add the loss's gradients to those that are there."""
        loss = loss if self.scaler is None else self.scaler.scale(loss)
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it

    def update(self, optimizer: torch.optim.Optimizer) -> None:
        """Step, with gradients that are within the bound; float16 leaves out infinite ones."""
        if self.scaler is not None:
            self.scaler.unscale_(optimizer)
        if self.settings.clip_norm is not None:
            every = [p for group in optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(every, self.settings.clip_norm)
        if self.scaler is None:
            optimizer.step()
        else:
            self.scaler.step(optimizer)
            self.scaler.update()

    def settle(self, optimizer: torch.optim.Optimizer) -> None:
        """Lay out what an optimizer has restored as it was, so that kernels add in one order."""
        if not self.settings.channels_last:
            return
        for parameter, state in optimizer.state.items():
            for name, value in state.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)

    def finish(self, *models: nn.Module) -> None:
        """Give models the layout that they have when they are read from a file."""
        if self.settings.channels_last:
            for model in models:
                lay_out(model, torch.contiguous_format)


def compiled(model: nn.Module) -> Callable[..., Any]:
    """The model through `torch.compile`, which leaves the model itself as it is.

    Every shape is compiled for itself: what one run has seen before the other, such as one that
    was resumed, would else decide which kernels it uses.
    """
    if not isinstance(model, Learner):
        return torch.compile(model, dynamic=False)
    if model.taps.paths:
        raise ConfigError(
            f"compile is true, and losses look at the layers {', '.join(model.taps.paths)}, which "
            "a compiled model does not show; leave out compile, or compare outputs"
        )
    model.compiled = tuple(
        torch.compile(student, dynamic=False) for student in (model.student, *model.peers)
    )
    return model


def lay_out(model: nn.Module, memory_format: torch.memory_format) -> None:
    """Put a model's 4-D parameters and buffers into a memory format, in place."""
    model.to(memory_format=memory_format)  # type: ignore[call-overload]  # torch's stub lacks it


def _as_image(value: Tensor) -> Tensor:
    if value.dim() == 4 and value.is_floating_point():
        return value.contiguous(memory_format=torch.channels_last)
    return value


def _as_float32(value: Tensor) -> Tensor:
    return value.float() if value.dtype in (torch.bfloat16, torch.float16) else value


def _over(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """`value` with its tensors changed, however they are nested."""
    match value:
        case Tensor():
            return change(value)
        case Outputs():
            layers, peers = _over(value.layers, change), _over(value.peers, change)
            return Outputs(_over(value.output, change), layers, peers)
        case MutableMapping():
            made = copy.copy(value)  # of its own type, such as a ModelOutput of transformers
            for key, item in value.items():
                made[key] = _over(item, change)
            return made
        case Mapping():
            return {key: _over(item, change) for key, item in value.items()}
        case tuple() | list():
            items = [_over(item, change) for item in value]
            return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value
