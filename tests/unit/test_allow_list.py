"""The allow-list follows its folder: whatever else is wrong, whoever is taken off it is out."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from pantheon.errors import ConfigError
from pantheon.transport import key_file
from pantheon.transport.allow_list import TRIES, AllowList
from pantheon.transport.keys import generate


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The allow-list of ann and bob, looked at whenever it is asked to."""
    monkeypatch.setattr("pantheon.transport.allow_list.REFRESH_S", 0.0)
    generate(tmp_path, ["ann", "bob"])
    return tmp_path / "clients"


def names(allow: AllowList) -> list[str]:
    allow.refresh()
    return sorted(allow.names.values())


def cut_short(path: Path) -> None:
    path.write_text("half a fi")


def open_to_others(path: Path) -> None:
    generate(path.parent.parent, [path.stem])
    path.chmod(0o622)


WRONG: dict[str, Callable[[Path], object]] = {
    "cut short": cut_short,
    "a folder": Path.mkdir,
    "a pipe": os.mkfifo,
    "a link to nothing": lambda path: path.symlink_to("nothing"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "open to others": open_to_others,
    "misnamed": lambda path: os.close(os.open(os.fsencode(path.parent) + b"/\xff.key", os.O_CREAT)),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_file_that_is_wrong_leaves_out_its_client_and_no_other(
    folder: Path, caplog: pytest.LogCaptureFixture, wrong: str
) -> None:
    allow = AllowList(folder)
    WRONG[wrong](folder / "new.key")
    assert names(allow) == ["ann", "bob"]
    (folder / "bob.key").unlink()
    assert [names(allow) for _ in range(3)] == [["ann"]] * 3
    said = [record for record in caplog.records if record.levelname == "ERROR"]
    assert len(said) == 1
    assert ("dcff.key" if wrong == "misnamed" else "new.key") in said[0].getMessage()
    with pytest.raises(ConfigError):
        AllowList(folder)


def test_a_file_that_was_mended_lets_its_client_in(folder: Path) -> None:
    whole = (folder / "bob.key").read_bytes()
    allow = AllowList(folder)
    (folder / "bob.key").write_bytes(whole[:-20])
    assert names(allow) == ["ann"]
    (folder / "bob.key").write_bytes(whole)
    assert names(allow) == ["ann", "bob"]


@pytest.mark.parametrize("how", ["renamed", "written over"])
def test_a_key_replaced_by_one_of_the_same_time_and_size_is_noticed(
    folder: Path, tmp_path: Path, how: str
) -> None:
    allow = AllowList(folder)
    before = set(allow.names)
    seen = (folder / "ann.key").stat()
    generate(tmp_path / "other", ["ann"])
    new = tmp_path / "other" / "clients" / "ann.key"
    if how == "renamed":
        os.utime(new, ns=(seen.st_atime_ns, seen.st_mtime_ns))
        new.replace(folder / "ann.key")
    else:
        (folder / "ann.key").write_bytes(new.read_bytes())
        os.utime(folder / "ann.key", ns=(seen.st_atime_ns, seen.st_mtime_ns))
    assert (folder / "ann.key").stat().st_size == seen.st_size
    assert names(allow) == ["ann", "bob"]
    assert len(before & set(allow.names)) == 1


def test_hidden_files_are_passed_over(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    cut_short(folder / ".ann.key")
    assert names(AllowList(folder)) == ["ann", "bob"]
    assert not caplog.records


def test_a_folder_that_cannot_be_listed_lets_nobody_in_after_a_few_looks(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(path: Path) -> NoReturn:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    allow = AllowList(folder)
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", fail)
        assert names(allow) == ["ann", "bob"]
        (folder / "bob.key").unlink()
        assert [names(allow) for _ in range(TRIES)] == [["ann"]] * (TRIES - 2) + [[]] * 2
    said = [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]
    assert len(said) == 2
    assert "nobody may come in" in said[1]
    assert names(allow) == ["ann"]


@contextmanager
def no_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_without_descriptors_those_taken_away_or_replaced_are_out_and_the_others_stay(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    generate(folder.parent, ["cid", "dan"])
    allow = AllowList(folder)
    key = (folder / "cid.key").read_bytes()
    (folder / "bob.key").unlink()
    (folder / "dan.key").unlink()
    (folder / "dan.key").write_bytes(key)
    (folder / "eve.key").write_bytes(key)
    with no_descriptors():
        assert [names(allow) for _ in range(2 * TRIES)] == [["ann", "cid"]] * 2 * TRIES
    said = [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]
    assert len(said) == 2
    assert any("Too many open files; whoever is added" in text for text in said)
    assert names(allow) == ["ann", "eve"]


def test_that_descriptors_are_short_is_said_for_as_long_as_they_are(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("pantheon.transport.allow_list.WARN_S", 0.0)
    allow = AllowList(folder)
    with no_descriptors():
        for _ in range(2 * TRIES):
            allow.refresh()
    assert caplog.text.count("Too many open files") == 2 * TRIES


def test_whatever_fails_nobody_stays_in_unseen(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(path: Path) -> NoReturn:
        raise RuntimeError("a defect")

    allow = AllowList(folder)
    with monkeypatch.context() as patch:
        patch.setattr(key_file, "stamp", fail)
        assert names(allow) == []
    assert "nobody may come in" in caplog.text
    assert names(allow) == ["ann", "bob"]


def test_keys_beyond_the_most_wait_until_others_are_taken_away(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("pantheon.transport.allow_list.MAX_CLIENTS", 2)
    allow = AllowList(folder)
    generate(folder.parent, ["aaa"])
    assert [names(allow) for _ in range(2)] == [["ann", "bob"]] * 2
    assert caplog.text.count("more than 2 keys") == 1
    with pytest.raises(ConfigError, match="has 3 keys; at most 2"):
        AllowList(folder)
    (folder / "bob.key").unlink()
    assert names(allow) == ["aaa", "ann"]
