"""Undoing a change of a model's structure that failed half-way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def undone(model: nn.Module) -> Iterator[None]:
    """Where the body raises, give all modules the attributes, tensors and children they had.

    The values inside tensors are not kept: the body must replace tensors, not write into them.

    Example:
        >>> model = nn.Sequential(nn.ReLU(), nn.Tanh())
        >>> try:
        ...     with undone(model):
        ...         model[0] = nn.GELU()
        ...         model[2] = nn.GELU()
        ... except IndexError:
        ...     print(model[0])
        ReLU()
    """
    before = [(module, type(module), _copied(module)) for module in model.modules()]
    try:
        yield
    except BaseException:
        for module, kind, attributes in before:
            module.__class__ = kind
            module.__dict__.clear()
            module.__dict__.update(attributes)
        raise


def _copied(module: nn.Module) -> dict[str, Any]:
    """A module's attributes; those that hold its parameters, buffers, children and hooks copied."""
    return {
        name: value.copy() if isinstance(value, dict | set | list) else value
        for name, value in module.__dict__.items()
    }
