"""Penalties: addends of a loss that look at the weights alone, and make channels go to zero."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from pantheon.errors import ConfigError
from pantheon.quote import near
from pantheon.stream import Batch
from pantheon.training.ramp import Ramp


def slimming(layers: Sequence[nn.Module]) -> Tensor:
    """Sum of the absolute scales of batch norms (Liu et al., "Network Slimming", 2017).

    Example:
        >>> norm = nn.BatchNorm1d(3)
        >>> slimming([norm, nn.Linear(2, 2)]).item()
        3.0
    """
    found = [m.weight.abs().sum() for m in layers if isinstance(m, _NORM) and m.weight is not None]
    if not found:
        raise ConfigError("slimming looks at scales of batch norms, and the layers have none")
    return torch.stack(found).sum()


def group_lasso(layers: Sequence[nn.Module]) -> Tensor:
    """Sum of the Euclidean norms of filters, each times the root of its size.

    Yuan and Lin, "Model Selection and Estimation in Regression with Grouped Variables", 2006; of
    filters Wen et al., "Learning Structured Sparsity in Deep Neural Networks", 2016.

    Example:
        >>> layer = nn.Linear(4, 1, bias=False)
        >>> _ = nn.init.constant_(layer.weight, 0.5)
        >>> group_lasso([layer]).item()
        2.0
    """
    weights = [m.weight for m in layers if isinstance(m, _MIXING)]
    if not weights:
        raise ConfigError("group_lasso looks at filters, and the layers have none")
    # The root of 0 has no gradient.
    norms = [w.flatten(1).square().sum(1).clamp_min(1e-24).sqrt() for w in weights]
    sums = [n.sum() * w[0].numel() ** 0.5 for n, w in zip(norms, weights, strict=True)]
    return torch.stack(sums).sum()


_NORM = nn.modules.batchnorm._BatchNorm
_MIXING = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)

PENALTIES: Mapping[str, Callable[[Sequence[nn.Module]], Tensor]] = {
    "slimming": slimming,
    "group_lasso": group_lasso,
}
"""Ours, by name."""


@dataclass(frozen=True, slots=True)
class Penalty:
    """An addend that looks at weights.

    Args:
        name: what to call it in reports.
        of: called with modules; answers a scalar.
        weight: its factor, or a `Ramp` over the epochs.
        layers: patterns of the modules' paths, as of a shell; all if left out.
    """

    name: str
    of: Callable[[Sequence[nn.Module]], Tensor]
    weight: float | Ramp
    layers: Sequence[str] = ()

    def modules(self, model: nn.Module) -> list[nn.Module]:
        """The modules that it looks at.

        Raises:
            ConfigError: a pattern that matches none; names the nearest.
        """
        every = dict(model.named_modules())
        for pattern in self.layers:
            if not any(fnmatchcase(path, pattern) for path in every):
                raise ConfigError(
                    f"the penalty {self.name!r}: no layer matches {pattern!r}"
                    f"{near(pattern, filter(None, every))}"
                )
        patterns = self.layers or ("*",)
        return [m for path, m in every.items() if any(fnmatchcase(path, p) for p in patterns)]


class Penalised:
    """An objective with penalties on a model's weights.

    Args:
        objective: what else is learned.
        penalties: with names that no loss has.
        model: whose weights.

    Example:
        >>> plain = Penalised(lambda outputs, batch: {}, [Penalty("slim", slimming, 0.1)],
        ...                   nn.BatchNorm1d(5))
        >>> plain(None, None)
        {'slim': tensor(0.5000, grad_fn=<MulBackward0>)}
    """

    def __init__(self, objective: Any, penalties: Sequence[Penalty], model: nn.Module) -> None:
        self.objective, self.epoch = objective, 0.0
        self._penalties = [(penalty, penalty.modules(model)) for penalty in penalties]

    def __call__(self, outputs: Any, batch: Batch) -> dict[str, Tensor]:
        """Each addend by name."""
        if hasattr(self.objective, "epoch"):
            self.objective.epoch = self.epoch
        found: dict[str, Tensor] = dict(self.objective(outputs, batch))
        for penalty, modules in self._penalties:
            if penalty.name in found:
                raise ConfigError(f"a loss and a penalty are named {penalty.name!r}; rename one")
            weight = penalty.weight
            factor = weight.at(self.epoch) if isinstance(weight, Ramp) else weight
            found[penalty.name] = factor * penalty.of(modules)
        return found

    def rows(self, batch: Batch) -> dict[str, int]:
        """How many rows each addend counts for: a penalty as many as are real."""
        real = int(batch.mask.sum())
        return {**self.objective.rows(batch), **{p.name: real for p, _ in self._penalties}}
