"""One key file: read and checked through one descriptor, and written whole or not at all."""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path

from zmq.utils import z85

from pantheon.errors import ConfigError

MAX_BYTES = 1 << 16
"""Bytes of a key file; more are refused."""

WRITE = stat.S_IWGRP | stat.S_IWOTH

Stamp = tuple[int, ...]


def stamp(path: Path) -> Stamp:
    """What differs when a file was changed or replaced; looking takes no descriptor.

    Raises:
        OSError: it is not there, or cannot be looked at.
    """
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def read_public(path: Path) -> bytes:
    """The public key in a file, Z85.

    Raises:
        ConfigError: no key in it, or others can write to it.
        OSError: it cannot be opened or read.
    """
    (public, _), found = _read(path)
    if found.st_mode & WRITE:
        raise ConfigError(
            f"{path} has mode {_mode(found)}, so others on this machine can put a key of their own "
            f"there; chmod go-w {path}"
        )
    return public


def read_secret(path: Path) -> tuple[bytes, bytes]:
    """The public and the secret key in a file, Z85.

    Raises:
        ConfigError: no such keys in it, or others can read or write it.
        OSError: it cannot be opened or read.
    """
    (public, secret), found = _read(path)
    if secret is None:
        raise ConfigError(f"{path} has no secret key; make one with pantheon keygen")
    if exposed(found.st_mode, found.st_uid, os.geteuid()):
        raise ConfigError(
            f"{path} has mode {_mode(found)}, so others on this machine can read or change this "
            f"secret key; chmod 600 {path}"
        )
    return public, secret


def exposed(mode: int, owner: int, user: int) -> bool:
    """Whether a secret file is open to more than its user.

    Nobody else may write it, nor read it; but where root or somebody else owns it, its user reads
    it as a member of its group, as from a volume with a Kubernetes secret.

    Example:
        >>> exposed(0o600, 1000, 1000), exposed(0o640, 1000, 1000), exposed(0o440, 0, 1000)
        (False, True, False)
    """
    return bool(mode & (0o077 if owner == user != 0 else 0o027))


def write(path: Path, public: bytes, secret: bytes | None = None) -> None:
    """Write a key file for nobody else, whole or not at all; a link there is replaced.

    Raises:
        OSError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(temporary, flags, 0o600), "wb") as file:
        kind = b"Public" if secret is None else b"**Secret**"
        file.write(b"#   ZeroMQ CURVE %s Certificate\n\n" % kind)
        file.write(b'metadata\ncurve\n    public-key = "%s"\n' % public)
        if secret is not None:
            file.write(b'    secret-key = "%s"\n' % secret)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _mode(found: os.stat_result) -> str:
    return f"{stat.S_IMODE(found.st_mode):04o}"


def _read(path: Path) -> tuple[tuple[bytes, bytes | None], os.stat_result]:
    # A pipe is not waited for.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise ConfigError(f"{path} is no regular file; expected a key of pantheon keygen")
        text = file.read(MAX_BYTES + 1)
    if len(text) > MAX_BYTES:
        raise ConfigError(f"{path} is larger than a key can be")
    return _parse(path, text), found


def _parse(path: Path, text: bytes) -> tuple[bytes, bytes | None]:
    """The keys in a certificate file of ZeroMQ."""
    keys: dict[bytes, bytes] = {}
    for line in text.splitlines():
        word, equals, value = line.partition(b"=")
        if equals:
            keys.setdefault(word.strip(), value.strip(b" \t'\""))
    if b"public-key" not in keys:
        raise ConfigError(
            f"cannot read the key {path}: no public key in it; make keys with pantheon keygen"
        )
    for word in (b"public-key", b"secret-key"):
        if word in keys:
            _check(path, keys[word])
    return keys[b"public-key"], keys.get(b"secret-key")


def _check(path: Path, key: bytes) -> None:
    if len(key) != 40:
        raise ConfigError(f"{path} holds a key of {len(key)} characters; expected 40 (Z85)")
    try:
        z85.decode(key)
    except (KeyError, ValueError, struct.error):
        raise ConfigError(f"{path} holds a key that is no Z85; copy it again") from None
