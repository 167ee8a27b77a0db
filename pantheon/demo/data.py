"""scikit-learn's digits: 1,797 scans of 8 by 8 pixels, cut into a training and a test part."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from pantheon.training.objective import IGNORE

TEST = 450
"""Digits held out; no choice of the demo looks at them."""

LABELLED = 100
CLASSES = 10
PIXELS = 64


@dataclass(frozen=True, slots=True)
class Part:
    """Some digits; a map-style dataset of (pixels, label).

    Args:
        pixels: float32 ``[n, 64]``, from 0 to 1.
        labels: int64 ``[n]``, `IGNORE` where the label is withheld.
    """

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.pixels[i], self.labels[i]

    def with_labels(self, count: int, seed: int) -> Part:
        """The same digits with all labels but `count` withheld, as many of each class.

        Example:
            >>> part = training_part().with_labels(100, seed=0)
            >>> len(part), int((part.labels != IGNORE).sum())
            (1347, 100)
        """
        generator = torch.Generator().manual_seed(seed)
        labels = torch.full_like(self.labels, IGNORE)
        for digit in range(CLASSES):
            rows = (self.labels == digit).nonzero().squeeze(1)
            kept = rows[torch.randperm(len(rows), generator=generator)[: count // CLASSES]]
            labels[kept] = digit
        return Part(self.pixels, labels)

    def labelled(self) -> Part:
        """Only the digits whose labels are known."""
        rows = self.labels != IGNORE
        return Part(self.pixels[rows], self.labels[rows])


@cache
def _parts() -> tuple[Part, Part]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = torch.from_numpy((digits.data / 16).astype(np.float32))
    labels = torch.from_numpy(digits.target.astype(np.int64))
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    test, train = order[:TEST], order[TEST:]
    return Part(pixels[train], labels[train]), Part(pixels[test], labels[test])


def training_part() -> Part:
    """The 1,347 digits that teachers and students learn from, all labels known.

    Example:
        >>> len(training_part())
        1347
    """
    return _parts()[0]


def held_out_part() -> Part:
    """The 450 digits held out.

    Example:
        >>> len(held_out_part())
        450
    """
    return _parts()[1]


def accuracy(model: torch.nn.Module, part: Part) -> float:
    """Share of a part's digits that a model names right, from 0 to 1."""
    model.eval()
    with torch.inference_mode():
        return float((model(part.pixels).argmax(dim=1) == part.labels).double().mean())
