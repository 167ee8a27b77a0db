"""The arrays of the design's workloads W1 to W4, and a teacher that has them ready.

The teacher's model is a lookup: it hands out slices of tables made beforehand, so that what is
timed is the way from the teacher's arrays to the student's batch and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pantheon.dataset import Ids
from pantheon.knowledge import Ragged, TopKLogits
from teacher_server import Teacher

TOKENS = 1024
KEPT = 64
VOCABULARY = 32_000


@dataclass(frozen=True)
class Workload:
    """One row of the table.

    Args:
        name: W1 to W4.
        batch: samples a batch.
        distinct: batches the teacher has ready; longer runs see them again.
        batches: batches in one timed block.
        device: samples the teacher's model takes at once.
    """

    name: str
    what: str
    batch: int
    distinct: int
    batches: int
    device: int


WORKLOADS = {
    w.name: w
    for w in (
        Workload("W1", "128 x fp32[1000]", 128, 64, 100, 1024),
        Workload("W2", "32 x fp32[256,14,14]", 32, 16, 100, 128),
        Workload("W3", "8 x 1024 tokens x top-64", 8, 16, 100, 32),
        Workload("W4", "32 x fp32[10]", 32, 3200, 3200, 1024),
    )
}


def arrays(workload: Workload) -> list[Tensor]:
    """The tables of one workload: coded parts whose rows the teacher hands out."""
    generator = torch.Generator().manual_seed(0)
    rows = workload.batch * workload.distinct
    shapes = {"W1": (1000,), "W2": (256, 14, 14), "W4": (10,)}
    if workload.name != "W3":
        return [torch.randn(rows, *shapes[workload.name], generator=generator)]
    shape = (rows * TOKENS, KEPT)
    values = torch.randn(shape, generator=generator).sort(dim=1, descending=True).values
    indices = torch.randint(
        0, VOCABULARY - KEPT, (shape[0], 1), generator=generator
    ) + torch.arange(KEPT)
    return [values, indices.int(), torch.zeros(shape[0], 1)]


class Lookup:
    """A model that answers sample ids (int64 ``[n]``, consecutive) with slices of its tables."""

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.rows = workload.batch * workload.distinct
        # As many rows again from the start as a forward may need, so that none has to wrap around.
        more = workload.device * (TOKENS if workload.name == "W3" else 1)
        self.tables = [torch.cat([t, t[:more]]) for t in arrays(workload)]

    def __call__(self, ids: Tensor) -> Tensor | Ragged:
        start = int(ids[0]) % self.rows
        stop = start + len(ids)
        if self.workload.name != "W3":
            return self.tables[0][start:stop]
        values, indices, tail = (t[start * TOKENS : stop * TOKENS] for t in self.tables)
        lengths = torch.full((len(ids),), TOKENS, dtype=torch.int64)
        return Ragged(TopKLogits(values, indices, tail, (1.0,), VOCABULARY), lengths)


def teacher(workload: Workload) -> Teacher:
    """The teacher of one workload."""
    schema = {"W3": f"topk:{KEPT}"}.get(workload.name, "float32")
    return Teacher(
        Lookup(workload),
        Ids(workload.batch * workload.batches),
        schema={"logits": schema},
        revision=workload.name,
        batch_rows=workload.device,
    )
