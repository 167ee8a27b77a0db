"""Parts of a model by the paths that `named_modules` gives them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase

from torch import Tensor, nn

from pantheon.errors import ConfigError
from pantheon.quote import near, quoted


def matching(pattern: str, paths: Iterable[str], key: str) -> set[str]:
    """The paths that a pattern matches, as a shell would.

    Raises:
        ConfigError: it matches none; names the nearest.

    Example:
        >>> sorted(matching("blocks.*.conv", ["stem", "blocks.0.conv", "blocks.1.conv"], "keep"))
        ['blocks.0.conv', 'blocks.1.conv']
    """
    every = list(paths)
    found = {path for path in every if fnmatchcase(path, pattern)}
    if not found:
        raise ConfigError(f"{key}: no layer matches {pattern!r}{near(pattern, every)}")
    return found


def paths_matching(patterns: Collection[str], paths: Iterable[str], key: str) -> set[str]:
    """The paths that any of some patterns matches; each must match one."""
    every = list(paths)
    return {path for pattern in patterns for path in matching(pattern, every, key)}


def module_at(model: nn.Module, path: str) -> nn.Module:
    """The module at a path, the model itself for ``""``.

    Only registered children are found, whatever other attributes the path may spell.

    Raises:
        ConfigError: there is none; the nearest paths are named.

    Example:
        >>> module_at(nn.Sequential(nn.Linear(2, 3)), "0")
        Linear(in_features=2, out_features=3, bias=True)
    """
    modules: dict[str, nn.Module] = dict(model.named_modules(remove_duplicate=False))
    if path not in modules:
        named = [name for name in modules if name]
        hint = near(path, named) or f"; it has {', '.join(named[:20]) or 'no modules inside'}"
        raise ConfigError(f"{type(model).__name__} has no module {quoted(path)}{hint}")
    return modules[path]


def tensor_at(model: nn.Module, path: str) -> tuple[nn.Module, str]:
    """The owner and the name in it of the parameter or buffer at a path.

    Raises:
        ConfigError: there is none; the nearest paths are named.

    Example:
        >>> tensor_at(nn.Sequential(nn.Linear(2, 3)), "0.bias")
        (Linear(in_features=2, out_features=3, bias=True), 'bias')
    """
    owner, _, name = path.rpartition(".")
    modules: dict[str, nn.Module] = dict(model.named_modules(remove_duplicate=False))
    if owner in modules and tensor_of(modules[owner], name) is not None:
        return modules[owner], name
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    names += [name for name, _ in model.named_buffers(remove_duplicate=False)]
    raise ConfigError(
        f"{type(model).__name__} has no parameter or buffer {quoted(path)}{near(path, names)}"
    )


def tensor_of(module: nn.Module, name: str) -> Tensor | None:
    """A module's own parameter or buffer, None where it has none of this name."""
    found = module._parameters.get(name)
    return module._buffers.get(name) if found is None else found


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """A module's own parameters and buffers by name, without those of its children."""
    every = {**module._parameters, **module._buffers}
    return {name: tensor for name, tensor in every.items() if tensor is not None}
