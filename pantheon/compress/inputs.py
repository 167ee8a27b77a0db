"""What is known of a model's inputs without running it, and how they are handed on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pantheon.sampling.reading import slice_rows
from pantheon.scoring.calling import own_device
from pantheon.stream import Batch


def tensors(inputs: Any) -> Iterator[Tensor]:
    """The tensors in mappings, lists and tuples, in order."""
    if isinstance(inputs, Tensor):
        yield inputs
    elif isinstance(inputs, Mapping):
        yield from tensors(list(inputs.values()))
    elif isinstance(inputs, list | tuple):
        for value in inputs:
            yield from tensors(value)


def unpadded(stream: Iterable[Batch], device: str) -> Iterator[tuple[Any, int]]:
    """Each batch's inputs without the rows that pad it, on a device, and how many rows are left.

    >>> import torch
    >>> from types import SimpleNamespace
    >>> batch = SimpleNamespace(inputs=torch.tensor([1, 2, 0]), mask=torch.tensor([1, 1, 0]) > 0)
    >>> batch.to = lambda device: batch
    >>> list(unpadded([batch], "cpu"))
    [(tensor([1, 2]), 2)]
    """
    for batch in stream:
        batch = batch.to(torch.device(device))
        count = int(batch.mask.sum())  # Padding comes last.
        if count:
            yield slice_rows(batch.inputs, 0, count), count


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


def called(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a model is called with: mappings by keyword, tuples and lists by position.

    >>> called({"left": 1}), called([1, 2]), called(1)
    (((), {'left': 1}), ((1, 2), {}), ((1,), {}))
    """
    match inputs:
        case Mapping():
            return (), dict(inputs)
        case tuple() | list():
            return tuple(inputs), {}
    return (inputs,), {}


def fed(inputs: Any, names: Sequence[str]) -> dict[str, Any]:
    """Arrays for a runtime's inputs: by name where these have names, else in their order.

    >>> import torch
    >>> list(fed({"right": torch.ones(1), "left": torch.ones(1)}, ["left", "right"]))
    ['left', 'right']
    """
    args, kwargs = called(inputs)
    if set(kwargs) != set(names):
        kwargs = dict(zip(names, (*args, *kwargs.values()), strict=True))
    return {name: kwargs[name].detach().cpu().numpy() for name in names}
