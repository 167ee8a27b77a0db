"""A package's public names, imported when they are first used."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def lazily(
    package: str, homes: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """A package's ``__getattr__`` and ``__dir__``, so that importing it imports nothing else.

    Args:
        package: its ``__name__``.
        homes: names by the module of the package that has them.

    Example:
        >>> get, names = lazily("pantheon", {"sampling.order": ("permute",)})
        >>> get("permute").__module__, "permute" in names()
        ('pantheon.sampling.order', True)
    """
    home_of = {name: home for home, names in homes.items() for name in names}

    def get(name: str) -> Any:
        if name not in home_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{home_of[name]}"), name)

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *home_of})

    return get, names
