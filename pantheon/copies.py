"""Older copies of a file beside it: ``PATH.1`` the youngest, ``PATH.2``, and so on."""

from __future__ import annotations

import errno
import os
from pathlib import Path

_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)
"""What file systems without hard links say."""


def older(path: Path, age: int) -> Path:
    """Where the file that was at `path` some saves ago is kept; `path` itself for age 0.

    >>> str(older(Path("run.safetensors"), 1))
    'run.safetensors.1'
    """
    return path.with_name(f"{path.name}.{age}") if age else path


def ages(path: Path) -> list[int]:
    """The ages of the files there are, 0 for `path` itself, the youngest first.

    >>> ages(Path("/nowhere/run.safetensors"))
    []
    """
    prefix = f"{path.name}."
    beside = path.parent.iterdir() if path.parent.is_dir() else ()
    ends = (f.name.removeprefix(prefix) for f in beside if f.name.startswith(prefix))
    found = [int(end) for end in ends if end.isdecimal() and end[0] != "0"]
    return [0] * path.exists() + sorted(found)


def push(path: Path, keep: int) -> None:
    """Make the file at `path` its own youngest copy, so that it may be replaced.

    The file stays at `path` too, so that there is one at any time, except on file systems without
    hard links: there it is renamed.

    Args:
        keep: how many files there are to be, the next one at `path` included.
    """
    if keep < 2 or not path.exists():
        return
    for age in range(keep - 2, 0, -1):
        if older(path, age).exists():
            os.replace(older(path, age), older(path, age + 1))
    youngest = older(path, 1)
    youngest.unlink(missing_ok=True)
    try:
        os.link(path, youngest)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        os.replace(path, youngest)


def forget(path: Path, first: int) -> None:
    """Remove the copies from the age `first` on."""
    for age in ages(path):
        if age >= first:
            older(path, age).unlink(missing_ok=True)
