"""Locks on open files, which the kernel gives back when their holder dies, however it dies."""

from __future__ import annotations

import errno
import fcntl
import os

_NONE_HERE = (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS)


def lock(fd: int) -> bool | None:
    """Lock an open file without waiting.

    Returns:
        Whether this process holds it now; None when the file system has no locks.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryFile() as file:
        ...     lock(file.fileno())
        True
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NONE_HERE:
            raise
        return None
    return True


def is_at(fd: int, path: str) -> bool:
    """Whether an open file is still the one at a path: its last holder may have removed it.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     is_at(file.fileno(), file.name), is_at(file.fileno(), "/nowhere")
        (True, False)
    """
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(fd), found)
