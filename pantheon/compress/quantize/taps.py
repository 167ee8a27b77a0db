"""Having tensors inside a model pass modules of our own; its code, paths and hooks stay."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from pantheon.compress.quantize.graph import bound, plain_name
from pantheon.compress.quantize.spots import INPUT, Site
from pantheon.errors import ConfigError
from pantheon.paths import module_at

HOLDER = "quantizers"
"""The name of the part of a model that holds the modules."""

OURS, PATH = "_quantizers", "_quantizers_path"
"""Attributes of the modules of a model: the holder, and the module's path."""


class Taps(nn.Module):
    """Modules that tensors of another model pass, by where they are made.

    Made by `tap`, which puts it into that model as ``quantizers``.

    Args:
        sites: of each module, those whose tensors pass it.
        each: the modules, in the same order; they are called with a float tensor and answer one of
            the same shape.

    Attributes:
        reached: the sites that were met so far.
    """

    def __init__(self, sites: Sequence[Sequence[Site]], each: Sequence[nn.Module]) -> None:
        super().__init__()
        self.each = nn.ModuleList(each)
        self.reached: set[Site] = set()
        self._place = {site: place for place, some in enumerate(sites) for site in some}
        self._calls = {(site.path, site.call) for site in self._place}
        self._functions = any(site.call not in ("", INPUT) for site in self._place)
        # A model may be run by several threads at once.
        self._runs: dict[int, list[_Run]] = {}

    def forward(self, values: Any) -> Any:
        """What it is given: a model that calls its parts one after the other calls this last."""
        return values

    @property
    def sites(self) -> set[Site]:
        """All sites."""
        return set(self._place)

    def places(self) -> list[tuple[Site, ...]]:
        """The sites of each module, in the order of `each`."""
        found: list[list[Site]] = [[] for _ in self.each]
        for site, place in self._place.items():
            found[place].append(site)
        return [tuple(sites) for sites in found]

    def by_site(self) -> dict[Site, nn.Module]:
        """The module of each site."""
        return {site: self.each[place] for site, place in self._place.items()}

    def begin(self) -> None:
        """A run of the model begins in this thread."""
        run = _Run()
        self._runs.setdefault(threading.get_ident(), []).append(run)
        if self._functions:
            run.open.enter_context(_Watching(self))

    def end(self) -> None:
        """It is over, or has failed."""
        runs = self._runs[threading.get_ident()]
        run = runs.pop()
        if not runs:
            del self._runs[threading.get_ident()]
        run.open.close()

    @property
    def run(self) -> _Run | None:
        """The run in this thread; None outside one, as when a part of the model is called."""
        runs = self._runs.get(threading.get_ident())
        return runs[-1] if runs else None

    def passed(self, path: str, call: str, value: Any) -> Any:
        """What goes on in place of what a call has answered."""
        run = self.run
        if run is None or (path, call) not in self._calls or not _real(value):
            return value
        number = run.counts[path, call]
        run.counts[path, call] += 1
        return self.at(Site(path, call, number), value)

    def at(self, site: Site, value: Tensor) -> Tensor:
        """What goes on in place of what a site has made."""
        place = self._place.get(site)
        if place is None:
            return value
        self.reached.add(site)
        with unseen():
            answered: Tensor = self.each[place](value)
        return answered


@dataclass(slots=True)
class _Run:
    """One run of a model: whose code is at work, and what it has called so far."""

    open: ExitStack = field(default_factory=ExitStack)
    stack: list[str] = field(default_factory=lambda: [""])
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    replaced: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def instead(self, tensor: Tensor) -> Tensor:
        """What stands for a tensor that was changed in place."""
        return self.replaced.get(id(tensor), (tensor, tensor))[1]


class _Local(threading.local):
    """What each thread has of its own."""

    unseen = 0


_LOCAL = _Local()


@contextmanager
def unseen() -> Iterator[None]:
    """Calls in the body are ours, and none of the model's."""
    _LOCAL.unseen += 1
    try:
        yield
    finally:
        _LOCAL.unseen -= 1


