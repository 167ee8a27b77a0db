"""How much each batch of a step counts: by its rows, among those of all batches and ranks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pantheon.ranks import Ranks
from pantheon.stream import Batch


def weigh(
    group: Sequence[Batch], objective: Any, ranks: Ranks
) -> tuple[Tensor, list[Mapping[str, float]] | None]:
    """The ids that a step learns from, and for each of its batches here the share of each loss.

    A loss is a mean over rows; multiplied with these shares and added, the losses of all batches of
    all ranks are the mean over all their rows. A term's rows are those that ``objective.rows``
    counts, where it has it, else the real ones.

    Args:
        group: this rank's batches of the step; every rank has as many, of the same sizes.

    Returns:
        int64 ids of real rows, batch by batch, and shares by the losses' names; None in place of
        them for a batch that is alone.

    Example:
        >>> from types import SimpleNamespace
        >>> def batch(*ids):
        ...     return SimpleNamespace(ids=torch.tensor(ids), mask=torch.tensor(ids) >= 0)
        >>> ids, shares = weigh([batch(5, 6, 7), batch(8, -1, -1)], None, Ranks())
        >>> ids.tolist(), [share["kl"] for share in shares]
        ([5, 6, 7, 8], [0.75, 0.25])
    """
    here = [batch.ids.masked_fill(~batch.mask, -1).cpu() for batch in group]
    if ranks.world == 1 and len(group) == 1:
        return here[0][here[0] >= 0], None
    names, mine = _rows(group, objective)
    every = ranks.gather(torch.cat([mine.flatten(), *here]))
    counts, *ids = torch.split(every, [mine.numel(), *map(len, here)], dim=1)
    learned = torch.cat([part.flatten() for part in ids])
    totals = counts.view(-1, *mine.shape).sum(dim=(0, 1)).clamp(min=1)
    shares = [_named(names, share) for share in (mine / totals).tolist()]
    return learned[learned >= 0], shares


def _rows(group: Sequence[Batch], objective: Any) -> tuple[list[str], Tensor]:
    """The terms' names, and int64 ``[batches, terms]`` rows; no names where all have the same."""
    counted = getattr(objective, "rows", None)
    if counted is None:
        return [], torch.tensor([[int(batch.mask.sum())] for batch in group])
    rows = [counted(batch) for batch in group]
    return list(rows[0]), torch.tensor([list(each.values()) for each in rows])


def _named(names: list[str], shares: list[float]) -> Mapping[str, float]:
    if not names:
        return defaultdict(lambda: shares[0])
    return dict(zip(names, shares, strict=True))
