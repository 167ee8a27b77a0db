"""The predecessor's toy: two teachers, 2x - 1 and 2x + 1 for x = 0 … 999.

As a program it serves both in a process of its own: ``python -m tests.integration.toy ADDRESS…``
prints the addresses it bound as one line of JSON.
"""

from __future__ import annotations

import json
import sys

import torch
from torch import Tensor

from teacher_server import Teacher, serve

SIZE = 1000
SHIFTS = {"minus": -1.0, "plus": 1.0}
CODECS = ("float32", "float16", "bfloat16", "int8")
MERGES = {f"{merge}_{codec}": merge for merge in ("mean", "sum") for codec in CODECS}
"""Fields that are the same number, each with a codec and a merge of its own."""


class Numbers:
    """Sample i is the number i, as an input and as a target."""

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return torch.tensor([float(i)]), i


class Line(torch.nn.Module):
    """2x plus a shift, under many names so that one run sees every codec and both merges."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.register_buffer("shift", torch.tensor(shift))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = 2 * x + self.shift
        return dict.fromkeys(MERGES, y)


def toy_teacher(name: str) -> Teacher:
    """Teacher "minus" or "plus"."""
    return Teacher(
        Line(SHIFTS[name]),
        Numbers(),
        schema={field: field.split("_")[1] for field in MERGES},
        dataset_fingerprint="toy",
    )


def toy_teachers() -> dict[str, Teacher]:
    """Both, by name."""
    return {name: toy_teacher(name) for name in SHIFTS}


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(
        toy_teachers(),
        *sys.argv[1:],
        ready=lambda addresses: print(json.dumps(addresses), flush=True),
    )