class _Watching(TorchFunctionMode):
    """Sees each function of PyTorch that the model's code calls."""

    def __init__(self, taps: Taps) -> None:
        super().__init__()
        self._taps = taps

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        run = self._taps.run
        if run is None or _LOCAL.unseen:
            return func(*args, **(kwargs or {}))
        given = args
        if run.replaced:
            args, kwargs = pytree.tree_map_only(Tensor, run.instead, (args, kwargs or {}))
        answer = func(*args, **(kwargs or {}))
        if not _real(answer):
            return answer
        made = self._taps.passed(run.stack[-1], plain_name(getattr(func, "__name__", "")), answer)
        if args and answer is args[0] and (made is not answer or given[0] is not answer):
            # It was changed in place: whoever has it is to go on with what is made of it.
            for tensor in (given[0], answer):
                run.replaced[id(tensor)] = tensor, made
        return made


def tap(model: nn.Module, sites: Sequence[Sequence[Site]], each: Sequence[nn.Module]) -> nn.Module:
    """Have tensors of a model pass modules, in place.

    Args:
        model: has no taps yet.
        sites: of each module, where the tensors are made; see `pantheon.compress.quantize.spots`.
        each: the modules.

    Returns:
        The model.

    Raises:
        ConfigError: it has taps, or a part of that name; or no module at a site's path.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        >>> class Twice(nn.Module):
        ...     def forward(self, x):
        ...         return 2 * x
        >>> with torch.no_grad():
        ...     before = net(torch.ones(1, 2))
        ...     torch.equal(tap(net, [[Site("1")]], [Twice()])(torch.ones(1, 2)), 2 * before)
        True
    """
    if hasattr(model, HOLDER):
        raise ConfigError(
            f"the {type(model).__name__} has a part called {HOLDER!r}: it is quantized already, or "
            "the name has to be another"
        )
    for site in (site for some in sites for site in some):
        module_at(model, site.path)
    taps = Taps(sites, each)
    for path, module in model.named_modules():
        # Past nn.Module, which would take the holder for a part of each.
        vars(module)[OURS], vars(module)[PATH] = taps, path
        if path:
            module.register_forward_pre_hook(_into)
            module.register_forward_hook(_out_of, always_call=True)
    model.register_forward_pre_hook(_begin, with_kwargs=True)
    model.register_forward_hook(_end, always_call=True)
    model.add_module(HOLDER, taps)
    return model


def untap(model: nn.Module) -> nn.Module:
    """Take the taps of a model out again, in place; a model without them is left as it is.

    Example:
        >>> net = tap(nn.Sequential(nn.ReLU()), [[Site("0")]], [nn.Identity()])
        >>> untap(net)
        Sequential(
          (0): ReLU()
        )
    """
    if not isinstance(getattr(model, HOLDER, None), Taps):
        return model
    delattr(model, HOLDER)
    for module in model.modules():
        for name in (OURS, PATH):
            vars(module).pop(name, None)
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for number in [n for n, hook in hooks.items() if hook in HOOKS]:
                del hooks[number]
                for flags in (
                    module._forward_hooks_with_kwargs,
                    module._forward_hooks_always_called,
                    module._forward_pre_hooks_with_kwargs,
                ):
                    flags.pop(number, None)
    return model


def unreached(model: nn.Module) -> set[Site]:
    """The sites that a model's code has not come to in all its runs.

    Example:
        >>> net = tap(nn.Sequential(nn.ReLU()), [[Site("0"), Site("0", "", 1)]], [nn.Identity()])
        >>> unreached(net) == {Site("0"), Site("0", "", 1)}
        True
    """
    taps: Taps = getattr(model, HOLDER)
    return taps.sites - taps.reached


def _real(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


# Hooks are functions of the module that they are given, so that a copy of a model has its own.


def _begin(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, Any]:
    taps: Taps = vars(model)[OURS]
    taps.begin()
    leaves, spec = pytree.tree_flatten(bound(model, args, kwargs))
    made = [taps.at(Site("", INPUT, i), x) if _real(x) else x for i, x in enumerate(leaves)]
    given: tuple[Any, Any] = pytree.tree_unflatten(made, spec)
    return given


def _end(model: nn.Module, args: Any, output: Any) -> None:
    taps: Taps = vars(model)[OURS]
    taps.end()


def _into(module: nn.Module, args: Any) -> None:
    run = vars(module)[OURS].run
    if run is not None:
        run.stack.append(vars(module)[PATH])


def _out_of(module: nn.Module, args: Any, output: Any) -> Any:
    taps: Taps = vars(module)[OURS]
    if taps.run is None:
        return output
    path = taps.run.stack.pop()
    return taps.passed(path, "", output)


HOOKS = (_begin, _end, _into, _out_of)
