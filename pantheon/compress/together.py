"""What the ranks of a stage do once, and by which samples."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from pantheon.compress.stage import Work
from pantheon.errors import CompressionError
from pantheon.sampling.reading import slice_rows
from pantheon.training.rehearsal import first_batch

SEED = 0
"""Of the samples that choices are made by: the same for all workers, stages and cycles."""


def one_input(work: Work, rows: int = 1) -> Any:
    """The inputs of a sample, or of several, on the stage's device."""
    stream = (work.parts.validation or work.parts.train).samples()
    return slice_rows(first_batch(stream).to(torch.device(work.device)).inputs, 0, rows)


def first_alone(work: Work, name: str, do: Callable[[], None]) -> None:
    """Have the first rank do what the others then read from the stage's folder.

    Only the first has the validation part, and the ranks read different samples: what is chosen by
    them is chosen once. The others wait as long as it takes.

    Args:
        name: of the file that is written last; where it is there, nothing is done.
        do: called with the folder made.

    Raises:
        CompressionError: on the other ranks, if the first one failed.
    """
    path, failed = work.folder / name, work.folder / f"{name}.failed"
    if work.ranks.first:
        work.folder.mkdir(parents=True, exist_ok=True)
        failed.unlink(missing_ok=True)
    work.ranks.gather(torch.zeros(1))
    if work.ranks.first:
        try:
            if not path.exists():
                do()
        except BaseException as error:
            if work.ranks.world > 1:
                failed.write_text(f"{type(error).__name__}: {error}")
            raise
    while not path.exists():
        if failed.exists():
            raise CompressionError(f"the first rank failed: {failed.read_text()}")
        time.sleep(0.1)
    work.ranks.gather(torch.zeros(1))
