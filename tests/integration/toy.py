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
FIELDS = ("mean", "sum")


class Numbers:
    """Sample i is the number i, as an input and as a target."""

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return torch.tensor([float(i)]), i


class Line(torch.nn.Module):
    """2x plus a shift, under two names so that one run sees both merges."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.register_buffer("shift", torch.tensor(shift))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = 2 * x + self.shift
        return {"mean": y, "sum": y}


def toy_teacher(name: str, codec: str = "float32") -> Teacher:
    """Teacher "minus" or "plus"."""
    return Teacher(
        Line(SHIFTS[name]),
        Numbers(),
        schema=dict.fromkeys(FIELDS, codec),
        dataset_fingerprint="toy",
    )


def models(codecs: tuple[str, ...]) -> dict[str, Teacher]:
    """Both teachers in every codec, named "minus-float32" and so on."""
    return {f"{name}-{codec}": toy_teacher(name, codec) for name in SHIFTS for codec in codecs}


CODECS = ("float32", "float16", "bfloat16", "int8")

if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(
        models(CODECS),
        *sys.argv[1:],
        ready=lambda addresses: print(json.dumps(addresses), flush=True),
    )
