"""Covering arrays: few cases that contain every pair of values of every two parameters."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

Pair = tuple[tuple[str, Any], tuple[str, Any]]


def pairs_of(case: Mapping[str, Any]) -> set[Pair]:
    """All pairs of (parameter, value) in one case."""
    return set(itertools.combinations(case.items(), 2))


def pairwise(parameters: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Choose cases greedily from the whole product until every pair is covered.

    >>> len(pairwise({"a": [1, 2], "b": [1, 2], "c": [1, 2]}))
    4
    """
    names = list(parameters)
    product = [
        dict(zip(names, values, strict=True)) for values in itertools.product(*parameters.values())
    ]
    wanted = set().union(*(pairs_of(case) for case in product))
    chosen = []
    while wanted:
        best = max(product, key=lambda case: len(pairs_of(case) & wanted))
        chosen.append(best)
        wanted -= pairs_of(best)
    return chosen
