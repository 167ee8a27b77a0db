"""A model's graph as torch.export sees it, and what is asked of its nodes."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from pantheon.compress.inputs import called
from pantheon.errors import CompressionError
from pantheon.training.evaluating import evaluating


def exported(model: nn.Module, inputs: Any) -> torch.export.ExportedProgram:
    """The graph of a model in evaluation mode.

    Args:
        model: is not changed.
        inputs: a tensor; or a tuple, list or mapping of the model's arguments.

    Raises:
        CompressionError: torch.export cannot follow the model.

    Example:
        >>> program = exported(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), torch.ones(1, 2))
        >>> [(op_of(n), path_of(n)) for n in program.graph.nodes if n.op == "call_function"]
        [('linear', '0'), ('relu', '1')]
    """
    args, kwargs = bound(model, *called(inputs))
    try:
        with evaluating(model), warnings.catch_warnings(), _entered(model) as paths:
            warnings.simplefilter("ignore")  # of the exporter about its own insides
            return torch.export.export(model, args, kwargs)
    except Exception as error:  # whatever it meets in a model that it does not know
        told = next((line for line in str(error).splitlines() if line.strip()), "")
        within = f" within {paths[-1]!r}" if paths else ""
        raise CompressionError(
            f"torch.export cannot follow the {type(model).__name__}{within}: "
            f"{type(error).__name__}: {told}"
        ) from error


@contextmanager
def _entered(model: nn.Module) -> Iterator[list[str]]:
    """Paths of the modules whose code runs, from the outermost; stays where one failed."""
    paths: list[str] = []

    def leave(*_: object) -> None:
        paths.pop()

    handles = []
    for path, module in model.named_modules():
        if path:
            handles.append(module.register_forward_pre_hook(lambda *_, p=path: paths.append(p)))
            handles.append(module.register_forward_hook(leave))
    try:
        yield paths
    finally:
        for handle in handles:
            handle.remove()


def bound(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The same arguments in the order of the model's signature, however they were given.

    Example:
        >>> class Two(nn.Module):
        ...     def forward(self, left, right):
        ...         return left - right
        >>> bound(Two(), (), {"right": 2, "left": 1})
        ((1, 2), {})
    """
    try:
        found = inspect.signature(model.forward).bind(*args, **kwargs)
    except (TypeError, ValueError):  # The model's own error is better than one of ours.
        return args, dict(kwargs)
    return found.args, found.kwargs


def floats(node: Node) -> bool:
    """Whether a node answers real numbers, in a tensor or in several."""
    value = node.meta.get("val")
    every = value if isinstance(value, tuple | list) and value else [value]
    return all(isinstance(each, Tensor) and each.is_floating_point() for each in every)


SAME = {
    "concat": "cat",
    "concatenate": "cat",
    "radd": "add",
    "iadd": "add",
    "rmul": "mul",
    "imul": "mul",
    "truediv": "div",
    "itruediv": "div",
    "isub": "sub",
}
"""Functions of PyTorch by another name than the operation that they come to."""


def plain_name(name: str) -> str:
    """An operation's name, whether it is in place, an operator, or what it comes to.

    Example:
        >>> plain_name("__iadd__"), plain_name("relu_"), plain_name("upsample_nearest2d")
        ('add', 'relu', 'interpolate')
    """
    name = name.strip("_")
    return "interpolate" if name.startswith("upsample_") else SAME.get(name, name)


def op_of(node: Node) -> str:
    """The operation's name, such as ``"conv2d"``; that of an input is empty."""
    if node.op != "call_function":
        return ""
    name = getattr(node.target, "_opname", None) or getattr(node.target, "__name__", "")
    return plain_name(str(name))


def path_of(node: Node) -> str:
    """The path of the module whose code calls it; empty for the model itself."""
    stack = node.meta.get("nn_module_stack") or {}
    return re.sub(r"@\d+$", "", str(list(stack.values())[-1][0])) if stack else ""
