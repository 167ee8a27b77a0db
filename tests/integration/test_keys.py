"""A running server follows its allow-list by the key, whatever else happens."""

from __future__ import annotations

import resource
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from pantheon import errors
from pantheon.transport import Curve, zap
from pantheon.transport.keys import generate
from student_client import TeacherClient
from teacher_server import Server, Teacher

SAMPLES = torch.arange(8.0).unsqueeze(1)
LOOK_S = 1.3
"""Seconds after which a change of the list was noticed: it is looked at once a second."""


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    teacher = Teacher(torch.nn.Linear(1, 2), SAMPLES, {"y": "float32"})
    with teacher.start("tcp://127.0.0.1:0", security=Curve(folder)) as server:
        yield server


def client(server: Server, folder: Path, name: str, **options: Any) -> TeacherClient:
    options = {"patience": 3.0, "lease": 1.5, "attempts": 1, **options}
    return TeacherClient(server.addresses[0], security=Curve(folder, name), **options)


def ask(asker: TeacherClient) -> None:
    assert asker.query(SAMPLES[:1]).result(20)["y"].shape == (1, 2)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    generate(tmp_path / "keys", ["ann", "bob"])
    return tmp_path / "keys"


def test_a_key_that_was_replaced_gets_nothing_more_though_its_name_is_on_the_list(
    tmp_path: Path, keys: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stolen = tmp_path / "stolen"
    shutil.copytree(keys, stolen)
    with serving(keys) as server:
        with client(server, stolen, "ann") as thief, client(server, keys, "bob") as bob:
            ask(thief)
            ask(bob)
            (keys / "clients" / "ann.key").unlink()
            (keys / "ann.key_secret").unlink()
            generate(keys, ["ann"])
            time.sleep(LOOK_S)
            with pytest.raises(errors.PantheonError):
                thief.query(SAMPLES[:1]).result(20)
            ask(bob)
        with client(server, keys, "ann") as ann:
            ask(ann)
    assert "the key of client 'ann' is no longer allowed" in caplog.text


def test_a_broken_file_on_the_list_keeps_nobody_in(keys: Path) -> None:
    with serving(keys) as server, client(server, keys, "bob") as bob:
        ask(bob)
        (keys / "clients" / "new.key").write_text("half a fi")
        (keys / "clients" / "bob.key").unlink()
        time.sleep(LOOK_S)
        with pytest.raises(errors.PantheonError):
            bob.query(SAMPLES[:1]).result(20)
        with client(server, keys, "ann") as ann:
            ask(ann)


def test_a_failure_while_one_is_let_in_keeps_nobody_out(
    keys: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked, decide = 0, zap.decide

    def fail_once(*arguments: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise RuntimeError("a defect")
        return decide(*arguments)

    monkeypatch.setattr(zap, "decide", fail_once)
    with serving(keys) as server, client(server, keys, "ann", patience=15.0) as ann:
        ask(ann)
    assert asked > 1
    assert "cannot say whether a client may come in" in caplog.text


def test_without_anybody_to_ask_no_key_is_let_in(
    keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zap, "ENDPOINT", "inproc://elsewhere")
    with serving(keys) as server:
        with client(server, keys, "ann") as ann, pytest.raises(errors.TeacherUnavailable):
            ask(ann)
        assert server.health().ready
        assert server.stats().rows == 0


def test_a_server_raises_its_limit_of_descriptors(keys: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    try:
        with serving(keys):
            assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 1024
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
