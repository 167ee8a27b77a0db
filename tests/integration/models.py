"""Models and datasets of a module, so that worker processes can be given them."""

from __future__ import annotations

import os
import time
from typing import Any

import torch
from torch import Tensor

SIZE = 200
WIDTH = 24


class Vectors:
    """Sample i is a row of random numbers, with a target."""

    def __init__(self, size: int = SIZE) -> None:
        generator = torch.Generator().manual_seed(1)
        self.rows = torch.randn(size, WIDTH, generator=generator)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.rows[i], i


class Augmented(Vectors):
    """View v adds v to the input."""

    def get(self, i: int, view: int) -> tuple[Tensor, int]:
        return self.rows[i] + view, i


def net(width: int = 512) -> torch.nn.Sequential:
    """A small network whose rows have other bits in another batch shape."""
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(WIDTH, width),
        torch.nn.ReLU(),
        torch.nn.Dropout(0.5),
        torch.nn.Linear(width, 10),
    )


class Slow(torch.nn.Module):
    """Echoes its input after some seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.seconds)
        return x


class Perishable(torch.nn.Module):
    """Cannot be unpickled once a file exists."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def __setstate__(self, state: dict[str, Any]) -> None:
        if os.path.exists(state["path"]):
            raise RuntimeError("spoilt")
        super().__setstate__(state)

    def forward(self, x: Tensor) -> Tensor:
        return x


class Deadly(torch.nn.Module):
    """Ends its process when it sees sample ``victim`` among the ids."""

    def __init__(self, victim: int, once: str = "") -> None:
        super().__init__()
        self.victim, self.once = victim, once

    def forward(self, ids: Tensor) -> Tensor:
        if bool((ids == self.victim).any()) and not (self.once and os.path.exists(self.once)):
            if self.once:
                open(self.once, "w").close()
            os._exit(9)
        return ids.to(torch.float32)
