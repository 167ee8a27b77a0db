"""Edits: changes of a model's structure that can be written down and made again."""

from __future__ import annotations

import importlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self, TypeVar

from torch import nn

from pantheon.compress.strict import mapping
from pantheon.errors import ConfigError
from pantheon.quote import near, quoted

HOMES = {
    "select_channels": "pantheon.compress.select",
    "fold_batchnorm": "pantheon.compress.fold",
    "mask_weights": "pantheon.compress.prune.masking",
    "quantize": "pantheon.compress.quantize.edit",
}
"""The modules that register our own kinds, imported when an artifact asks for one."""

_KINDS: dict[str, type[Edit]] = {}


class Edit(ABC):
    """One change of a model's structure, made again whenever the model is rebuilt.

    A subclass is a frozen dataclass of JSON values under `register`. What `apply` does to the
    structure must follow from the edit and the structure alone, never from the weights: an edit is
    replayed on a fresh model, whose weights are arbitrary and are replaced afterwards. It must
    replace tensors, submodules and attributes rather than change tensors in place, so that an
    artifact can undo one that fails half-way.
    """

    kind: ClassVar[str] = ""

    @abstractmethod
    def apply(self, model: nn.Module) -> nn.Module:
        """Change a model.

        Returns:
            The model, or the one to use in its place.

        Raises:
            ConfigError: the edit does not fit the model.
        """

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """The edit's fields as JSON, without its kind."""

    @classmethod
    @abstractmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Read what `to_json` answered.

        Raises:
            ConfigError: a key, type, range or size that cannot be.
        """


E = TypeVar("E", bound=Edit)


def register(kind: str) -> Callable[[type[E]], type[E]]:
    """Have artifacts know a class of edits by a name.

    An artifact with such an edit can be loaded where the module that registers it was imported, or
    is in `HOMES`.

    Raises:
        ConfigError: another class has the name.

    Example:
        >>> from dataclasses import dataclass
        >>> @register("doctest.freeze")
        ... @dataclass(frozen=True)
        ... class Freeze(Edit):
        ...     def apply(self, model):
        ...         return model.requires_grad_(False)
        ...     def to_json(self):
        ...         return {}
        ...     @classmethod
        ...     def from_json(cls, fields):
        ...         return cls()
        >>> read(write(Freeze()))
        Freeze()
    """

    def enter(cls: type[E]) -> type[E]:
        other = _KINDS.get(kind, cls)
        # A module that is loaded again defines the same class once more.
        if (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ConfigError(
                f"the edit {kind!r} is {other.__module__}.{other.__qualname__} already; register "
                f"{cls.__qualname__} under another name"
            )
        cls.kind = kind
        _KINDS[kind] = cls
        return cls

    return enter


def write(edit: Edit) -> dict[str, Any]:
    """An edit as JSON.

    Raises:
        ConfigError: its class is not registered, or it would not be read back as it is.
    """
    if type(edit) is not _KINDS.get(edit.kind):
        raise ConfigError(
            f"{type(edit).__name__} is not registered; put @register('a_name') before its class"
        )
    wire = {"kind": edit.kind, **edit.to_json()}
    try:
        back = read(json.loads(json.dumps(wire, allow_nan=False)))
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"the edit {edit.kind} cannot be read back: {error}") from error
    if back != edit:
        raise ConfigError(f"the edit {edit.kind} reads back as another one: {quoted(back)}")
    return wire


def read(wire: Any) -> Edit:
    """An edit from JSON.

    Raises:
        ConfigError: an unknown kind, with the nearest that is known, or fields that cannot be.
    """
    fields = dict(mapping(wire, "an edit"))
    kind = fields.pop("kind", None)
    if isinstance(kind, str) and kind in HOMES:
        importlib.import_module(HOMES[kind])
    if not isinstance(kind, str) or kind not in _KINDS:
        known = {**HOMES, **_KINDS}
        raise ConfigError(
            f"there is no edit of kind {quoted(kind)}{near(str(kind), known)}; import the module "
            "that registers it first"
        )
    return _KINDS[kind].from_json(fields)
