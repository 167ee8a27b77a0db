"""CURVE keys in files: making them, and reading them only where nobody else can."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import zmq.auth

from pantheon.errors import ConfigError
from pantheon.transport.security import Curve

SERVER = "server"
CLIENTS = "clients"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

MAX_BYTES = 1 << 16
"""Bytes of a key file; more are refused."""


def generate(folder: str | os.PathLike[str], clients: Iterable[str] = ("student",)) -> list[Path]:
    """Make the keys of a server and of some clients, as far as they are not there.

    ``server.key`` and ``NAME.key`` are public, ``server.key_secret`` and ``NAME.key_secret`` are
    not (mode 0600, in a folder of mode 0700); ``clients/NAME.key`` allows a client in.

    Returns:
        The files made.

    Raises:
        ConfigError: a name that is no file name, or "server".

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     [p.name for p in generate(folder, ["ann"])], generate(folder, ["ann"])
        (['server.key', 'server.key_secret', 'ann.key_secret', 'ann.key'], [])
    """
    names = list(clients)
    for name in names:
        if not NAME.fullmatch(name) or name == SERVER:
            raise ConfigError(
                f"client name {name!r}: expected up to 64 letters, digits, '.', '_' and '-', and "
                f"not {SERVER!r}"
            )
    home, made = Path(folder), []
    with _private():
        (home / CLIENTS).mkdir(parents=True, exist_ok=True)
        home.chmod(0o700)
        if not (home / f"{SERVER}.key_secret").exists():
            made += [Path(p) for p in zmq.auth.create_certificates(home, SERVER)]
        for name in names:
            if not (home / f"{name}.key_secret").exists():
                public, secret = zmq.auth.create_certificates(home, name)
                allowed = home / CLIENTS / f"{name}.key"
                os.replace(public, allowed)
                made += [Path(secret), allowed]
    return made


@contextmanager
def _private() -> Iterator[None]:
    """New files are for nobody else."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def server_keys(curve: Curve) -> tuple[bytes, bytes]:
    """A server's public and secret key, Z85.

    Raises:
        ConfigError: no key there, one that others can read, or no allow-list.
    """
    if not clients_folder(curve).is_dir():
        raise ConfigError(
            f"{clients_folder(curve)} is no folder: it lists the public keys of the clients that "
            "may come in; make it with pantheon keygen"
        )
    return _secret(Path(curve.folder) / f"{SERVER}.key_secret")


def client_keys(curve: Curve) -> tuple[bytes, bytes, bytes]:
    """The server's public key, and a client's own public and secret key, Z85.

    Raises:
        ConfigError: a key that is not there, or a secret one that others can read.
    """
    home = Path(curve.folder)
    server, _ = _load(home / f"{SERVER}.key")
    return server, *_secret(home / f"{curve.client}.key_secret")


def clients_folder(curve: Curve) -> Path:
    """Where the allow-list is."""
    return Path(curve.folder) / CLIENTS


def _secret(path: Path) -> tuple[bytes, bytes]:
    public, secret = _load(path)
    if secret is None:
        raise ConfigError(f"{path} has no secret key; make one with pantheon keygen")
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o007:
        raise ConfigError(
            f"{path} has mode {mode:04o}, so anybody on this machine can read this secret key; "
            f"chmod 600 {path}"
        )
    return public, secret


def _load(path: Path) -> tuple[bytes, bytes | None]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{path} is larger than a key can be")
        public, secret = zmq.auth.load_certificate(path)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"cannot read the key {path}: {error}; make keys with pantheon keygen"
        ) from None
    for key in (public, secret):
        if key is not None and len(key) != 40:
            raise ConfigError(f"{path} holds a key of {len(key)} characters; expected 40 (Z85)")
    return public, secret
