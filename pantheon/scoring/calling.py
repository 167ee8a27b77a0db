"""How a model is called with a batch, and kept from training while it serves."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from pantheon.errors import ConfigError, ModelError
from pantheon.paths import module_at


class Model:
    """A module or callable, in evaluation mode, with the outputs of some of its parts.

    A dict batch goes in as keyword arguments where the signature takes them, a tuple as positional
    ones; anything else, and what the signature does not take, as the one argument.

    Args:
        model: the module (``eval()`` is called on it) or callable.
        device: where the module is moved; None leaves it where it is.
        features: field name to module path, such as ``{"mid": "layer3.1"}``.

    Raises:
        ConfigError: features of a bare callable, or a path without a module.
    """

    def __init__(
        self, model: Any, features: Mapping[str, str], device: torch.device | None = None
    ) -> None:
        if not callable(model):
            raise ConfigError(f"a model must be callable, found {type(model).__name__}")
        self.model = model
        self.modules: list[tuple[str, torch.nn.Module]] = []
        self.captured: dict[str, Any] = {}
        self.thread = 0
        self.wanted: frozenset[str] = frozenset()
        if isinstance(model, torch.nn.Module):
            if device is not None and device != own_device(model):
                model.to(device)
            model.eval()
            self.modules = list(model.named_modules())
        self._signature = _signature(model)
        self._binds: dict[tuple[str, ...] | int, bool] = {}
        for field, path in features.items():
            self._hook(field, path)

    def _hook(self, field: str, path: str) -> None:
        """Keep what the module at a path returns, when its field is wanted."""
        if not isinstance(self.model, torch.nn.Module) or not path:
            raise ConfigError(
                f"features={{{field!r}: {path!r}}}: expected the path of a module inside the model"
            )
        try:
            part = module_at(self.model, path)
        except ConfigError as error:
            raise ConfigError(f"features={{{field!r}: {path!r}}}: {error}") from error

        def keep(module: torch.nn.Module, args: Any, output: Any) -> None:
            # Another scorer of the same model may run it in another thread meanwhile.
            if field in self.wanted and self.thread == threading.get_ident():
                if field in self.captured:
                    raise ModelError(
                        f"feature {field!r}: module {path!r} ran twice in one forward; name a "
                        "module that runs once"
                    )
                self.captured[field] = output[0] if isinstance(output, tuple) else output

        part.register_forward_hook(keep)

    def check_evaluating(self) -> None:
        """Raise `ModelError` if a part of the model was put back into training mode."""
        for name, module in self.modules:
            if module.training:
                raise ModelError(
                    f"module {name or type(module).__name__!r} was put back into training mode "
                    "while it serves, so its answers would be random; train a copy "
                    "(copy.deepcopy(model)) or call .eval() again"
                )

    def __call__(
        self, batch: Any, lengths: Tensor | None, wanted: Iterable[str] = ()
    ) -> tuple[Any, dict[str, Any]]:
        """What the model returns, and the features wanted. Call in inference mode."""
        self.wanted, self.captured, self.thread = frozenset(wanted), {}, threading.get_ident()
        try:
            return self._invoke(batch, lengths), self.captured
        finally:
            self.wanted = frozenset()

    def _invoke(self, batch: Any, lengths: Tensor | None) -> Any:
        if isinstance(batch, Mapping):
            if lengths is not None and self._named("lengths"):
                batch = {**batch, "lengths": lengths}
            if self._takes(tuple(batch), lambda s: s.bind(**batch)):
                return self.model(**batch)
        elif isinstance(batch, tuple | list) and self._takes(len(batch), lambda s: s.bind(*batch)):
            return self.model(*batch)
        return self.model(batch) if lengths is None else self._with_lengths(batch, lengths)

    def _with_lengths(self, batch: Any, lengths: Tensor) -> Any:
        if isinstance(batch, Mapping):
            return self.model(batch)
        return self.model(batch, lengths)

    def _named(self, parameter: str) -> bool:
        return self._signature is not None and parameter in self._signature.parameters

    def _takes(
        self, key: tuple[str, ...] | int, bind: Callable[[inspect.Signature], object]
    ) -> bool:
        """Whether the signature takes these arguments; found out once for each form of batch."""
        if self._signature is None:
            return False
        if key not in self._binds:
            try:
                bind(self._signature)
                self._binds[key] = True
            except TypeError:
                self._binds[key] = False
        return self._binds[key]


def own_device(model: Any) -> torch.device:
    """Where a module's weights are; the CPU for one without, and for a callable.

    Example:
        >>> own_device(torch.nn.Linear(1, 1))
        device(type='cpu')
    """
    weights = model.parameters() if isinstance(model, torch.nn.Module) else iter(())
    first = next(weights, None)
    return first.device if first is not None else torch.device("cpu")


def _signature(model: Any) -> inspect.Signature | None:
    """The parameters of a forward, None where Python cannot tell."""
    try:
        return inspect.signature(model.forward if isinstance(model, torch.nn.Module) else model)
    except (TypeError, ValueError):
        return None
