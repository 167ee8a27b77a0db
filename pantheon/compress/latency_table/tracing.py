"""The calls of torch that one forward pass consists of, and who reads whose answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from pantheon.compress.inputs import tensors
from pantheon.compress.macs import unfused
from pantheon.training.evaluating import evaluating
from pantheon.training.objective import call_student


@dataclass(frozen=True, slots=True)
class Call:
    """A call of an operation of torch.

    Args:
        name: of the operation, such as ``"convolution"``; without its library if that is torch's.
        args: by the names of its schema.
        reads: numbers of the earlier calls whose answers it is given; that of the model's input is
            ``-1``.
        shape: of its answer, the first tensor of several.
    """

    name: str
    args: Mapping[str, Any]
    reads: tuple[int, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Trace:
    """The calls of one forward pass.

    Args:
        calls: in order; those that the inputs have no part in are left out.
        answers: numbers of the calls whose answers the model returns.
    """

    calls: tuple[Call, ...]
    answers: tuple[int, ...]


def traced(model: torch.nn.Module, inputs: Any) -> Trace:
    """Run a model once and note what it calls.

    In evaluation mode, with attention and recurrent layers as the products that they consist of,
    as an exported file has them.

    Args:
        model: a module that runs eagerly.
        inputs: a mapping goes in by keyword, a tuple or list by position, else the one.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU())
        >>> [(call.name, call.reads) for call in traced(model, torch.zeros(1, 2)).calls]
        [('addmm', (-1,)), ('relu', (0,))]
    """
    recorder = _Recorder(inputs)
    with evaluating(model), unfused(model), recorder:
        answer = call_student(model, inputs)
    found = dict.fromkeys(recorder.made[id(t)] for t in tensors(answer) if id(t) in recorder.made)
    return Trace(tuple(recorder.calls), tuple(found))


class _Recorder(TorchDispatchMode):
    """Notes calls that depend on the inputs.

    Args:
        inputs: of the model.
    """

    supports_higher_order_operators = True

    def __init__(self, inputs: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[Call] = []
        self.made: dict[int, int] = {id(tensor): -1 for tensor in tensors(inputs)}
        self._alive: list[Any] = []  # An id is a tensor's own only as long as that is there.

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        answer = func(*args, **(kwargs or {}))
        reads = tuple(self.made[id(t)] for t in _within((args, kwargs)) if id(t) in self.made)
        answers = [*_within(answer)]
        if not reads or not answers:
            return answer
        names = [argument.name for argument in func._schema.arguments]
        named = dict(zip(names, args, strict=False)) | (kwargs or {})
        name = func.name().partition(".")[0].removeprefix("aten::")
        name = name.removesuffix("_") if name[-2:] != "__" else name
        for tensor in answers:
            self.made[id(tensor)] = len(self.calls)
        self._alive.append(answer)
        self.calls.append(Call(name, _told(named), reads, tuple(answers[0].shape)))
        return answer


def _within(value: Any) -> Iterator[Tensor]:
    return (leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor))


def _told(named: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments with shapes in place of tensors."""
    return {name: pytree.tree_map_only(Tensor, _shape, value) for name, value in named.items()}


def _shape(tensor: Tensor) -> torch.Size:
    return tensor.shape
