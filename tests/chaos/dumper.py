"""A dump of a small teacher, for `tests.chaos.doomed`."""

from __future__ import annotations

import torch
from torch import Tensor

from pantheon.errors import DiskFullError
from pantheon.schema import FieldSpec, KnowledgeSchema
from pantheon.store import folder
from pantheon.store.pairs import Ids
from teacher_server.dump import dump
from tests.chaos.doomed import FULL, Fate

SIZE, SHARD_ROWS = 20, 8


class Squares:
    """Sample i has i squared, and i % 3 tokens."""

    schema = KnowledgeSchema(
        (
            FieldSpec("square", "float32", ()),
            FieldSpec("tokens", "int64", (), "raw", ragged="tokens"),
        )
    )
    revision, dataset_fingerprint, size, batch_rows = "r1", "d1", SIZE, 4

    def score(self, ids: Ids, views: Ids | None = None) -> list[Tensor]:
        numbers = torch.from_numpy(ids)
        return [numbers.float() ** 2, numbers % 3, numbers.repeat_interleave(numbers % 3)]


def live(fate: Fate, path: str) -> int:
    """Dump; `FULL` when the disk is."""
    folder.open = fate.opener()  # type: ignore[attr-defined]
    try:
        dump(Squares(), path, shard_rows=SHARD_ROWS)
    except DiskFullError:
        return FULL
    return 0
