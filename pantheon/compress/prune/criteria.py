"""By what units are told apart: the higher its score, the more a model would miss a unit."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pantheon.compress.prune.evidence import Evidence, Filters
from pantheon.errors import ConfigError

Score = Callable[[Evidence], Tensor]
"""Answers ``[units]``, finite; the lowest go first."""


@dataclass(frozen=True, slots=True)
class Criterion:
    """A way to score units.

    Args:
        score: of one group.
        gradients: whether it looks at gradients.
        across: whether its scores of different groups can be compared as they are; where not, they
            are divided by their mean in the group.
    """

    score: Score
    gradients: bool = False
    across: bool = False


def l1(evidence: Evidence) -> Tensor:
    """Sum of absolute weights (Li et al., "Pruning Filters for Efficient ConvNets", 2017).

    Example:
        >>> l1(_example([[1.0, -2.0], [0.5, 0.5]]))
        tensor([3., 1.])
    """
    return evidence.over_layers({f.path: f.weights.abs().sum(1) for f in evidence.filters})


def l2(evidence: Evidence) -> Tensor:
    """Euclidean norm of the weights.

    Example:
        >>> l2(_example([[3.0, -4.0], [0.0, 2.0]]))
        tensor([5., 2.])
    """
    sums = [evidence.by_unit(f.weights.square().sum(1), f.units) for f in evidence.filters]
    return torch.stack([total.sqrt() for total in sums]).mean(0)


def fpgm(evidence: Evidence) -> Tensor:
    """Sum of the distances to the other units of the layer.

    He et al., "Filter Pruning via Geometric Median", 2019: what is near the others can be replaced
    by them.

    Example:
        >>> fpgm(_example([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]]))
        tensor([6.0000, 9.2426, 5.2426])
    """
    found = []
    for filters in evidence.filters:
        order = filters.units.argsort(stable=True)
        vectors = filters.weights[order].reshape(evidence.units, -1)
        found.append(torch.cdist(vectors, vectors).sum(1))
    return torch.stack(found).mean(0)


def bn_scale(evidence: Evidence) -> Tensor:
    """Absolute scale of the batch norm that follows (Liu et al., "Network Slimming", 2017).

    Raises:
        ConfigError: no batch norm follows.

    Example:
        >>> from pantheon.compress.prune.evidence import Scales
        >>> scales = Scales("norm", torch.tensor([-0.5, 0.25]), torch.tensor([0, 1]))
        >>> bn_scale(Evidence("conv", 2, (), (scales,)))
        tensor([0.5000, 0.2500])
    """
    if not evidence.scales:
        raise ConfigError(
            f"the channels of {evidence.group!r} pass no batch norm with a scale, which bn_scale "
            "goes by; keep this layer out, or choose another criterion, such as l1"
        )
    sums = [evidence.by_unit(scales.values.abs(), scales.units) for scales in evidence.scales]
    return torch.stack(sums).mean(0)


def lamp(evidence: Evidence) -> Tensor:
    """Squared norm over that of all units of the group which are not smaller.

    Lee et al., "Layer-adaptive Sparsity for the Magnitude-based Pruning", 2021. Scores of different
    layers can be compared.

    Example:
        >>> lamp(_example([[2.0], [1.0], [1.0]]))
        tensor([1.0000, 0.1667, 0.2000])
    """
    squares = evidence.over_layers({f.path: f.weights.square().sum(1) for f in evidence.filters})
    ordered, places = squares.sort(stable=True)
    rest = ordered.flip(0).cumsum(0).flip(0)
    # A layer of zeros alone has nothing that would be missed.
    scores = torch.where(rest > 0, ordered / rest.clamp_min(torch.finfo(rest.dtype).tiny), 0.0)
    return torch.empty_like(scores).scatter(0, places, scores)


def taylor(evidence: Evidence) -> Tensor:
    """What the loss would change by without a unit, squared, to first order.

    Molchanov et al., "Importance Estimation for Neural Network Pruning", 2019. Scores of different
    layers can be compared.
    """
    if evidence.saliency is None:
        raise ConfigError(
            f"{evidence.group!r} comes without gradients; name losses to take them of"
        )
    return evidence.saliency


def random(evidence: Evidence) -> Tensor:
    """Drawn uniformly by the seed and the group's name: the control that others have to beat."""
    digest = hashlib.sha256(f"{evidence.seed} {evidence.group}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return torch.rand(evidence.units, generator=generator)


CRITERIA: Mapping[str, Criterion] = {
    "l1": Criterion(l1),
    "l2": Criterion(l2),
    "fpgm": Criterion(fpgm),
    "bn_scale": Criterion(bn_scale, across=True),
    "lamp": Criterion(lamp, across=True),
    "taylor": Criterion(taylor, gradients=True, across=True),
    "random": Criterion(random, across=True),
}
"""Ours, by name."""


def scores(criterion: Criterion, evidence: Evidence) -> Tensor:
    """The scores ``[units]`` of a group, checked.

    Raises:
        ConfigError: the criterion answers something else than a finite number for each unit.
    """
    found = criterion.score(evidence)
    name = getattr(criterion.score, "__qualname__", repr(criterion.score))
    if not isinstance(found, Tensor) or found.shape != (evidence.units,):
        what = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ConfigError(
            f"the criterion {name} answered {what} for {evidence.group!r}; expected a tensor of "
            f"shape [{evidence.units}]"
        )
    if not bool(found.isfinite().all()):
        raise ConfigError(
            f"the criterion {name} answered scores of {evidence.group!r} that are not finite; are "
            "there NaN in its weights?"
        )
    return found.detach().double().cpu()


def _example(weights: list[list[float]]) -> Evidence:
    """One layer with a unit for each row, for the examples here."""
    rows = torch.tensor(weights)
    return Evidence("conv", len(rows), (Filters("conv", rows, None, torch.arange(len(rows))),))
