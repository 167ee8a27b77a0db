"""A model as it is when it answers: in evaluation mode, without gradients, then as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Put a module into evaluation mode, and each of its parts back into the mode it had.

    Gradients are off in this thread meanwhile. It is `torch.no_grad` and no inference mode, because
    what a module keeps from an inference (a table of positions) could not be trained with later.

    Args:
        model: a module; for another callable only gradients are off.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Dropout().eval())
        >>> with evaluating(model):
        ...     modes = [module.training for module in model]
        >>> modes, [module.training for module in model]
        ([False, False], [True, False])
    """
    modules = list(model.modules()) if isinstance(model, torch.nn.Module) else []
    modes = [module.training for module in modules]
    try:
        with torch.no_grad():
            if any(modes):
                model.eval()
            yield
    finally:
        # First as its author means it, for modules that change more than the flag, then exactly.
        if any(modes):
            model.train(modes[0])
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
