"""Every file system that we prove keeps the contract that we ship."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

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
