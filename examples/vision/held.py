"""Rendered views that are kept: in memory, or in a file that is memory-mapped."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from examples.vision.photographs import Pixels
from pantheon.errors import StoreError

Fill = Callable[[Pixels], None]
"""Writes every value of the array that it is given."""


def held(path: Path | None, shape: tuple[int, ...], fill: Fill) -> Pixels:
    """What `fill` made of an array, or what it had made of the file before.

    Args:
        path: a ``.npy`` file; it is written if it is absent, and appears whole or not at all. None
            keeps the array in memory.
        shape: of the uint8 array.

    Returns:
        the array, which cannot be written to.

    Raises:
        StoreError: the file is none of ours, or damaged.

    Example:
        >>> held(None, (2,), lambda array: array.fill(7)).tolist()
        [7, 7]
    """
    if path is None:
        made = np.empty(shape, np.uint8)
        fill(made)
        made.flags.writeable = False
        return made
    if not path.exists():
        _write(path, shape, fill)
    return _read(path, shape)


def _write(path: Path, shape: tuple[int, ...], fill: Fill) -> None:
    """Make the file under another name first; of several writers the last one's stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=".npy", dir=path.parent)
    os.close(handle)
    try:
        array = np.lib.format.open_memmap(name, mode="w+", dtype=np.uint8, shape=shape)
        fill(array)
        array.flush()
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _read(path: Path, shape: tuple[int, ...]) -> Pixels:
    again = "delete it, and it is made again"
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise StoreError(f"{path} cannot be read as views ({error}); {again}") from error
    if found.shape != shape or found.dtype != np.uint8:
        raise StoreError(
            f"{path} holds {found.dtype} {found.shape}; expected uint8 {shape}; {again}"
        )
    return np.asarray(found)
