"""What a forward pass costs in multiply-accumulates, by one counter that never changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from pantheon.compress.inputs import rows
from pantheon.errors import ConfigError
from pantheon.training.evaluating import evaluating
from pantheon.training.objective import call_student

COUNTER = "torch.utils.flop_counter / 2, math attention"
"""The name of the counter; another one may differ by some percent on the same model."""

_PRODUCTS = frozenset(
    (
        "_cdist_forward",
        "_cudnn_rnn",
        "_int_mm",
        "_trilinear",
        "_weight_int4pack_mm",
        "_weight_int8pack_mm",
        "addbmm",
        "addmv",
        "dot",
        "mkldnn_rnn_layer",
        "mv",
        "vdot",
    )
)
"""Operators of torch that multiply and add, and that the counter takes for nothing."""


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates of one forward pass.

    Args:
        total: of the whole batch.
        rows: how many the batch had, None if the inputs had no tensor.
        modules: of the innermost modules that computed, by path, without what their own parts did;
            ``""`` is the model. A module with several paths goes by its first. The largest only, in
            descending order.
        uncounted: operators that ran, may multiply and have no formula, so that `total` lacks them:
            products of a matrix and a vector, int8 kernels, operators of other libraries.
        counter: `COUNTER`.
    """

    total: int
    rows: int | None
    modules: dict[str, int]
    uncounted: tuple[str, ...]
    counter: str = COUNTER


def macs(model: torch.nn.Module, inputs: Any, *, largest: int = 64) -> Macs:
    """Count the multiply-accumulates of convolutions, matrix products and attention.

    Element-wise operations, normalisation, pooling, softmax and look-ups count 0, a bias too; so
    does what `Macs.uncounted` names. A batch of several rows counts all of them.

    The model runs once, in evaluation mode, and is then in the modes it had. Meanwhile the fused
    kernels that the counter takes for nothing are off in the whole process: let no other thread run
    a model. Both may be on the ``meta`` device, where nothing is computed.

    Args:
        model: a module that runs eagerly; of a compiled one, the module it was made from.
        inputs: its inputs: a mapping by keyword, a tuple or list by position, else the one.
        largest: how many entries of `Macs.modules` to keep.

    Raises:
        ConfigError: `largest` is negative.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
        >>> found = macs(model, torch.zeros(1, 3, 6, 6))
        >>> found.total == 3 * 3 * 3 * 4 * (4 * 4), found.modules, found.uncounted
        (True, {'0': 1728}, ())
    """
    if largest < 0:
        raise ConfigError(f"largest is {largest}; expected how many entries to keep, 0 or more")
    counter, seen = FlopCounterMode(display=False), _Seen()
    # The outer mode sees what the inner one ran: operators after they were taken apart.
    with evaluating(model), unfused(model), seen, counter, _attributed(model, counter) as own:
        call_student(model, inputs)
    return Macs(
        counter.get_total_flops() // 2,
        rows(inputs),
        _halved(own, largest),
        tuple(sorted(seen.names)),
    )


@contextmanager
def unfused(model: torch.nn.Module) -> Iterator[None]:
    """Attention, transformer layers and recurrent layers as the matrix products they consist of.

    For the whole process; what was set before comes back, whatever happens. The libraries that fuse
    recurrent layers also speed up convolutions, so they are off only for a model that has such
    layers.

    Example:
        >>> with unfused(torch.nn.Linear(1, 1)):
        ...     torch.backends.mha.get_fastpath_enabled()
        False
    """
    recurrent = any(isinstance(module, torch.nn.RNNBase) for module in model.modules())
    fast = torch.backends.mha.get_fastpath_enabled()
    libraries: list[Any] = [torch.backends.mkldnn, torch.backends.cudnn] if recurrent else []
    were = [library.enabled for library in libraries]
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        for library in libraries:
            library.enabled = False
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for library, was in zip(libraries, were, strict=True):
            library.enabled = was


class _Seen(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The names of operators that ran and have no formula though they may multiply."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().partition(".")[0]
        if not name.startswith(("aten::", "prim::")) or name.removeprefix("aten::") in _PRODUCTS:
            self.names.add(name)
        return func(*args, **(kwargs or {}))


@contextmanager
def _attributed(model: torch.nn.Module, counter: FlopCounterMode) -> Iterator[Counter[str]]:
    """What each module adds to a counter while its forward runs, less what modules within it add.

    The counter's own tally by module is not used: it books a module that two others share to one of
    them and its forward to the other.
    """
    own: Counter[str] = Counter()
    stack, last = [""], 0

    def book() -> None:
        nonlocal last
        total = counter.get_total_flops()
        own[stack[-1]] += total - last
        last = total

    def enter(path: str, *_: object) -> None:
        book()
        stack.append(path)

    def leave(*_: object) -> None:
        book()
        stack.pop()

    handles = []
    for path, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(partial(enter, path)))
        handles.append(module.register_forward_hook(leave))
    try:
        yield own
        book()
    finally:
        for handle in handles:
            handle.remove()


def _halved(flops: Mapping[str, int], largest: int) -> dict[str, int]:
    """The largest entries, in descending order, as multiply-accumulates."""
    ordered = sorted(flops.items(), key=lambda item: -item[1])
    return {path: count // 2 for path, count in ordered[:largest] if count}
