"""CURVE keys in files: making them, and reading them only where nobody else can."""

from __future__ import annotations

import logging
import os
import re
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import zmq

from pantheon.errors import ConfigError
from pantheon.store.locks import is_at, lock
from pantheon.transport import key_file
from pantheon.transport.security import Curve

logger = logging.getLogger(__name__)

SERVER = "server"
CLIENTS = "clients"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

WAIT_S = 10.0
"""Seconds that keys may wait to be made while others are made in their folder."""


def generate(folder: str | os.PathLike[str], clients: Iterable[str] = ("student",)) -> list[Path]:
    """Make the keys of a server and of some clients, as far as they are not there.

    ``server.key`` and ``NAME.key`` are public, ``server.key_secret`` and ``NAME.key_secret`` are
    not; ``clients/NAME.key`` allows a client in. Files have mode 0600, new folders 0700. What an
    interrupted run left is finished. A client whose key was taken off the allow-list stays off.

    Returns:
        The files made.

    Raises:
        ConfigError: a name that is no file name, or "server"; a folder that others can write to; a
            public key of a server whose secret is not there; files that cannot be read or written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     [p.name for p in generate(folder, ["ann"])], generate(folder, ["ann"])
        (['server.key', 'server.key_secret', 'ann.key', 'ann.key_secret'], [])
    """
    names = list(clients)
    for name in names:
        if not NAME.fullmatch(name) or name == SERVER:
            raise ConfigError(
                f"client name {name!r}: expected up to 64 letters, digits, '.', '_' and '-', and "
                f"not {SERVER!r}"
            )
    home, made = Path(folder), []
    with _readable(home), _private():
        _make_folder(home)
        with _alone(home):
            _make_folder(home / CLIENTS)
            for name in [SERVER, *names]:
                made += _make_pair(home, name)
    return made


@contextmanager
def _private() -> Iterator[None]:
    """New files are for nobody else."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """An `OSError` says which keys it is about."""
    try:
        yield
    except OSError as error:
        at = error.filename or path
        raise ConfigError(
            f"cannot read or write the key {at}: {error.strerror}; make keys with pantheon keygen "
            "in a folder of your own"
        ) from None


def _make_folder(path: Path) -> None:
    path.mkdir(parents=True, exist_ok=True)
    if (mode := stat.S_IMODE(path.stat().st_mode)) & key_file.WRITE:
        raise ConfigError(
            f"{path} has mode {mode:04o}: others on this machine could put keys of their own "
            "there; name a folder that is not there yet, which is made for you alone, or "
            f"chmod go-w {path} if it is for nothing but keys"
        )


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """Nobody else makes keys in a folder meanwhile; a file system without locks is trusted."""
    path, until = str(home / ".keygen"), time.monotonic() + WAIT_S
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            if lock(fd) is not False and is_at(fd, path):
                yield
                with suppress(FileNotFoundError):
                    os.unlink(path)
                return
        finally:
            os.close(fd)
        if time.monotonic() >= until:
            raise ConfigError(f"another process makes keys in {home} for {WAIT_S:.0f} s; end it")
        time.sleep(0.01)


def _make_pair(home: Path, name: str) -> list[Path]:
    """The secret gets its name last: where it has it, its public key was written."""
    secret = home / f"{name}.key_secret"
    public = (home if name == SERVER else home / CLIENTS) / f"{name}.key"
    begun = home / f".{name}.key_secret"
    if os.path.lexists(secret):
        return _complete(name, public, secret)
    if not os.path.lexists(begun):
        if os.path.lexists(public):
            _only_public(name, public)
            return []
        key_file.write(begun, *zmq.curve_keypair())
    key_file.write(public, key_file.read_secret(begun)[0])
    begun.replace(secret)
    return [public, secret]


def _complete(name: str, public: Path, secret: Path) -> list[Path]:
    own, _ = key_file.read_secret(secret)
    if os.path.lexists(public):
        return []
    if name != SERVER:
        # Taking it away is how a client is shut out.
        logger.warning(
            "client %r stays shut out: it has %s, but %s was taken away; remove %s to make it a "
            "new key that may come in",
            name,
            secret,
            public,
            secret,
        )
        return []
    key_file.write(public, own)
    return [public]


def _only_public(name: str, public: Path) -> None:
    """A public key whose secret is elsewhere is not lost to a new pair."""
    if name == SERVER:
        raise ConfigError(
            f"{public} is there without its secret key: it is of a server elsewhere, or the secret "
            f"was lost; name another folder, or remove {public} to make a new pair"
        )
    logger.warning(
        "client %r has a key on the allow-list already, whose secret is not here; remove %s to "
        "make a new pair",
        name,
        public,
    )


def server_keys(curve: Curve) -> tuple[bytes, bytes]:
    """A server's public and secret key, Z85.

    Raises:
        ConfigError: no key there, one that others can read or write, no allow-list, or one to
            which others can add themselves.
    """
    folder = clients_folder(curve)
    if not folder.is_dir():
        raise ConfigError(
            f"{folder} is no folder: it lists the public keys of the clients that may come in; "
            "make it with pantheon keygen"
        )
    if (mode := stat.S_IMODE(folder.stat().st_mode)) & key_file.WRITE:
        raise ConfigError(
            f"{folder} has mode {mode:04o}, so others on this machine can let themselves in; "
            f"chmod go-w {folder}"
        )
    path = Path(curve.folder) / f"{SERVER}.key_secret"
    with _readable(path):
        return key_file.read_secret(path)


def client_keys(curve: Curve) -> tuple[bytes, bytes, bytes]:
    """The server's public key, and a client's own public and secret key, Z85.

    Raises:
        ConfigError: a key that is not there, a secret one that others can read or write, or a
            public one that others can write.
    """
    home = Path(curve.folder)
    server, own = home / f"{SERVER}.key", home / f"{curve.client}.key_secret"
    with _readable(server):
        public = key_file.read_public(server)
    with _readable(own):
        return public, *key_file.read_secret(own)


def clients_folder(curve: Curve) -> Path:
    """Where the allow-list is."""
    return Path(curve.folder) / CLIENTS
