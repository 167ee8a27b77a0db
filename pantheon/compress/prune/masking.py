"""Masked weights: the edit that keeps chosen weights at zero, also while others are trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pantheon.compress import strict
from pantheon.compress.registry import Edit, register
from pantheon.errors import ConfigError
from pantheon.paths import module_at
from pantheon.quote import quoted

MASKED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layers whose weights can be masked."""


class Mask(nn.Module):
    """Multiplies a weight with a mask of its shape, a part of the model's state."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.mask: Tensor
        self.register_buffer("mask", torch.ones_like(weight, dtype=torch.bool))

    def forward(self, weight: Tensor) -> Tensor:
        """The weight, 0 where the mask is."""
        return torch.where(self.mask, weight, weight.new_zeros(()))


@register("mask_weights")
@dataclass(frozen=True)
class MaskWeights(Edit):
    """Mask the weights of layers. Which of them are 0 is a part of the weights, not of the edit.

    Args:
        layers: paths of convolutions and linear layers.

    Raises:
        ConfigError: no layers, or one twice.

    Example:
        >>> model = MaskWeights(["0"]).apply(nn.Sequential(nn.Linear(2, 3)))
        >>> mask_of(model[0]).mask[0, 1] = False
        >>> model[0].weight[0, 1].item()
        0.0
    """

    layers: Sequence[str]

    def __post_init__(self) -> None:
        if not isinstance(self.layers, list | tuple) or not self.layers:
            raise ConfigError(f"layers is {quoted(self.layers)}; expected a list of paths")
        layers = tuple(strict.text(path, "a layer's path") for path in self.layers)
        if len(set(layers)) < len(layers):
            raise ConfigError(f"mask_weights names a layer twice: {quoted(list(layers))}")
        object.__setattr__(self, "layers", layers)

    def apply(self, model: nn.Module) -> nn.Module:
        """Mask them, in place; all masks are ones.

        Raises:
            ConfigError: no such layer, one of another type, or one that is masked already.
        """
        found = [(path, module_at(model, path)) for path in self.layers]
        for path, layer in found:
            if not isinstance(layer, MASKED):
                raise ConfigError(
                    f"{path!r} is a {type(layer).__name__}; expected a convolution or linear layer"
                )
            if parametrize.is_parametrized(layer, "weight"):
                raise ConfigError(f"the weight of {path!r} is parametrised already")
        for _, layer in found:
            parametrize.register_parametrization(
                layer, "weight", Mask(cast(Tensor, layer.weight)), unsafe=True
            )
        return model

    def to_json(self) -> dict[str, Any]:
        """The paths."""
        return {"layers": list(self.layers)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Read `to_json`'s answer; `ConfigError` says what cannot be."""
        return cls(strict.keys(fields, "mask_weights", ("layers",))["layers"])


def is_masked(layer: nn.Module) -> bool:
    """Whether a layer's weight has a mask."""
    found = getattr(layer, "parametrizations", {})
    return "weight" in found and isinstance(found["weight"][0], Mask)


def mask_of(layer: nn.Module) -> Mask:
    """The mask of a layer's weight.

    Raises:
        ConfigError: it has none.
    """
    if not is_masked(layer):
        raise ConfigError(f"the weight of the {type(layer).__name__} has no mask")
    return cast(Mask, cast(Any, layer.parametrizations)["weight"][0])


def masked_weight(layer: nn.Module) -> Tensor:
    """A layer's weight as it computes with it, 0 where it is masked."""
    weight: Tensor = cast(Tensor, layer.weight).detach()
    return weight
