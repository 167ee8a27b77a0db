"""A student's part of the tests of training in ranks: few labels, unevenly spread, and dropout."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

SIZE = 90


class Rows:
    """Rows of random numbers; one in seven has a label."""

    def __init__(self) -> None:
        self.rows = torch.randn(SIZE, 4, generator=torch.Generator().manual_seed(1))

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.rows[i], (i % 3 if i % 7 == 0 else -100)


class Student(nn.Module):
    """Has a layer that no loss sees, as one whose other outputs are not asked for."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(4, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 3, dtype=torch.float32)
        )
        self.unseen = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.net(x), "unseen": self.unseen(x)}


def teacher() -> nn.Module:
    torch.manual_seed(5)
    return nn.Linear(4, 3)


def evaluate(model: nn.Module) -> Mapping[str, float]:
    """Kills its process at its second call, where the test asked for that."""
    flag = Path(os.environ.get("DIE_ONCE", "/nowhere/at/all"))
    if flag.with_suffix(".first").exists() and not flag.exists():
        flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if flag.parent.exists():
        flag.with_suffix(".first").touch()
    return {"weight": float(next(model.parameters()).sum())}
