"""Whether channels arrive where they are said to go, and where in a model something went wrong."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pantheon.compress.prune.coupling import Rows
from pantheon.training.evaluating import evaluating
from pantheon.training.objective import call_student

CHANGE = 0.01
"""By how much channels are changed: a fraction of the largest value of their layer."""


class Passage:
    """What becomes of a unit on the way from the layers that make it to those that read it.

    The model is run once as it is, and again for every question. Then all layers that make channels
    answer what they answered first, but for the unit, which is changed: what arrives at a reader
    has passed the operations between and no other layer. Where the unit's own place changes less
    than another one, an operation moved or mixed the channels, and without the unit the reader
    would be given others than it has learned to read.

    Args:
        model: as it is traced; in evaluation mode meanwhile.
        inputs: a tensor; or a tuple, list or mapping of the model's arguments.
        layers: paths of the layers that make channels.

    Example:
        >>> class Turned(nn.Sequential):
        ...     def forward(self, x):
        ...         return self[1](self[0](x).flip(1))
        >>> net = Turned(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1))
        >>> every = range(4)
        >>> passage = Passage(net, torch.ones(1, 3, 2, 2), ["0", "1"])
        >>> passage.astray([Rows("0", every, every)], [Rows("1", every, every)], unit=1)
        '1'
    """

    def __init__(self, model: nn.Module, inputs: Any, layers: Iterable[str]) -> None:
        self._model, self._inputs, self._layers = model, inputs, list(layers)
        self._first = _Run()
        self._go(self._first)

    def astray(self, makers: Sequence[Rows], readers: Sequence[Rows], unit: int) -> str | None:
        """The first reader at which a unit does not arrive where it is said to; None for none."""
        changes = {
            rows.path: [i for i, u in zip(rows.indices, rows.units, strict=True) if u == unit]
            for rows in makers
        }
        run = _Run(self._first.made, changes)
        self._go(run)
        for rows in readers:
            found = self._change(run, rows)
            others = [change for each, change in found.items() if each != unit]
            if others and max(others) > found.get(unit, 0.0) * 1.01:
                return rows.path
        return None

    def _change(self, run: _Run, rows: Rows) -> dict[int, float]:
        """By how much each unit's places at a reader have changed, in all."""
        found: dict[int, float] = defaultdict(float)
        before, after = self._first.read.get(rows.path, []), run.read.get(rows.path, [])
        for old, new in zip(before, after, strict=False):
            if old.shape != new.shape:
                continue  # It chose another way.
            dim = _channel_dim(self._model.get_submodule(rows.path), old)
            apart = (new - old).abs().movedim(dim, 0).flatten(1)
            sums = apart.sum(1, dtype=torch.float64).tolist()
            for index, unit in zip(rows.indices, rows.units, strict=True):
                found[unit] += sums[index]
        return found

    def _go(self, run: _Run) -> None:
        handles = []
        try:
            for path in self._layers:
                layer = self._model.get_submodule(path)
                handles += [
                    layer.register_forward_pre_hook(run.reading(path), with_kwargs=True),
                    layer.register_forward_hook(run.making(path)),
                ]
            with evaluating(self._model), torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                call_student(self._model, self._inputs)
        finally:
            for handle in handles:
                handle.remove()


