"""A program that dumps a slow teacher: ``python -m tests.integration.dumper FOLDER [SECONDS]``.

It prints one line of JSON before it begins and one with its report, each a line.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time

import torch
from torch import Tensor

from pantheon.schema import FieldSpec, KnowledgeSchema
from pantheon.store.pairs import Ids
from teacher_server.dump import dump

SIZE = 600
WIDTH = 256
SHARD_ROWS = 50


class Slow:
    """A scorer that takes its time over every ten samples."""

    schema = KnowledgeSchema((FieldSpec("logits", "float32", (WIDTH,)),))
    revision, dataset_fingerprint, size, batch_rows = "r1", "d1", SIZE, 10

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def score(self, ids: Ids, views: Ids | None = None) -> list[Tensor]:
        time.sleep(self.seconds)
        return [torch.from_numpy(ids).float()[:, None] + torch.arange(float(WIDTH))]


if __name__ == "__main__":
    print(json.dumps("ready"), flush=True)
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 0.0
    report = dump(Slow(seconds), sys.argv[1], shard_rows=SHARD_ROWS)
    print(json.dumps(dataclasses.asdict(report)), flush=True)
