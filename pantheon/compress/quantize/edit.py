"""The edit that has a model compute as if with integers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, cast

from torch import Tensor, nn
from torch.nn.utils import parametrize

from pantheon.compress import strict
from pantheon.compress.quantize.grid import Grid
from pantheon.compress.quantize.rounding import ROUNDERS
from pantheon.compress.quantize.spots import Site
from pantheon.compress.quantize.taps import HOLDER, Taps, tap
from pantheon.compress.quantize.weights import WEIGHT_ROUNDERS, BiasRounder, weight_rounder
from pantheon.compress.registry import Edit, register
from pantheon.errors import ConfigError
from pantheon.paths import module_at
from pantheon.quote import quoted


@dataclass(frozen=True, slots=True)
class Activation:
    """A quantizer of activations.

    Args:
        sites: whose tensors it rounds.
        grid: to which integers.
        by: what becomes of its threshold after calibration: the name of one of
            `pantheon.compress.quantize.rounding.ROUNDERS`.
    """

    sites: tuple[Site, ...]
    grid: Grid
    by: str = "fixed"


@dataclass(frozen=True, slots=True)
class Weight:
    """A quantizer of a layer's weight, and of its bias.

    Args:
        bits: of its integers, which are signed.
        per_channel: whether each output channel has a scale of its own.
        by: where it is clipped: one of `pantheon.compress.quantize.weights.WEIGHT_ROUNDERS`.
        given: the number of the quantizer of activations that rounds what the layer is given, by
            whose scale the bias is rounded, see `pantheon.compress.quantize.weights.BiasRounder`;
            None: the bias stays real.

    Raises:
        ConfigError: it is none of these.
    """

    bits: int = 8
    per_channel: bool = True
    by: str = "abs_max"
    given: int | None = None

    def __post_init__(self) -> None:
        if self.by not in WEIGHT_ROUNDERS:
            raise ConfigError(
                f"a weight's by is {quoted(self.by)}; expected one of {', '.join(WEIGHT_ROUNDERS)}"
            )


@register("quantize")
@dataclass(frozen=True)
class RoundTensors(Edit):
    """Round activations and weights to integers, which stand for real numbers as before.

    The model gets a part ``quantizers``, whose thresholds are buffers, and weights that are
    parametrized; its code, its other parts, their paths and hooks stay. What it answers is what
    real integers would, up to the rounding of sums.

    Args:
        activations: one quantizer each.
        weights: by the path of the layer.

    Raises:
        ConfigError: nothing to quantize, a site in two of them, or a weight's `given` is none of
            them.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        >>> edit = RoundTensors([Activation((Site("1"),), Grid(8, signed=False))], {"0": Weight()})
        >>> sorted(edit.apply(net).state_dict())
        ['0.bias', '0.parametrizations.weight.original', 'quantizers.each.0.threshold']
    """

    activations: Sequence[Activation]
    weights: Mapping[str, Weight]

    def __post_init__(self) -> None:
        if not self.activations and not self.weights:
            raise ConfigError("there is nothing to quantize; name an activation or a weight")
        found: set[Site] = set()
        for site in (site for each in self.activations for site in each.sites):
            if site in found:
                raise ConfigError(f"{site} is rounded by two quantizers; expected one")
            found.add(site)
        for each in self.activations:
            if each.by not in ROUNDERS:
                raise ConfigError(f"by is {quoted(each.by)}; expected one of {', '.join(ROUNDERS)}")
        for path, weight in self.weights.items():
            if weight.given is not None and weight.given not in range(len(self.activations)):
                raise ConfigError(
                    f"given of the weight of {path} is {weight.given}; there are "
                    f"{len(self.activations)} quantizers of activations, from 0"
                )
        object.__setattr__(self, "activations", tuple(self.activations))

    def apply(self, model: nn.Module) -> nn.Module:
        """Put the quantizers in, in place.

        Returns:
            The model.

        Raises:
            ConfigError: it is quantized already, or has no such module or weight.
        """
        layers = {path: _layer(model, path) for path in self.weights}
        tap(
            model,
            [each.sites for each in self.activations],
            [ROUNDERS[each.by](each.grid) for each in self.activations],
        )
        taps: Taps = getattr(model, HOLDER)
        for path, layer in layers.items():
            wanted = self.weights[path]
            dim = channel_dim(layer) if wanted.per_channel else None
            weight = cast(Tensor, layer.weight)
            made = weight_rounder(wanted.by, Grid(wanted.bits), dim, weight).to(weight.device)
            # Its values fit by themselves: they are of the layer's own shape and dtype.
            parametrize.register_parametrization(layer, "weight", made, unsafe=True)
            if wanted.given is not None and layer._parameters.get("bias") is not None:
                rounder = BiasRounder(layer, taps.each, wanted.given)
                parametrize.register_parametrization(layer, "bias", rounder, unsafe=True)
        return model

    def to_json(self) -> dict[str, Any]:
        """Sites as ``[path, call, number]``."""
        return {
            "activations": [
                {
                    "sites": [[site.path, site.call, site.number] for site in each.sites],
                    "bits": each.grid.bits,
                    "signed": each.grid.signed,
                    "by": each.by,
                }
                for each in self.activations
            ],
            "weights": {
                path: {
                    "bits": each.bits,
                    "per_channel": each.per_channel,
                    "by": each.by,
                    "given": each.given,
                }
                for path, each in self.weights.items()
            },
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Read `to_json`'s answer; `ConfigError` says what cannot be."""
        found = strict.keys(fields, "quantize", ("activations", "weights"))
        if not isinstance(found["activations"], list):
            raise ConfigError(f"activations is {quoted(found['activations'])}; expected a list")
        activations = [_activation(each) for each in found["activations"]]
        weights = strict.mapping(found["weights"], "weights")
        return cls(activations, {path: _weight(each, path) for path, each in weights.items()})


