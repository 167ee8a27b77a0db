"""The table's rows beside each other: which cells are paired, and how they differ."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.paired import Accuracies, Difference, compare
from benchmarks.table_cells import Table, root_of
from examples.vision.regions import regions


def records(table: Table, row: str) -> dict[int, dict[str, Any]]:
    """A row's finished seeds."""
    parts = (path.stem.rpartition("-") for path in sorted(table.results.glob(f"{row}-*.json")))
    seeds = [int(seed) for name, _, seed in parts if name == row and seed.isdecimal()]
    found = {seed: table.record(row, seed) for seed in seeds}
    return {seed: record for seed, record in found.items() if record}


def accuracies(table: Table, row: str) -> dict[int, list[float]]:
    """Accuracy by region of a row's finished seeds."""
    return {seed: record["regions"] for seed, record in records(table, row).items()}


def pairs(
    table: Table, row: str, baseline: str
) -> dict[int, tuple[dict[str, Any], dict[str, Any]]]:
    """A row and its baseline, by the seeds that both have.

    The baseline is one that began with the same weights, where there is one.
    """
    found = {}
    for seed, ours in records(table, row).items():
        theirs = table.record_from(baseline, seed, root_of(ours)) or table.record(baseline, seed)
        if theirs is not None:
            found[seed] = ours, theirs
    return found


def difference(
    table: Table, row: str, baseline: str, *, photographs: bool = False
) -> Difference | None:
    """How much better a row is, over the seeds that both have; None for fewer than two.

    Args:
        photographs: whether regions of one photograph count as one sample of what there could be.
    """
    both = pairs(table, row, baseline).values()
    if len(both) < 2:
        return None
    pair: tuple[Accuracies, Accuracies] = (
        np.array([ours["regions"] for ours, _ in both]),
        np.array([theirs["regions"] for _, theirs in both]),
    )
    found = regions(len(pair[0][0]))
    return compare(*pair, [region.photograph for region in found] if photographs else None)


def apart(table: Table, row: str, baseline: str) -> list[int]:
    """The seeds in which a row did not begin with the weights that the baseline did."""
    both = pairs(table, row, baseline).items()
    return [seed for seed, (ours, theirs) in both if root_of(ours) != root_of(theirs)]


def better(table: Table) -> str:
    """The better of B and B+, by their mean over the seeds that both have."""
    found = difference(table, "B+", "B")
    return "B" if found is not None and found.mean < 0 else "B+"
