"""Taps: the outputs of a model's inner modules, by module path."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn

from pantheon.errors import ModelError
from pantheon.paths import module_at


class Taps:
    """Keeps what some modules of a model return during one call.

    They are looked up by path at every call and leave nothing behind, so that they go on working
    after modules were pruned, quantized or replaced, in copies and in other processes.

    Args:
        paths: module paths.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Flatten())
        >>> output, found = Taps(["1"]).call(net, lambda: net(torch.ones(1, 2)))
        >>> torch.equal(found["1"], output)
        True
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self.paths = tuple(dict.fromkeys(paths))

    def call(self, model: nn.Module, run: Callable[[], Any]) -> tuple[Any, dict[str, Tensor]]:
        """What `run` answers, which calls the model, and the modules' outputs by path.

        A module that returns a tuple or list counts with the first of it, as transformers' blocks
        do.

        Raises:
            ConfigError: no module at a path.
            ModelError: a module that did not run, ran twice, or returned no tensor.
        """
        found: dict[str, Tensor] = {}
        hooks = [
            module_at(model, path).register_forward_hook(_keeping(path, found))
            for path in self.paths
        ]
        try:
            output = run()
        finally:
            for hook in hooks:
                hook.remove()
        for path in self.paths:
            if path not in found:
                raise ModelError(
                    f"module {path!r} did not run in the model's forward; name one that does"
                )
        return output, found


def _keeping(path: str, found: dict[str, Tensor]) -> Callable[[nn.Module, Any, Any], None]:
    def keep(module: nn.Module, args: Any, output: Any) -> None:
        if path in found:
            raise ModelError(
                f"module {path!r} ran twice in one forward; name a module that runs once"
            )
        first = output[0] if isinstance(output, tuple | list) else output
        if not isinstance(first, Tensor):
            raise ModelError(
                f"module {path!r} returns a {type(first).__name__}; expected a tensor, or a tuple "
                "that begins with one"
            )
        found[path] = first

    return keep
