"""What is known of a model's inputs without running it: how many rows, and where they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from pantheon.scoring.calling import own_device


def tensors(inputs: Any) -> Iterator[Tensor]:
    """The tensors in mappings, lists and tuples, in order."""
    if isinstance(inputs, Tensor):
        yield inputs
    elif isinstance(inputs, Mapping):
        yield from tensors(list(inputs.values()))
    elif isinstance(inputs, list | tuple):
        for value in inputs:
            yield from tensors(value)


def rows(inputs: Any) -> int | None:
    """The length of the first tensor that has a dimension; None without one.

    >>> import torch
    >>> rows({"scale": torch.tensor(2.0), "images": torch.zeros(8, 3, 4, 4)})
    8
    """
    return next((len(tensor) for tensor in tensors(inputs) if tensor.ndim), None)


def device(model: Any, inputs: Any) -> str:
    """Where the first tensor is; where the model's weights are if there is none.

    >>> device(None, ())
    'cpu'
    """
    first = next(tensors(inputs), None)
    return str(own_device(model) if first is None else first.device)