@dataclass(slots=True)
class _Run:
    """What layers read and made, call by call; what they make may be given, and changed.

    Args:
        given: by path, what they answer in place of what they compute.
        changes: by path, the channels of it that are changed.
    """

    given: Mapping[str, Sequence[Tensor]] = field(default_factory=dict)
    changes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    read: dict[str, list[Tensor]] = field(default_factory=lambda: defaultdict(list))
    made: dict[str, list[Tensor]] = field(default_factory=lambda: defaultdict(list))
    _calls: Counter[str] = field(default_factory=Counter)

    def reading(self, path: str) -> Callable[..., None]:
        """A hook that keeps what a layer reads."""

        def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
            found = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
            if found and found[0].is_floating_point():
                # A copy, as an operation in place may come.
                self.read[path].append(found[0].detach().clone())

        return hook

    def making(self, path: str) -> Callable[..., Tensor | None]:
        """A hook that keeps what a layer makes, or replaces it by what is given."""

        def hook(layer: nn.Module, args: tuple[Any, ...], output: Any) -> Tensor | None:
            if not self.given:
                self.made[path].append(output.detach().clone())
                return None
            number, given = self._calls[path], self.given.get(path, ())
            self._calls[path] += 1
            if number >= len(given) or given[number].shape != output.shape:
                return None
            answer = given[number].clone()
            if (indices := self.changes.get(path)) and answer.numel():
                change = CHANGE * answer.abs().max().clamp(min=1e-3)
                answer.movedim(_channel_dim(layer, answer), 0)[indices] += change
            return answer

        return hook


def _channel_dim(layer: nn.Module, tensor: Tensor) -> int:
    """The dimension of channels in what a layer reads or makes."""
    if isinstance(layer, nn.modules.conv._ConvNd):
        return tensor.ndim - len(layer.kernel_size) - 1
    return tensor.ndim - 1


@contextmanager
def naming(model: nn.Module) -> Iterator[list[str]]:
    """The path and class of the module that is at work; of the one that failed, after an error.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.Linear(4, 2))
        >>> with naming(net) as at:
        ...     try:
        ...         net(torch.ones(1, 2))
        ...     except RuntimeError:
        ...         print(at[-1])
        '1' (Linear)
    """
    at: list[str] = []
    handles = []
    for path, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue  # It takes no hooks; its caller is named.
        told = f"{path!r} ({type(module).__name__})" if path else f"the {type(module).__name__}"
        handles += [
            module.register_forward_pre_hook(lambda *_, told=told: at.append(told)),
            module.register_forward_hook(lambda *_: at.pop() and None),
        ]
    try:
        yield at
    finally:
        for handle in handles:
            handle.remove()


def ends_of_trace(model: nn.Module, inputs: Any, paths: Iterable[str]) -> dict[str, str]:
    """Which operation keeps what layers make from being followed to the model's answer.

    Args:
        model: whose weights need gradients, which are what is followed.
        paths: of layers that have no part in the answer's gradients.

    Returns:
        By path, the first operation after the layer whose answer has no gradients though what it
        was given has; layers that are not called, or meet none, are left out.

    Example:
        >>> class Cut(nn.Sequential):
        ...     def forward(self, x):
        ...         return self[1](self[0](x).detach())
        >>> net = Cut(nn.Linear(2, 3), nn.Linear(3, 2))
        >>> ends_of_trace(net, torch.ones(1, 2), ["0"])
        {'0': 'detach in the Cut'}
    """
    called: dict[str, int] = {}
    with naming(model) as at, torch.enable_grad(), _Ends(at) as ends:

        def note(layer: nn.Module, args: Any, path: str) -> None:
            called.setdefault(path, len(ends.found))

        handles = [
            model.get_submodule(path).register_forward_pre_hook(partial(note, path=path))
            for path in paths
        ]
        try:
            call_student(model, inputs)
        finally:
            for handle in handles:
                handle.remove()
    return {p: ends.found[n] for p, n in called.items() if n < len(ends.found)}


class _Ends(TorchFunctionMode):
    """Notes operations that have gradients in what they are given and none in their answer."""

    def __init__(self, at: Sequence[str]) -> None:
        super().__init__()
        self.at, self.found = at, list[str]()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        answer = func(*args, **(kwargs or {}))
        given = [x for x in args if isinstance(x, Tensor) and x.is_floating_point()]
        ended = isinstance(answer, Tensor) and answer.is_floating_point() and answer.grad_fn is None
        if ended and not answer.requires_grad and any(x.requires_grad for x in given):
            name = getattr(func, "__name__", str(func))
            self.found.append(f"{name} in {self.at[-1] if self.at else 'the model'}")
        return answer
