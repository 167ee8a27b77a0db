"""Who may come in: the public keys in a folder, read again when they change."""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from pantheon.errors import ConfigError
from pantheon.transport import key_file
from pantheon.transport.keys import NAME

logger = logging.getLogger(__name__)

REFRESH_S = 1.0
"""Seconds in which a change of the allow-list is noticed."""

TRIES = 5
"""Looks in a row at a folder that cannot be listed after which nobody may come in."""

WARN_S = 10.0
"""Seconds between two errors of a folder that cannot be listed: strangers may cause many."""

MAX_CLIENTS = 100_000
"""Public keys in an allow-list; more are refused."""

ENDING = ".key"
SHORT = (errno.EMFILE, errno.ENFILE)

File = tuple[key_file.Stamp | None, bytes | None]
"""What a file looked like, unless it has to be read again, and its key, unless it has none."""


class AllowList:
    """The clients whose public keys are in a folder, file by file.

    What is wrong with a file leaves that client out and no other. A folder that cannot be listed
    lets nobody in after `TRIES` looks. Where only descriptors are short, the files known are still
    looked at, which takes none: whoever is taken away is shut out, whoever is added has to wait.

    Args:
        folder: of ``NAME.key`` files; files whose names begin with a dot are passed over.

    Attributes:
        names: of the clients, by public key in Z85.

    Raises:
        ConfigError: a folder or a file that cannot be read, a file that holds no key, that others
            can write or whose name names no client, or too many of them.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, File] = {}
        self._failed = 0
        self._full = False
        self._quiet_until = 0.0
        self._next = time.monotonic() + REFRESH_S
        self.names: Mapping[bytes, str] = {}
        try:
            found = self._list()
            if len(found) > MAX_CLIENTS:
                raise ConfigError(f"{folder} has {len(found)} keys; at most {MAX_CLIENTS} are read")
            self._take({name: self._read(name) for name in sorted(found)})
        except OSError as error:
            raise ConfigError(f"cannot read {error.filename or folder}: {error.strerror}") from None

    def refresh(self) -> None:
        """Look whether the folder changed, at most every `REFRESH_S` seconds; raises nothing."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + REFRESH_S
        before = self.names
        try:
            looked = {name: self._look(name) for name in self._to_look_at()}
            self._take({name: file for name, file in looked.items() if file is not None})
        except Exception:
            logger.exception(
                "looking at the allow-list %s failed; nobody may come in", self._folder
            )
            self._take({})
        if self.names != before:
            logger.info("the allow-list has changed: %d clients may come in", len(self.names))

    def _take(self, files: dict[str, File]) -> None:
        self._files = files
        self.names = {
            key: name.removesuffix(ENDING) for name, (_, key) in files.items() if key is not None
        }

    def _list(self) -> list[str]:
        with os.scandir(self._folder) as found:
            return [e.name for e in found if e.name.endswith(ENDING) and e.name[0] != "."]

    def _to_look_at(self) -> Sequence[str]:
        try:
            found = self._list()
        except OSError as error:
            return self._known(error)
        if self._failed:
            logger.info("the allow-list %s can be listed again", self._folder)
        self._failed = 0
        if full := len(found) > MAX_CLIENTS:
            found.sort(key=lambda name: (name not in self._files, name))
            if not self._full:
                logger.error("%s has more than %d keys; new ones wait", self._folder, MAX_CLIENTS)
        self._full = full
        return sorted(found[:MAX_CLIENTS])

    def _known(self, error: OSError) -> Sequence[str]:
        """The files to look at when the folder cannot be listed; said again while it lasts."""
        self._failed += 1
        lost = self._failed >= TRIES and error.errno not in SHORT
        if time.monotonic() >= self._quiet_until or (lost and self._files):
            self._quiet_until = time.monotonic() + WARN_S
            logger.error(
                "cannot list the allow-list %s: %s; %s",
                self._folder,
                error.strerror,
                "nobody may come in" if lost else "whoever is added to it has to wait",
            )
        return () if lost else list(self._files)

    def _look(self, name: str) -> File | None:
        """A file, or None where it is gone; what is wrong with it is said once."""
        before, seen = self._files.get(name), None
        try:
            seen = key_file.stamp(self._folder / name)
            if before is not None and before[0] == seen:
                return before
            return self._read(name)
        except FileNotFoundError:
            if not os.path.lexists(self._folder / name):
                return None
            why = "a link to nothing"
        except OSError as error:
            why, seen = str(error.strerror), None
        except ConfigError as error:
            why = str(error)
        if before != (seen, None):
            logger.error("%r in the allow-list lets nobody in: %s", name, why)
        return seen, None

    def _read(self, name: str) -> File:
        if not NAME.fullmatch(name.removesuffix(ENDING)):
            raise ConfigError(
                f"{str(self._folder / name)!r} names no client: expected up to 64 letters, digits, "
                f"'.', '_' and '-', before {ENDING!r}; rename it"
            )
        seen = key_file.stamp(self._folder / name)
        return seen, key_file.read_public(self._folder / name)
