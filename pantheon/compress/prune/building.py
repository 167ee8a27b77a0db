"""From the settings of pruning to what prunes."""

from __future__ import annotations

from pantheon.compress.prune.config import MeasuringConfig, RankingConfig
from pantheon.compress.prune.cutting import Ranked
from pantheon.compress.prune.scanning import Scan
from pantheon.errors import ConfigError
from pantheon.reference import resolve
from pantheon.training.objective import Term
from pantheon.training.terms import term_from


def ranked_from(config: RankingConfig) -> Ranked:
    """By what units are ranked.

    Raises:
        ConfigError: no such criterion, or function.
    """
    where = config.where("criterion")
    # A function of the user's is given gradients where losses are named.
    own = ":" in config.criterion
    try:
        return Ranked.by(
            resolve(config.criterion, where) if own else config.criterion,
            gradients=own and bool(config.losses),
            only=config.only,
            keep=config.keep,
            align=config.align,
            most=config.most,
            seconds=config.seconds,
        )
    except ConfigError as error:
        raise ConfigError(str(error) if own else f"{where}: {error}") from error


def losses_from(config: RankingConfig, ranked: Ranked) -> list[Term]:
    """What gradients are taken of.

    Raises:
        ConfigError: the criterion needs some and none is named.
    """
    if ranked.criterion.gradients and not config.losses:
        raise ConfigError(
            f"{config.where('criterion')}: {ranked.name} goes by gradients; name losses to take "
            "them of, such as {loss: kl, field: logits} or {loss: cross_entropy}"
        )
    return [term_from(loss) for loss in config.losses]


def scan_from(config: MeasuringConfig, part: tuple[int, int] = (0, 1)) -> Scan:
    """How sensitivity is measured."""
    return Scan(
        by=config.by,
        ratios=config.ratios,
        samples=config.validation,
        tables=config.tables,
        part=part,
        lower=config.lower_is_better,
    )
