"""What has to be on the disk before something else is removed from it."""

from __future__ import annotations

import os


def flush(path: str | os.PathLike[str]) -> None:
    """Have a file's bytes, or a folder's names, on the disk before what follows.

    Raises:
        OSError: the disk refuses.
    """
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
