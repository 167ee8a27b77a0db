"""``package.module:function``: finding the code that the user's own configuration names."""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pantheon.errors import ConfigError, PantheonError


def resolve(reference: str, where: str = "") -> Callable[..., Any]:
    """The function or class that a reference names.

    The folder that the command runs in is searched first, then what is installed.

    Args:
        reference: such as ``"torchvision.models:resnet18"``.
        where: file, line and key, put before messages.

    Raises:
        ConfigError: no such module, the module fails to import, it has no such name, or what it
            has cannot be called.

    Example:
        >>> resolve("math:sqrt")(9)
        3.0
    """
    before = f"{where}: " if where else ""
    name, _, attribute = reference.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    found: Any = _module(name, before)
    for part in attribute.split("."):
        if not hasattr(found, part):
            near = difflib.get_close_matches(part, [n for n in dir(found) if n[0] != "_"], n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"{before}{name} has no {attribute!r}{hint}")
        found = getattr(found, part)
    if not callable(found):
        raise ConfigError(
            f"{before}{reference} is a {type(found).__name__}; expected something to call"
        )
    return found  # type: ignore[no-any-return]  # callable() says so


def _module(name: str, before: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(error.name + ".")):
            raise ConfigError(
                f"{before}there is no module {error.name!r}, neither in {Path.cwd()} nor installed"
            ) from error
        raise ConfigError(
            f"{before}{name} needs the module {error.name!r}, which is not installed"
        ) from error
    except Exception as error:  # the user's module may raise anything
        raise ConfigError(
            f"{before}importing {name} failed with {type(error).__name__}: {error}"
        ) from error


def call(reference: str, arguments: Mapping[str, Any], where: str = "") -> Any:
    """Call what a reference names with keyword arguments.

    Raises:
        ConfigError: the arguments do not fit, or the function raised.

    Example:
        >>> call("fractions:Fraction", {"numerator": 1, "denominator": 2})
        Fraction(1, 2)
    """
    function = resolve(reference, where)
    before = f"{where}: " if where else ""
    try:
        inspect.signature(function).bind(**arguments)
    except TypeError as error:
        raise ConfigError(
            f"{before}{reference}{inspect.signature(function)} cannot be called with "
            f"{dict(arguments)}: {error}"
        ) from error
    except ValueError:  # some built-in classes have no signature to check against
        pass
    try:
        return function(**arguments)
    except PantheonError:
        raise
    except Exception as error:  # the user's function may raise anything
        raise ConfigError(
            f"{before}{reference} raised {type(error).__name__}: {error}; pantheon --debug shows "
            "where"
        ) from error
