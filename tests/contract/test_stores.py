"""Every file system that we prove keeps the contract that we ship."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pantheon.testing import StoreContract

_numbers = itertools.count()


class TestLocal(StoreContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def folder_path(self) -> str:
        return str(self.folder / "a [folder]" / str(next(_numbers)))


class TestFileScheme(TestLocal):
    def folder_path(self) -> str:
        return f"file://{self.folder}/{next(_numbers)}"


class TestMemory(StoreContract):
    def folder_path(self) -> str:
        return f"memory://contract-{next(_numbers)}"


class Objects(MemoryFileSystem):
    """Objects by name, as in an object store: a folder is there while something lies in it."""

    protocol = "objects"
    store: ClassVar[dict[str, object]] = {}
    pseudo_dirs: ClassVar[list[str]] = []

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.removeprefix("objects://")))

    def mkdir(self, path: str, create_parents: bool = True, **_: object) -> None:
        """Make no folder."""

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Make no folder."""


fsspec.register_implementation("objects", Objects)


class TestObjects(StoreContract):
    def folder_path(self) -> str:
        return f"objects://contract/{next(_numbers)}"

    def test_a_folder_that_holds_nothing_is_not_there(self) -> None:
        files, path = Objects(), self.folder_path()
        files.makedirs(path)
        with pytest.raises(FileNotFoundError):
            files.ls(path)
