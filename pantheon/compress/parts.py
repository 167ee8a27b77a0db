"""Which samples are for what: the ids of a dataset's parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pantheon.compress.config import PartedStreamConfig
from pantheon.dataset import check_map_style
from pantheon.errors import ConfigError
from pantheon.reference import resolve

PARTS = ("train", "validation", "test")


def part_ids(config: PartedStreamConfig, dataset: Any) -> dict[str, Sequence[int]]:
    """The ids of each part that a configuration names; empty where it names none.

    Raises:
        ConfigError: a part beyond the dataset, or a function that answers None; names the line.
    """
    given = {} if config.parts is None else {n: getattr(config.parts, n) for n in PARTS}
    return {n: _ids(config, n, of, dataset) for n, of in given.items() if of is not None}


def _ids(config: PartedStreamConfig, name: str, given: Any, dataset: Any) -> Sequence[int]:
    where = config.where("parts", name)
    if isinstance(given, tuple):
        size = check_map_style(dataset)
        if given[1] > size:
            raise ConfigError(
                f"{where}: {list(given)} goes beyond the {size} samples of the dataset"
            )
        return range(*given)
    ids: Sequence[int] | None = resolve(given, where)(dataset)
    if ids is None:
        raise ConfigError(f"{where}: {given} answered None; expected the ids of that part")
    return ids
