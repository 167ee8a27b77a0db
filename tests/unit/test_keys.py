"""Keys are made whole, once and for nobody else, and not read where others have a hand in them."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import zmq

from pantheon.errors import ConfigError
from pantheon.transport import Curve, key_file
from pantheon.transport.key_file import exposed, read_public, read_secret
from pantheon.transport.keys import client_keys, generate, server_keys

ALL = ["clients/student.key", "server.key", "server.key_secret", "student.key_secret"]


class Killed(BaseException):
    """What no code handles."""


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir())


def fits(public: Path, secret: Path) -> bool:
    return read_public(public) == zmq.curve_public(read_secret(secret)[1])


def all_fit(folder: Path) -> bool:
    return fits(folder / "server.key", folder / "server.key_secret") and fits(
        folder / "clients" / "student.key", folder / "student.key_secret"
    )


def test_keys_made_twice_at_once_are_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = key_file.write

    def slowly(*arguments: Any) -> None:
        time.sleep(0.02)
        write(*arguments)

    monkeypatch.setattr(key_file, "write", slowly)
    made: list[Path] = []
    threads = [
        threading.Thread(target=lambda: made.extend(generate(tmp_path / "keys"))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(str(p.relative_to(tmp_path / "keys")) for p in made) == ALL
    assert files(tmp_path / "keys") == ALL
    assert all_fit(tmp_path / "keys")


def test_keys_are_not_waited_for_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pantheon.transport.keys.WAIT_S", 0.1)
    monkeypatch.setattr("pantheon.transport.keys.lock", lambda fd: False)
    with pytest.raises(ConfigError, match="another process makes keys"):
        generate(tmp_path)


def test_killed_at_any_step_the_next_run_finishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed, steps = True, 0
    while killed:
        folder, left = tmp_path / str(steps), steps

        def dying(call: Any) -> Any:
            def step(*arguments: Any, **options: Any) -> Any:
                nonlocal left
                left -= 1
                if left < 0:
                    raise Killed
                return call(*arguments, **options)

            return step

        with monkeypatch.context() as patch:
            for name in ("mkdir", "open", "unlink", "fsync", "replace"):
                patch.setattr(os, name, dying(getattr(os, name)))
            try:
                generate(folder)
                killed = False
            except Killed:
                killed = True
        generate(folder)
        assert all_fit(folder), f"killed after {steps} steps"
        assert [f for f in files(folder) if not Path(f).name.startswith(".")] == ALL
        steps += 1
    assert steps > 15


def test_a_lost_public_key_of_a_server_is_made_again(tmp_path: Path) -> None:
    generate(tmp_path)
    (tmp_path / "server.key").unlink()
    assert generate(tmp_path) == [tmp_path / "server.key"]
    assert all_fit(tmp_path)


def test_making_more_keys_lets_nobody_in_who_was_shut_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    generate(tmp_path, ["ann"])
    (tmp_path / "clients" / "ann.key").unlink()
    assert [p.name for p in generate(tmp_path, ["ann", "bob"])] == ["bob.key", "bob.key_secret"]
    assert os.listdir(tmp_path / "clients") == ["bob.key"]
    assert "'ann' stays shut out" in caplog.text


def test_a_public_key_whose_secret_is_elsewhere_is_not_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    generate(tmp_path, ["ann"])
    before = read_public(tmp_path / "clients" / "ann.key")
    (tmp_path / "ann.key_secret").unlink()
    assert generate(tmp_path, ["ann"]) == []
    assert read_public(tmp_path / "clients" / "ann.key") == before
    assert "'ann' has a key on the allow-list already" in caplog.text
    (tmp_path / "server.key_secret").unlink()
    with pytest.raises(ConfigError, match=r"server\.key is there without its secret"):
        generate(tmp_path, ["ann"])


@pytest.mark.parametrize("name", ALL)
def test_no_key_is_written_through_a_link(tmp_path: Path, name: str) -> None:
    target = tmp_path / "elsewhere"
    (tmp_path / "keys" / "clients").mkdir(parents=True)
    (tmp_path / "keys" / name).symlink_to(target)
    with suppress(ConfigError):
        generate(tmp_path / "keys")
    assert not target.exists()


def test_a_new_folder_is_for_nobody_else_and_another_keeps_its_mode(tmp_path: Path) -> None:
    generate(tmp_path / "new")
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    (tmp_path / "old").mkdir()
    (tmp_path / "old").chmod(0o755)
    generate(tmp_path / "old")
    assert (tmp_path / "old").stat().st_mode & 0o777 == 0o755
    assert {p.stat().st_mode & 0o777 for p in (tmp_path / "old").glob("*.key*")} == {0o600}


@pytest.mark.parametrize("mode", [0o770, 0o777, 0o1777])
def test_no_keys_are_made_where_others_can_write(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    with pytest.raises(ConfigError, match=f"mode {mode:04o}.*folder that is not there yet"):
        generate(tmp_path)
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("clients", 0o770),
        ("clients", 0o707),
        ("clients", 0o1777),
        ("server.key", 0o660),
        ("server.key", 0o602),
        ("server.key_secret", 0o620),
        ("student.key_secret", 0o602),
    ],
)
def test_keys_that_others_can_write_are_refused(tmp_path: Path, name: str, mode: int) -> None:
    generate(tmp_path)
    curve = Curve(tmp_path)
    server_keys(curve)
    client_keys(curve)
    (tmp_path / name).chmod(mode)
    read = server_keys if name in ("clients", "server.key_secret") else client_keys
    with pytest.raises(ConfigError, match=f"{name} has mode .*chmod .*{name}"):
        read(curve)


@pytest.mark.parametrize("mode", [0o400, 0o440])
def test_keys_in_the_volume_of_a_secret_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    """Kubernetes links to files of root, which the pod's user reads as a member of fsGroup."""
    generate(tmp_path / "made")
    data = tmp_path / "volume" / "..2026_01_01"
    (data / "clients").mkdir(parents=True)
    for name in ALL:
        (data / name).write_bytes((tmp_path / "made" / name).read_bytes())
        (data / name).chmod(mode)
    for folder in (data, data / "clients"):
        folder.chmod(0o2755)
    (tmp_path / "volume" / "..data").symlink_to(data.name)
    for name in ("clients", "server.key", "server.key_secret", "student.key_secret"):
        (tmp_path / "volume" / name).symlink_to(f"..data/{name}")
    (tmp_path / "volume").chmod(0o3777)
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 10001)
    curve = Curve(tmp_path / "volume")
    assert server_keys(curve) == server_keys(Curve(tmp_path / "made"))
    assert len(client_keys(curve)) == 3


def test_the_owner_of_a_secret_shares_it_with_nobody() -> None:
    refused = [m for m in (0o600, 0o400, 0o640, 0o610, 0o620, 0o604) if exposed(m, 1000, 1000)]
    assert refused == [0o640, 0o610, 0o620, 0o604]
    assert [m for m in (0o400, 0o440, 0o640, 0o460, 0o444) if exposed(m, 0, 1000)] == [0o460, 0o444]
    assert not exposed(0o640, 0, 0)


@pytest.mark.parametrize(
    "text", ["", "half a fi", 'public-key = "short"', f'public-key="{"~" * 40}"']
)
def test_what_is_no_key_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.key").write_text(text)
    with pytest.raises(ConfigError, match=r"x\.key"):
        read_public(tmp_path / "x.key")


def test_a_pipe_in_the_place_of_a_key_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.key")
    with pytest.raises(ConfigError, match="no regular file"):
        read_public(tmp_path / "x.key")
