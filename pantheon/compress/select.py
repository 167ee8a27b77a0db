"""Selecting channels: the edit that structured pruning and the choice of a sub-network leave."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pantheon.compress import strict
from pantheon.compress.layers import cut
from pantheon.compress.registry import Edit, register
from pantheon.errors import ConfigError
from pantheon.paths import module_at, tensor_at, tensor_of, tensors_of
from pantheon.quote import near, quoted

Slots = dict[tuple[int, str], dict[int, tuple[int, ...]]]
"""What to keep by dimension, by a module's `id` and the name of a tensor of it."""

Attributes = dict[tuple[nn.Module, str], Any]
"""New values, by module and name."""


@register("select_channels")
@dataclass(frozen=True)
class SelectChannels(Edit):
    """Keep some channels of layers, and some positions of bare parameters.

    Parameters that are tied stay tied, and must be cut alike. Those that are cut are new ones: make
    the optimizer afterwards.

    Args:
        modules: path of a layer to ``"out"`` or ``"in"`` (or both) to the indices that are kept, in
            rising order. Layers that do not mix channels (norms, `nn.PReLU`, `nn.Embedding`) have
            ``"out"`` only. What layers with groups ask for says `pantheon.compress.layers.cut`.
        parameters: path of a parameter or buffer to dimension to the indices that are kept.
        attributes: path of a module to the name of an integer that it has to its new value, such as
            ``{"attention": {"num_heads": 3}}``.

    Raises:
        ConfigError: nothing to select, or indices, dimensions or values that cannot be.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
        >>> SelectChannels({"0": {"out": [0, 3]}, "2": {"in": [0, 3]}}).apply(model)
        Sequential(
          (0): Linear(in_features=2, out_features=2, bias=True)
          (1): ReLU()
          (2): Linear(in_features=2, out_features=1, bias=True)
        )
    """

    modules: Mapping[str, Mapping[str, Sequence[int]]] = field(default_factory=dict)
    parameters: Mapping[str, Mapping[int, Sequence[int]]] = field(default_factory=dict)
    attributes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (self.modules or self.parameters or self.attributes):
            raise ConfigError("select_channels has nothing to select; name at least one module")
        sides = {path: _sides(path, kept) for path, kept in _items(self, "modules")}
        dims = {path: _dims(path, kept) for path, kept in _items(self, "parameters")}
        values = {path: _values(path, new) for path, new in _items(self, "attributes")}
        object.__setattr__(self, "modules", sides)
        object.__setattr__(self, "parameters", dims)
        object.__setattr__(self, "attributes", values)

    def apply(self, model: nn.Module) -> nn.Module:
        """Cut a model, in place.

        Returns:
            The model.

        Raises:
            ConfigError: it has no such module or tensor, or one that cannot be cut like that; the
                model is as it was.
        """
        slots: Slots = {}
        attributes: Attributes = {}
        for path, kept in self.modules.items():
            module = module_at(model, path)
            try:
                found = cut(module, kept)
            except ConfigError as error:
                raise ConfigError(f"{path!r}, a {type(module).__name__}: {error}") from error
            attributes.update({(module, name): new for name, new in found.attributes.items()})
            for name, dims in found.tensors.items():
                _enter(slots, module, name, dims, path)
        for path, chosen in self.parameters.items():
            module, name = tensor_at(model, path)
            _enter(slots, module, name, chosen, path)
        for path, values in self.attributes.items():
            module = module_at(model, path)
            for name, value in values.items():
                _require_integer(module, path, name)
                if attributes.setdefault((module, name), value) != value:
                    raise ConfigError(
                        f"{path!r}: {name} is to be {value}, but {attributes[module, name]} by the "
                        "channels that are kept; leave it out of attributes"
                    )
        replacements = _select(model, slots)
        for module, name, tensor in replacements:
            setattr(module, name, tensor)
        for (module, name), value in attributes.items():
            setattr(module, name, value)
        return model

    def to_json(self) -> dict[str, Any]:
        """The three mappings, with lists for indices and texts for dimensions."""
        return {
            "modules": {p: {s: list(i) for s, i in k.items()} for p, k in self.modules.items()},
            "parameters": {
                p: {str(d): list(i) for d, i in k.items()} for p, k in self.parameters.items()
            },
            "attributes": {p: dict(new) for p, new in self.attributes.items()},
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Read `to_json`'s answer; `ConfigError` says what cannot be."""
        names = ("modules", "parameters", "attributes")
        found = strict.keys(fields, "select_channels", (), names)
        parts = {name: strict.mapping(found.get(name, {}), name) for name in names}
        parts["parameters"] = {
            path: {_dim(dim, path): indices for dim, indices in strict.mapping(k, path).items()}
            for path, k in parts["parameters"].items()
        }
        return cls(**parts)


def _items(edit: SelectChannels, name: str) -> Iterable[tuple[str, Any]]:
    return strict.mapping(getattr(edit, name), name).items()


def _sides(path: str, sides: Any) -> dict[str, tuple[int, ...]]:
    found = strict.keys(sides, path or "the model", (), ("out", "in"))
    if not found:
        raise ConfigError(f"{path!r} keeps nothing; expected indices by 'out', 'in' or both")
    return {side: strict.kept(indices, f"{path}.{side}") for side, indices in found.items()}


def _dims(path: str, dims: Any) -> dict[int, tuple[int, ...]]:
    if not isinstance(dims, Mapping) or not dims:
        raise ConfigError(f"{path!r} is {quoted(dims)}; expected indices by dimension")
    return {
        strict.whole(dim, f"a dimension of {path}"): strict.kept(kept, f"{path}, dimension {dim}")
        for dim, kept in dims.items()
    }


def _values(path: str, values: Any) -> dict[str, int]:
    found = strict.mapping(values, path or "the model")
    return {name: strict.whole(value, f"{path}.{name}") for name, value in found.items()}


def _dim(dim: str, path: str) -> int:
    if not (dim.isascii() and dim.isdecimal() and len(dim) < 4 and str(int(dim)) == dim):
        raise ConfigError(f"{path!r} has the dimension {quoted(dim)}; expected '0', '1', ...")
    return int(dim)


def _require_integer(module: nn.Module, path: str, name: str) -> None:
    """Only what is an integer already is set."""
    own = {key: held for key, held in vars(module).items() if type(held) is int}
    if name not in own:
        raise ConfigError(
            f"{path!r}, a {type(module).__name__}, has no integer {quoted(name)}{near(name, own)}"
        )


def _enter(
    slots: Slots, module: nn.Module, name: str, dims: Mapping[int, Sequence[int]], path: str
) -> None:
    """Note what to keep of a tensor; what is noted twice must be the same."""
    tensor = tensor_of(module, name)
    assert tensor is not None  # whoever found the name has looked
    if is_lazy(tensor):
        raise ConfigError(f"{path!r}: {name} has no values yet; run the model once before")
    held = slots.setdefault((id(module), name), {})
    for dim, indices in dims.items():
        if dim >= tensor.ndim or indices[-1] >= tensor.shape[dim]:
            raise ConfigError(
                f"{path!r}: {name} has the shape {tuple(tensor.shape)}; it has no index "
                f"{indices[-1]} in dimension {dim}"
            )
        if held.setdefault(dim, tuple(indices)) != tuple(indices):
            raise ConfigError(f"{path!r}: two selections of dimension {dim} of {name} differ")


def _select(model: nn.Module, slots: Slots) -> list[tuple[nn.Module, str, Tensor]]:
    """The new tensors of all that are selected from, one for those that are tied."""
    made: dict[int, tuple[dict[int, tuple[int, ...]], Tensor]] = {}
    found = []
    for path, module in model.named_modules():
        for name, tensor in tensors_of(module).items():
            dims = slots.get((id(module), name), {})
            if id(tensor) not in made:
                made[id(tensor)] = dims, _selected(tensor, dims)
            others, new = made[id(tensor)]
            if others != dims:
                where = f"{path}.{name}" if path else name
                raise ConfigError(
                    f"{where!r} is tied to another parameter that is cut otherwise; cut both alike"
                )
            if dims:
                found.append((module, name, new))
    return found


def _selected(tensor: Tensor, dims: Mapping[int, tuple[int, ...]]) -> Tensor:
    new = tensor.detach()
    for dim, indices in dims.items():
        new = new.index_select(dim, torch.tensor(indices, device=new.device))
    if not isinstance(tensor, nn.Parameter):
        return new
    return nn.Parameter(new, requires_grad=tensor.requires_grad)
