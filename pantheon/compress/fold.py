"""Folding batch norms into the layers before them: the edit that leaves fewer layers to run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from pantheon.compress import strict
from pantheon.compress.layers import channels
from pantheon.compress.registry import Edit, register
from pantheon.errors import ConfigError
from pantheon.paths import module_at
from pantheon.quote import quoted

Layer = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear
"""Layers whose weight has its outputs in dimension 0; transposed ones have them in dimension 1."""

Transposed = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
Norm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm


@register("fold_batchnorm")
@dataclass(frozen=True)
class FoldBatchNorm(Edit):
    """Fold batch norms with running statistics into the layers whose output they are given.

    A layer gets the weight ``w * s`` and the bias ``(b - mean) * s + shift``, with
    ``s = scale / sqrt(var + eps)``, by output channel: computed in float64 and rounded once. The
    norm becomes an `nn.Identity`. The model answers what it did in evaluation mode, up to rounding,
    if nothing else is between the two, and nothing else reads the layer's output.

    Args:
        pairs: path of a convolution, transposed convolution or linear layer, and path of its batch
            norm.

    Raises:
        ConfigError: no pairs, or a path in two of them.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 1, bias=False), nn.BatchNorm2d(8)).eval()
        >>> images = torch.ones(1, 3, 2, 2)
        >>> before = model(images)
        >>> FoldBatchNorm([("0", "1")]).apply(model)
        Sequential(
          (0): Conv2d(3, 8, kernel_size=(1, 1), stride=(1, 1))
          (1): Identity()
        )
        >>> torch.allclose(model(images), before, atol=1e-6)
        True
    """

    pairs: Sequence[tuple[str, str]]

    def __post_init__(self) -> None:
        if not isinstance(self.pairs, list | tuple) or not self.pairs:
            raise ConfigError(
                f"pairs is {quoted(self.pairs)}; expected a list of [layer, norm], at least one"
            )
        pairs = tuple(_pair(pair) for pair in self.pairs)
        for path, count in Counter(path for pair in pairs for path in pair).items():
            if count > 1:
                raise ConfigError(f"{path!r} is in pairs {count} times; expected once")
        object.__setattr__(self, "pairs", pairs)

    def apply(self, model: nn.Module) -> nn.Module:
        """Fold, in place.

        Returns:
            The model.

        Raises:
            ConfigError: no such layer, one of another type, a norm without running statistics, of
                another number of channels, or a layer that is used under two paths; the model is as
                it was.
        """
        found = [(*_layers(model, *pair), pair[1]) for pair in self.pairs]
        folded = [_folded(layer, norm) for layer, norm, _ in found]
        for (layer, norm, path), (weight, bias) in zip(found, folded, strict=True):
            layer.weight, layer.bias = weight, bias
            parent, _, name = path.rpartition(".")
            setattr(module_at(model, parent), name, nn.Identity().train(norm.training))
        return model

    def to_json(self) -> dict[str, Any]:
        """The pairs as lists."""
        return {"pairs": [list(pair) for pair in self.pairs]}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Read `to_json`'s answer; `ConfigError` says what cannot be."""
        return cls(strict.keys(fields, "fold_batchnorm", ("pairs",))["pairs"])


def _pair(pair: Any) -> tuple[str, str]:
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        raise ConfigError(f"a pair is {quoted(pair)}; expected [layer, norm]")
    return strict.text(pair[0], "a layer's path"), strict.text(pair[1], "a norm's path")


def _layers(model: nn.Module, path: str, norm_path: str) -> tuple[Layer | Transposed, Norm]:
    """The two modules of a pair, once they can be folded."""
    layer, norm = module_at(model, path), module_at(model, norm_path)
    if not isinstance(layer, Layer | Transposed):
        raise ConfigError(
            f"{path!r} is a {type(layer).__name__}; expected a convolution or linear layer"
        )
    if not isinstance(norm, Norm):
        raise ConfigError(f"{norm_path!r} is a {type(norm).__name__}; expected a batch norm")
    if norm.running_mean is None or norm.running_var is None:
        raise ConfigError(
            f"{norm_path!r} keeps no running statistics (track_running_stats=False); it depends on "
            "the batch and cannot be folded"
        )
    if norm.num_features != channels(layer)["out"]:
        raise ConfigError(
            f"{norm_path!r} norms {norm.num_features} channels and {path!r} answers "
            f"{channels(layer)['out']}; pair a norm with the layer before it"
        )
    _require_single(model, layer, path)
    _require_single(model, norm, norm_path)
    if "weight" not in layer._parameters:
        raise ConfigError(f"the weight of {path!r} is parametrised; remove that first")
    return layer, norm


def _require_single(model: nn.Module, module: nn.Module, path: str) -> None:
    paths = [name for name, m in model.named_modules(remove_duplicate=False) if m is module]
    if len(paths) > 1 or not path:
        raise ConfigError(
            f"{path!r} is the model itself or used under several paths ({', '.join(paths)}); what "
            "is folded must be a part that is used once"
        )


@torch.no_grad()
def _folded(layer: Layer | Transposed, norm: Norm) -> tuple[nn.Parameter, nn.Parameter]:
    """The layer's new weight and bias."""
    mean, var = _double(norm.running_mean), _double(norm.running_var)
    scale = (var + norm.eps).rsqrt()
    shift = torch.zeros_like(mean)
    if norm.affine:
        scale, shift = scale * _double(norm.weight), _double(norm.bias)
    bias = torch.zeros_like(mean) if layer.bias is None else _double(layer.bias)
    weight = _scaled(layer, scale).to(layer.weight.dtype)
    bias = ((bias - mean) * scale + shift).to(layer.weight.dtype)
    trained = layer.weight.requires_grad
    return nn.Parameter(weight, trained), nn.Parameter(bias, trained)


def _scaled(layer: Layer | Transposed, scale: Tensor) -> Tensor:
    weight = _double(layer.weight)
    if not isinstance(layer, Transposed):
        return weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
    # [in, out / groups, ...]: the rows of a group have that group's outputs.
    rows = weight.reshape(layer.groups, -1, *weight.shape[1:])
    by_group = scale.reshape(layer.groups, 1, -1, *[1] * (weight.ndim - 2))
    return (rows * by_group).reshape(weight.shape)


def _double(tensor: Tensor | None) -> Tensor:
    assert tensor is not None  # checked with the pair
    return tensor.detach().double()
