"""A file on this machine, and older copies beside it: ``PATH.1`` the youngest, and so on."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from pantheon.errors import ConfigError

_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)
"""What file systems without hard links say."""


def local(path: str | os.PathLike[str]) -> Path:
    """A path as it was given, if it is none of another machine.

    Raises:
        ConfigError: it is a URL, which would stand for a folder ``s3:`` here.

    >>> local("runs/run.safetensors").name
    'run.safetensors'
    """
    if "://" in os.fspath(path):
        raise ConfigError(
            f"the checkpoint {os.fspath(path)!r} is a URL; expected a path of a local or mounted "
            "file system, where a rename is atomic: write there, and copy the file on"
        )
    return Path(path)


def older(path: Path, age: int) -> Path:
    """Where the file that was at `path` some saves ago is kept; `path` itself for age 0.

    >>> str(older(Path("run.safetensors"), 1))
    'run.safetensors.1'
    """
    return path.with_name(f"{path.name}.{age}") if age else path


def ages(path: Path) -> list[int]:
    """The ages of the files there are by their names, 0 for `path` itself, the youngest first.

    >>> ages(Path("/nowhere/run.safetensors"))
    []
    """
    prefix = f"{path.name}."
    beside = path.parent.iterdir() if path.parent.is_dir() else ()
    ends = (f.name.removeprefix(prefix) for f in beside if f.name.startswith(prefix))
    found = [int(end) for end in ends if end.isdecimal() and end[0] != "0"]
    return [0] * path.exists() + sorted(found)


def replace(new: Path, path: Path, keep: int) -> None:
    """Put the file `new` at `path`, and make the one that was there its youngest copy.

    Cut off at any point, there is a file at `path`, the old or the new one, and beside it a copy of
    another content, if there was one before. File systems without hard links promise less: for a
    moment the old file is a copy already, and the new one is not at `path` yet.

    Args:
        keep: how many files there are to be, the new one included; older ones are replaced.
    """
    if keep < 2 or not path.exists():
        os.replace(new, path)
        return
    held = new.with_suffix(f".held{new.suffix}")
    try:
        if _linked(path, held):
            os.replace(new, path)
            _shift(path, keep)
            os.replace(held, older(path, 1))
        else:
            _shift(path, keep)
            os.replace(path, older(path, 1))
            os.replace(new, path)
    finally:
        held.unlink(missing_ok=True)


def _linked(path: Path, other: Path) -> bool:
    """Give a file a second name; False where a file has only one."""
    try:
        os.link(path, other)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return False
    return True


def _shift(path: Path, keep: int) -> None:
    """Make every copy one save older, so that there is no youngest one."""
    for age in range(keep - 2, 0, -1):
        if older(path, age).exists():
            os.replace(older(path, age), older(path, age + 1))
