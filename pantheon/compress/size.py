"""How large a model is: its numbers in memory, and its bytes on disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from pantheon.errors import ConfigError


@dataclass(frozen=True)
class Parameters:
    """How many numbers a model consists of.

    Args:
        total: elements of its parameters, one that several modules share counted once.
        trainable: those of them that ask for gradients.
        buffers: elements of its buffers, such as running means and masks.
    """

    total: int
    trainable: int
    buffers: int


def parameters(model: torch.nn.Module) -> Parameters:
    """Count the elements of a model's parameters and buffers, zeros included.

    Weights that a quantized module packs are neither; `bytes_on_disk` has them.

    Raises:
        ValueError: a lazy parameter, whose shape the first forward decides.

    Example:
        >>> parameters(torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3)))
        Parameters(total=15, trainable=15, buffers=7)
    """
    every = list(model.parameters())
    return Parameters(
        sum(p.numel() for p in every),
        sum(p.numel() for p in every if p.requires_grad),
        sum(b.numel() for b in model.buffers()),
    )


def bytes_on_disk(path: str | os.PathLike[str]) -> int:
    """The bytes of a file, or of all files in a folder and its folders.

    A link counts as the file that it leads to, and a file with several names once. Folders behind
    links are left out.

    Raises:
        ConfigError: there is nothing at the path.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     _ = Path(folder, "weights.bin").write_bytes(bytes(100))
        ...     bytes_on_disk(folder)
        100
    """
    start = Path(path)
    if not start.exists():
        raise ConfigError(
            f"nothing is at {os.fspath(path)!r}; expected a file or a folder of this machine"
        )
    found = [file.stat() for file in _files(start)]
    return sum({(each.st_dev, each.st_ino): each.st_size for each in found}.values())


def _files(start: Path) -> Iterator[Path]:
    if start.is_file():
        yield start
    for folder, _, names in os.walk(start):
        yield from (file for name in names if (file := Path(folder, name)).is_file())
