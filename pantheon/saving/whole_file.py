"""Files that are there whole or not at all, whatever stops their writer."""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from pantheon.errors import DiskFullError, StoreError

PARTIAL = ".partial"
"""How the names of files end that are being written."""

BUFFER = 1 << 20
"""Bytes of small pieces that are written together."""


def write(path: Path, data: bytes) -> None:
    """Put a file of these bytes at `path`, in place of the one that is there.

    Raises:
        OSError: the disk refuses; the old file is still there.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp(), "report.json")
        >>> write(file, b"{}")
        >>> file.read_bytes(), len(list(file.parent.iterdir()))
        (b'{}', 1)
    """
    partial = beside(path)
    try:
        create(partial, [data])
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def beside(path: Path) -> Path:
    """A name for a file that will be put at `path`, which no other writer takes."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL}")


def sweep(folder: Path, *names: str) -> None:
    """Remove what writers of files of these names have left who were killed.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> beside(folder / "run.json").touch()
        >>> sweep(folder, "run.json"), list(folder.iterdir())
        (None, [])
    """
    every = "|".join(map(re.escape, names))
    left = re.compile(rf"\.({every})\.[0-9a-f]{{8}}{re.escape(PARTIAL)}")
    for file in folder.iterdir() if folder.is_dir() else ():
        if left.fullmatch(file.name):
            file.unlink(missing_ok=True)


def create(path: Path, pieces: Iterable[bytes]) -> None:
    """Make a file, and have its bytes on the disk."""
    with open(path, "xb", buffering=BUFFER) as file:
        for piece in pieces:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())


def flush(folder: Path) -> None:
    """Have a folder's names on the disk before what follows."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


@contextmanager
def refusals(what: str, advice: str) -> Iterator[None]:
    """What the disk refuses, as our errors.

    Args:
        what: is being written, such as ``"the checkpoint run.safetensors"``.
        advice: what to do when the disk is full.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error):
            raise DiskFullError(f"no space left for {what}; {advice}") from error
        raise StoreError(f"cannot write {what}: {error}") from error
