"""Undoing a change of a model's structure that failed half-way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pantheon.paths import tensors_of

Container = dict[Any, Any] | set[Any] | list[Any]


@dataclass(slots=True)
class Undoing:
    """What became of a change.

    Args:
        complete: nothing of it is left; False once tensors were written into before it failed.
    """

    complete: bool = True


@contextmanager
def undone(model: nn.Module) -> Iterator[Undoing]:
    """Where the body raises, give all modules the attributes, tensors and children they had.

    The values inside tensors are not kept: the body must replace tensors, not write into them. If
    it did, what it was given says so.

    Example:
        >>> model = nn.Sequential(nn.ReLU(), nn.Tanh())
        >>> try:
        ...     with undone(model) as undoing:
        ...         model[0] = nn.GELU()
        ...         model[2] = nn.GELU()
        ... except IndexError:
        ...     print(model[0], undoing.complete)
        ReLU() True
    """
    before = [(m, type(m), dict(vars(m)), _contents(m)) for m in model.modules()]
    tensors = [tensor for m in model.modules() for tensor in tensors_of(m).values()]
    marks = [_mark(tensor) for tensor in tensors]
    undoing = Undoing()
    try:
        yield undoing
    except BaseException:
        for module, kind, attributes, contents in before:
            module.__class__ = kind
            vars(module).clear()
            vars(module).update(attributes)
            for container, held in contents:
                _refill(container, held)
        undoing.complete = marks == [_mark(tensor) for tensor in tensors]
        raise


def _contents(module: nn.Module) -> list[tuple[Container, Container]]:
    """What holds a module's parameters, buffers, children and hooks, each with a copy of it."""
    held = [value for value in vars(module).values() if isinstance(value, dict | set | list)]
    return [(value, value.copy()) for value in held]


def _refill(container: Container, held: Any) -> None:
    """Put back what a container held: the same container, because handles of hooks know theirs."""
    container.clear()
    if isinstance(container, list):
        container.extend(held)
    else:
        container.update(held)


def _mark(tensor: Tensor) -> tuple[Any, ...]:
    """Another one after a change in place that PyTorch counts, and of other memory."""
    if is_lazy(tensor):
        return ()
    version = None if tensor.is_inference() else tensor._version
    return version, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype
