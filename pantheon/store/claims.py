"""Who works on what in a folder: advice that saves work, never what correctness rests on.

On a local file system a claim is a lock on a hidden file, which the kernel gives back when its
holder dies, however it dies. Elsewhere there are none: workers share the work by rank and look
before each shard whether it is there by now.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pantheon.store.folder import TEMPORARY, Folder
from pantheon.store.locks import is_at, lock

logger = logging.getLogger(__name__)

CLAIM = ".claim-"


@contextmanager
def claim(folder: Folder, name: str) -> Iterator[bool]:
    """Hold the claim on a file to be made.

    Yields:
        False when another worker holds it; True when this one does, or when the file system has
        no locks.

    Example:
        >>> with claim(Folder("memory://d"), "shard-0.safetensors") as mine:
        ...     mine
        True
    """
    if not folder.local:
        yield True
        return
    path = folder.full(CLAIM + name)
    with folder.no_space(path, 0):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    mine = lock(fd) is not False and is_at(fd, path)
    try:
        yield mine
    finally:
        if mine:
            _unlink(path)
        os.close(fd)


def sweep(folder: Folder) -> int:
    """Remove what dead workers left: temporary files and claims that nobody holds.

    Returns:
        How many files were removed.
    """
    if not folder.local:
        return 0
    left = sorted(n for n in folder.files() if n.startswith((TEMPORARY, CLAIM)))
    return sum(_remove_if_unheld(folder.full(name)) for name in left)


def _remove_if_unheld(path: str) -> bool:
    """A living worker locks its files; where there are no locks, nothing is removed."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        unheld = lock(fd) is True
        if unheld:
            logger.info("removing %s, left by a worker that is gone", path)
            _unlink(path)
    finally:
        os.close(fd)
    return unheld


def _unlink(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)