def channel_dim(layer: nn.Module) -> int:
    """The dimension of a weight that its output channels are in."""
    return 1 if isinstance(layer, nn.modules.conv._ConvTransposeNd) else 0


def _layer(model: nn.Module, path: str) -> nn.Module:
    layer = module_at(model, path)
    if not isinstance(layer, nn.Linear | nn.modules.conv._ConvNd):
        raise ConfigError(
            f"{path!r} is a {type(layer).__name__}; expected a convolution or linear layer"
        )
    for name in ("weight", "bias"):
        if name not in layer._parameters:
            raise ConfigError(f"the {name} of {path!r} is parametrized; remove that first")
    return layer


def _activation(value: Any) -> Activation:
    found = strict.keys(value, "an activation", ("sites", "bits", "signed", "by"))
    if not isinstance(found["sites"], list) or not found["sites"]:
        raise ConfigError(f"sites is {quoted(found['sites'])}; expected a list, not empty")
    grid = Grid(strict.whole(found["bits"], "bits"), _flag(found["signed"], "signed"))
    by = strict.text(found["by"], "by")
    return Activation(tuple(_site(site) for site in found["sites"]), grid, by)


def _site(value: Any) -> Site:
    if not isinstance(value, list) or len(value) != 3:
        raise ConfigError(f"a site is {quoted(value)}; expected [path, call, number]")
    path, call = strict.text(value[0], "a site's path"), strict.text(value[1], "a site's call")
    return Site(path, call, strict.whole(value[2], "a site's number"))


def _weight(value: Any, path: str) -> Weight:
    found = strict.keys(value, f"the weight of {path}", ("bits", "per_channel", "by", "given"))
    bits = Grid(strict.whole(found["bits"], "bits")).bits
    by = strict.text(found["by"], "by")
    given = found["given"]
    place = None if given is None else strict.whole(given, "given")
    return Weight(bits, _flag(found["per_channel"], "per_channel"), by, place)


def _flag(value: Any, where: str) -> bool:
    if type(value) is not bool:
        raise ConfigError(f"{where} is {quoted(value)}; expected true or false")
    return value
