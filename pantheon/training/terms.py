"""From the losses that a configuration names to the addends of an objective."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from pantheon import losses
from pantheon.config import LossConfig, RampConfig
from pantheon.reference import call
from pantheon.training.objective import Names, Term
from pantheon.training.ramp import Ramp

KNOWN: Mapping[str, Callable[..., nn.Module]] = {
    "kl": losses.KLDivergence,
    "soft_cross_entropy": losses.SoftLabelCrossEntropy,
    "dkd": losses.DKD,
    "mse": losses.LogitMSE,
    "spherical": losses.SphericalKD,
    "cross_entropy": nn.CrossEntropyLoss,
    "feature": losses.FeatureMSE,
    "fsp": losses.FSP,
    "attention": losses.AttentionTransfer,
    "rkd_distance": losses.RKDDistance,
    "rkd_angle": losses.RKDAngle,
}
"""The losses by the names a configuration gives them."""


def term_from(config: LossConfig) -> Term:
    """One addend."""
    loss = _loss(config)
    return Term(
        name=config.name or config.loss.rpartition(":")[2],
        loss=losses.Aligned(loss, config.align) if config.align else loss,
        field=_names(config.field),
        weight=ramp_from(config.weight),
        output=config.output,
        layer=_names(config.layer),
        labelled=config.loss == "dkd" and config.mask != "teacher",
    )


def ramp_from(weight: float | RampConfig) -> float | Ramp:
    """A weight, or how it changes."""
    if isinstance(weight, RampConfig):
        return Ramp(weight.start, weight.end, weight.begin, weight.until, weight.shape)
    return weight


def _loss(config: LossConfig) -> Callable[..., Tensor]:
    kind = KNOWN.get(config.loss)
    if kind is not None:
        return kind(**config.settings)
    made: Callable[..., Tensor] = call(config.loss, config.args, config.where("loss"))
    return made


def _names(given: str | list[str] | None) -> Names | None:
    return tuple(given) if isinstance(given, list) else given
