"""Who works on what in a folder: advice that saves work, never what correctness rests on.

On a local file system a claim is a lock on a hidden file, which the kernel gives back when its
holder dies, however it dies. Elsewhere there are none: workers share the work by rank and look
before each shard whether it is there by now.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pantheon.store.folder import TEMPORARY, Folder

logger = logging.getLogger(__name__)

CLAIM = ".claim-"
_TAIL = 13
"""A temporary name ends in a dash and twelve random digits."""


@contextmanager
def claim(folder: Folder, name: str) -> Iterator[bool]:
    """Hold the claim on a file to be made.

    Yields:
        False when another process holds it; True when this one does, or when the file system has
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
    try:
        mine = _lock(fd, path)
        yield mine
        if mine:
            _unlink(path)
    finally:
        os.close(fd)


def sweep(folder: Folder) -> int:
    """Remove what dead workers left: temporary files and claims that nobody holds.

    Returns:
        How many files were removed.
    """
    if not folder.local:
        return 0
    left = [n for n in folder.files() if n.startswith((TEMPORARY, CLAIM))]
    return sum(_remove_if_unclaimed(folder, n) for n in sorted(left))


def _remove_if_unclaimed(folder: Folder, left: str) -> bool:
    """A temporary file belongs to whoever holds the claim on the file it is to become."""
    temporary = left.startswith(TEMPORARY)
    name = left[len(TEMPORARY) : -_TAIL] if temporary else left[len(CLAIM) :]
    if not name.startswith("shard-") and temporary:
        return False
    with claim(folder, name) as mine:
        if mine and temporary:
            logger.info("removing %s, left by a worker that is gone", folder.full(left))
            _unlink(folder.full(left))
    return mine


def _lock(fd: int, path: str) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS):
            raise
        logger.debug("%s: no locks on this file system, so no claims", path)
    return True


def _unlink(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)
