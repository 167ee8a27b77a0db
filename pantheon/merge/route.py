"""Route: each sample's knowledge from the one teacher that its key names."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pantheon.errors import MergeError
from pantheon.knowledge import Value, concat_values, take_value, value_rows
from pantheon.merge.base import Merge, Positions, is_topk
from pantheon.schema import FieldSpec

Keys = (
    Sequence[Hashable] | NDArray[Any] | Mapping[int, Hashable] | Callable[[NDArray[np.int64]], Any]
)


class Route(Merge):
    """Each sample from one teacher, chosen by the sample's key (language, domain, source).

    Args:
        keys: the key of every sample: a sequence or array indexed by id, a mapping from id, or a
            function from ids ``[n]`` to n keys.
        teachers: teacher by key. A key that is not here is refused.

    Example:
        >>> by_language = Route(["en", "de", "en"], {"en": "bert", "de": "gbert"})
        >>> by_language.assign(np.array([1, 2])).tolist()
        ['gbert', 'bert']
    """

    name = "route"

    def __init__(self, keys: Keys, teachers: Mapping[Any, str]) -> None:
        self.keys, self.teachers = keys, dict(teachers)
        if not self.teachers:
            raise self.fail("*", "no key has a teacher")

    def assign(self, ids: NDArray[np.int64]) -> NDArray[np.object_]:
        """The teacher of each id.

        Raises:
            MergeError: an id without a key, or a key without a teacher; names both.
        """
        keys = self._keys_of(ids)
        out = np.empty(len(ids), dtype=object)
        for i, key in enumerate(keys):
            try:
                out[i] = self.teachers[key]
            except (KeyError, TypeError):
                known = ", ".join(repr(k) for k in list(self.teachers)[:20])
                raise MergeError(
                    f"sample {int(ids[i])} has the key {key!r}, for which Route names no teacher; "
                    f"its keys are {known}"
                ) from None
        return out

    def _keys_of(self, ids: NDArray[np.int64]) -> list[Any]:
        if callable(self.keys):
            keys = _plain(self.keys(ids))
        elif isinstance(self.keys, Mapping):
            _require_ids([i for i in ids.tolist() if i not in self.keys])
            keys = [self.keys[i] for i in ids.tolist()]
        else:
            size = len(self.keys)
            _require_ids(ids[(ids < 0) | (ids >= size)].tolist())
            table: Any = self.keys
            array = isinstance(table, np.ndarray | Tensor)
            keys = _plain(table[ids]) if array else [table[i] for i in ids.tolist()]
        if len(keys) != len(ids):
            raise MergeError(f"Route's keys function gave {len(keys)} keys for {len(ids)} ids")
        return keys

    def spec(self, field: str, specs: Mapping[str, FieldSpec]) -> FieldSpec:
        absent = sorted(set(self.teachers.values()) - specs.keys())
        if absent:
            raise self.fail(
                field,
                f"teacher {absent[0]!r} does not serve it; its teachers are {', '.join(specs)}",
            )
        first = self.require_alike(field, specs, "dtype", "shape", "ragged", "labels")
        if any(is_topk(s) for s in specs.values()):
            self.require_alike(field, specs, "codec")
        return first

    def __call__(self, field: str, values: Mapping[str, Value], rows: Positions, n: int) -> Value:
        positions = {t: rows.get(t) for t in values}
        for teacher, at in positions.items():
            found, expected = value_rows(values[teacher]), n if at is None else len(at)
            if found != expected:
                raise self.fail(
                    field, f"teacher {teacher!r} gave {found} rows for {expected} samples"
                )
        answering = [t for t, at in positions.items() if at is None or len(at)]
        where = [torch.arange(n) if (at := positions[t]) is None else at for t in answering]
        source = self._sources(field, where, n)
        if len(answering) == 1:
            return values[answering[0]]
        if not answering:
            raise self.fail(field, "no teacher answered any row")
        joined = concat_values([values[t] for t in answering])
        return take_value(joined, source.to(joined.device))

    def _sources(self, field: str, where: list[Tensor], n: int) -> Tensor:
        """For each of the n samples, its row in the teachers' values laid end to end."""
        answered = torch.cat(where) if where else torch.empty(0, dtype=torch.int64)
        times = torch.bincount(answered, minlength=n)
        if len(times) != n or not bool((times == 1).all()):
            odd = int((times != 1).nonzero()[0]) if len(times) == n else len(times) - 1
            raise self.fail(
                field,
                f"row {odd} of {n} was answered {int(times[odd])} times; expected each row once",
            )
        source = torch.empty(n, dtype=torch.int64)
        source[answered] = torch.arange(n)
        return source


def _require_ids(absent: list[int]) -> None:
    if absent:
        raise MergeError(
            f"sample {absent[0]} has no key for Route ({len(absent)} of the ids asked for have "
            "none); give keys for every sample id"
        )


def _plain(keys: Any) -> list[Any]:
    """Keys as Python objects: arrays and tensors hold scalars that equal no dictionary key."""
    return list(keys.tolist() if hasattr(keys, "tolist") else keys)
