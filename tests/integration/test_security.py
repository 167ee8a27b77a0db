"""Who has a key gets in, and nobody else: not a byte of knowledge, and nobody is held up."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch
import trustme

from pantheon import errors
from pantheon.cli.poll import Found, Poll
from pantheon.transport import Curve, Security, Tls, connect, oip
from pantheon.transport.grpc_listener import MAX_CALLS
from pantheon.transport.keys import generate
from pantheon.wire.messages import Score
from student_client import KnowledgeLoader, TeacherClient
from teacher_server import Server, Teacher
from teacher_server.engine import _held_bytes
from tests.integration.programs import ROOT, running

SAMPLES = torch.arange(64.0).unsqueeze(1)
DAY = datetime.timedelta(days=1)


def teacher() -> Teacher:
    model = torch.nn.Linear(1, 2)
    torch.nn.init.ones_(model.weight)
    return Teacher(model, SAMPLES, {"y": "float32"})


def read(address: str, security: Security = None, patience: float = 20.0) -> int:
    """Read an epoch; answers how many samples came."""
    with KnowledgeLoader(
        SAMPLES, 16, teachers={"t": address}, security=security, patience=patience
    ) as loader:
        return sum(len(batch) for batch in loader)


def how_it_is(address: str, security: Security, patience: float) -> Found:
    """What `pantheon status` is told."""
    with Poll([address], security) as poll:
        (found,) = poll.round(patience)
    return found


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    generate(folder, ["student", "ann"])
    return folder


@pytest.fixture(scope="module")
def keyed(keys: Path) -> Iterator[Server]:
    with teacher().start("tcp://127.0.0.1:0", security=Curve(keys)) as server:
        yield server


@pytest.mark.parametrize("client", ["student", "ann"])
def test_a_client_on_the_allow_list_is_answered(keys: Path, keyed: Server, client: str) -> None:
    assert read(keyed.addresses[0], Curve(keys, client)) == len(SAMPLES)
    with TeacherClient(keyed.addresses[0], security=Curve(keys, client)) as asker:
        assert asker.query(SAMPLES[:2]).result(20)["y"].shape == (2, 2)


def test_a_socket_file_takes_keys_too(keys: Path, tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/socket"
    with teacher().start(address, security=Curve(keys)):
        assert read(address, Curve(keys)) == len(SAMPLES)
        with pytest.raises(errors.SecurityError, match="only clients with keys"):
            read(address)


def test_keys_are_given_by_teacher(keys: Path, keyed: Server) -> None:
    with teacher().start("tcp://127.0.0.1:0") as plain:
        teachers = {"a": keyed.addresses[0], "b": plain.addresses[0]}
        options: dict[str, Any] = {"teachers": teachers, "merge": {"y": "mean"}}
        with KnowledgeLoader(SAMPLES, 16, security={"a": Curve(keys)}, **options) as loader:
            assert sum(len(batch) for batch in loader) == len(SAMPLES)
    with pytest.raises(errors.ConfigError, match="security names the teacher 'c'"):
        KnowledgeLoader(SAMPLES, 16, security={"c": Curve(keys)}, **options)


def stranger(tmp_path: Path, keys: Path) -> Curve:
    """Keys that are right but for not being on the allow-list."""
    generate(tmp_path / "own")
    shutil.copy(keys / "server.key", tmp_path / "own" / "server.key")
    return Curve(tmp_path / "own")


def test_a_key_that_is_not_on_the_allow_list_gets_nothing(
    tmp_path: Path, keys: Path, keyed: Server
) -> None:
    before = keyed.stats().rows
    with pytest.raises(errors.SecurityError, match="not on the teacher's allow-list"):
        read(keyed.addresses[0], stranger(tmp_path, keys))
    assert keyed.stats().rows == before


def test_a_student_with_another_servers_key_is_told(tmp_path: Path, keyed: Server) -> None:
    generate(tmp_path)
    with pytest.raises(errors.TeacherUnavailable, match=r"public key.*server\.key"):
        read(keyed.addresses[0], Curve(tmp_path), patience=4.0)


def test_a_student_without_keys_gets_nothing_from_a_teacher_with_keys(keyed: Server) -> None:
    before = keyed.stats().rows
    with pytest.raises(errors.SecurityError, match=r"security=Curve"):
        read(keyed.addresses[0])
    assert keyed.stats().rows == before


def test_a_student_with_keys_does_not_talk_to_a_teacher_without(keys: Path) -> None:
    with teacher().start("tcp://127.0.0.1:0") as plain:
        with pytest.raises(errors.SecurityError, match="uses no keys"):
            read(plain.addresses[0], Curve(keys))
        assert plain.stats().rows == 0


def test_a_key_taken_off_the_allow_list_gets_nothing_more(tmp_path: Path) -> None:
    generate(tmp_path, ["student", "ann"])
    with teacher().start("tcp://127.0.0.1:0", security=Curve(tmp_path)) as server:
        address = server.addresses[0]
        with TeacherClient(
            address, security=Curve(tmp_path), patience=2.0, lease=1.5, attempts=1
        ) as client:
            client.query(SAMPLES[:1]).result(20)
            (tmp_path / "clients" / "student.key").unlink()
            time.sleep(1.1)  # The list is looked at once a second.
            with pytest.raises(errors.PantheonError):
                client.query(SAMPLES[:1]).result(20)
        assert read(address, Curve(tmp_path, "ann")) == len(SAMPLES)
        with pytest.raises(errors.SecurityError):
            read(address, Curve(tmp_path))


def test_a_key_put_on_the_allow_list_gets_in(tmp_path: Path) -> None:
    generate(tmp_path)
    with teacher().start("tcp://127.0.0.1:0", security=Curve(tmp_path)) as server:
        generate(tmp_path, ["late"])
        time.sleep(1.1)
        assert read(server.addresses[0], Curve(tmp_path, "late")) == len(SAMPLES)


def test_beyond_loopback_a_server_needs_keys_or_to_be_told(keys: Path) -> None:
    for security in (None, Tls(certificate="x", key="y")):
        address = "tcp://0.0.0.0:0" if security is None else "grpc://0.0.0.0:0"
        with pytest.raises(errors.ConfigError, match="--keys"):
            teacher().start(address, security=security)
    with teacher().start("tcp://0.0.0.0:0", security=Curve(keys)) as server:
        port = server.addresses[0].rpartition(":")[2]
        assert read(f"tcp://127.0.0.1:{port}", Curve(keys)) == len(SAMPLES)


def test_keys_that_an_address_cannot_use_are_refused_rather_than_left_out(keys: Path) -> None:
    with pytest.raises(errors.ConfigError, match="needs one Tls"):
        teacher().start("grpc://127.0.0.1:0", security=Curve(keys))
    with pytest.raises(errors.ConfigError, match="needs one Curve"):
        read("tcp://127.0.0.1:1", Tls())


@pytest.mark.parametrize("name", ["server.key_secret", "student.key_secret"])
def test_a_secret_key_that_others_can_read_is_refused(tmp_path: Path, name: str) -> None:
    generate(tmp_path)
    assert {p.stat().st_mode & 0o777 for p in tmp_path.glob("*.key_secret")} == {0o600}
    assert tmp_path.stat().st_mode & 0o777 == 0o700
    (tmp_path / name).chmod(0o644)
    use = teacher().start if name.startswith("server") else connect
    with pytest.raises(errors.ConfigError, match=f"chmod 600 .*{name}"):
        use("tcp://127.0.0.1:0", security=Curve(tmp_path))


@pytest.mark.parametrize("lost", ["server.key_secret", "clients"])
def test_keys_that_are_not_there_are_named(tmp_path: Path, lost: str) -> None:
    generate(tmp_path)
    shutil.rmtree(tmp_path / lost) if lost == "clients" else (tmp_path / lost).unlink()
    with pytest.raises(errors.ConfigError, match=f"{lost}.*keygen"):
        teacher().start("tcp://127.0.0.1:0", security=Curve(tmp_path))


@dataclass
class Certificates:
    """An authority and what it signed, as files."""

    folder: Path
    authority: trustme.CA

    def write(self, name: str, issued: trustme.LeafCert | None = None, **options: Any) -> Tls:
        """A certificate, and an end that trusts this authority."""
        issued = issued or self.authority.issue_cert("127.0.0.1", "localhost", **options)
        key, chain = self.folder / f"{name}.key", self.folder / f"{name}.pem"
        issued.private_key_pem.write_to_path(key)
        key.chmod(0o600)
        chain.unlink(missing_ok=True)
        for blob in issued.cert_chain_pems:
            blob.write_to_path(chain, append=True)
        return Tls(self.ca, chain, key)

    @property
    def ca(self) -> Path:
        path = self.folder / "ca.pem"
        self.authority.cert_pem.write_to_path(path)
        return path


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"), trustme.CA())


@pytest.fixture(scope="module")
def mutual(certificates: Certificates) -> Iterator[Server]:
    with teacher().start("grpc://127.0.0.1:0", security=certificates.write("server")) as server:
        yield server


def test_a_certificate_that_the_authority_signed_gets_in(
    certificates: Certificates, mutual: Server
) -> None:
    own = certificates.write("student")
    assert read(mutual.addresses[0], own) == len(SAMPLES)
    found = how_it_is(mutual.addresses[0], own, 20.0)
    assert found.status is not None
    assert found.status.rows == mutual.stats().rows


def test_a_server_that_asks_for_no_certificate_is_known_by_its_own(
    certificates: Certificates,
) -> None:
    own = certificates.write("alone")
    with teacher().start("grpc://127.0.0.1:0", security=Tls(None, own.certificate, own.key)) as s:
        assert read(s.addresses[0], Tls(certificates.ca)) == len(SAMPLES)


def test_a_certificate_for_another_name_is_refused_unless_that_name_is_meant(
    certificates: Certificates,
) -> None:
    issued = certificates.authority.issue_cert("teacher.test")
    own = certificates.write("named", issued)
    with teacher().start("grpc://127.0.0.1:0", security=own) as server:
        mine = certificates.write("student")
        with pytest.raises(errors.SecurityError):
            read(server.addresses[0], mine)
        meant = Tls(mine.ca, mine.certificate, mine.key, name="teacher.test")
        assert read(server.addresses[0], meant) == len(SAMPLES)


def test_an_expired_certificate_of_the_server_is_refused(certificates: Certificates) -> None:
    past = datetime.datetime.now(datetime.UTC) - DAY
    own = certificates.write("old", not_before=past - DAY, not_after=past)
    with (
        teacher().start("grpc://127.0.0.1:0", security=own) as server,
        pytest.raises(errors.SecurityError),
    ):
        read(server.addresses[0], certificates.write("student"))


@pytest.mark.parametrize("kind", ["expired", "none", "of another authority", "no TLS at all"])
def test_a_client_without_a_good_certificate_gets_nothing(
    tmp_path: Path, certificates: Certificates, mutual: Server, kind: str
) -> None:
    past = datetime.datetime.now(datetime.UTC) - DAY
    security: Tls | None
    match kind:
        case "expired":
            security = certificates.write("expired", not_before=past - DAY, not_after=past)
        case "none":
            security = Tls(certificates.ca)
        case "of another authority":
            other = Certificates(tmp_path, trustme.CA()).write("other")
            security = Tls(certificates.ca, other.certificate, other.key)
        case _:
            security = None
    before = mutual.stats().rows
    with pytest.raises(errors.TransportError, match="Tls" if security is None else "certificate"):
        read(mutual.addresses[0], security, patience=2.0)
    assert mutual.stats().rows == before
    assert how_it_is(mutual.addresses[0], security, 0.5).status is None


def connected(address: str) -> socket.socket:
    host, _, port = address.split("://")[1].rpartition(":")
    return socket.create_connection((host, int(port)), timeout=5)


@contextlib.contextmanager
def meddling(address: str, how: str) -> Iterator[None]:
    """Strangers at a server's port while something else happens."""
    over = threading.Event()

    def meddle() -> None:
        source = 0
        while not over.is_set():
            with contextlib.suppress(OSError), connected(address) as sock:
                while not over.is_set():
                    source += 1
                    sock.sendall(os.urandom(4096) if how == "garbage" else b"\xff")
                    if over.wait(0.0 if how == "garbage" else 1.0):
                        return

    if how == "many":
        with contextlib.ExitStack() as stack:
            for _ in range(1000):
                with contextlib.suppress(OSError):
                    stack.enter_context(connected(address))
            yield
        return
    threads = [threading.Thread(target=meddle) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("how", ["garbage", "slow", "many"])
@pytest.mark.parametrize("scheme", ["tcp", "grpc"])
def test_strangers_do_not_keep_a_student_out(
    keys: Path, certificates: Certificates, scheme: str, how: str
) -> None:
    security: Security = Curve(keys) if scheme == "tcp" else certificates.write("server")
    with teacher().start(f"{scheme}://127.0.0.1:0", security=security) as server:
        with meddling(server.addresses[0], how):
            for _ in range(2):
                assert read(server.addresses[0], security) == len(SAMPLES)
        assert read(server.addresses[0], security) == len(SAMPLES)
        assert server.stats().rows == 3 * len(SAMPLES)


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01\x02\x00\x01"])
def test_a_connection_that_does_not_shake_hands_is_dropped_after_three_seconds(
    mutual: Server, said: bytes
) -> None:
    with connected(mutual.addresses[0]) as sock:
        sock.sendall(said)
        sock.settimeout(20.0)
        start = time.monotonic()
        assert sock.recv(1) == b""
        assert 2.0 < time.monotonic() - start < 15.0


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A command of ``pantheon``, to its end."""
    command = [sys.executable, "-m", "pantheon", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=40)


@contextlib.contextmanager
def serving(config: Path) -> Iterator[str]:
    """``pantheon serve`` with a file; yields the address."""
    bind = ["--bind", "tcp://127.0.0.1:0", "--json"]
    with running("pantheon", "serve", str(config), *bind) as (_, said):
        yield said["addresses"][0]


def test_streams_that_say_nothing_do_not_keep_a_student_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pantheon.transport.grpc_service.FIRST_S", 1.0)
    never = threading.Event()
    with teacher().start("grpc://127.0.0.1:0") as server:
        netloc = server.addresses[0].removeprefix("grpc://")
        with grpc.insecure_channel(netloc) as channel:
            silence = (never.wait() for _ in range(1))
            calls = [oip.Stub(channel).ModelStreamInfer(silence) for _ in range(MAX_CALLS + 10)]
            assert read(server.addresses[0]) == len(SAMPLES)
            for call in calls:
                call.cancel()
            never.set()


def test_keys_are_made_and_used_from_the_command_line(tmp_path: Path) -> None:
    for _ in range(2):
        made = run("keygen", str(tmp_path / "keys"), "--client", "ann", "--json")
    assert made.returncode == 0
    assert json.loads(made.stdout) == {"made": []}
    config = tmp_path / "teacher.yaml"
    config.write_text(
        "model: torch.nn:Identity\ndataset: tests.integration.toy:Numbers\n"
        "schema: {y: float32}\nrevision: '1'\n"
        f"security: {{curve: {tmp_path / 'keys'}}}\n"
    )
    with serving(config) as address:
        told = run(
            "inspect", address, "--keys", str(tmp_path / "keys"), "--client", "ann", "--json"
        )
        assert told.returncode == 0, told.stderr
        assert json.loads(told.stdout)["revision"] == "1"
        refused = run("inspect", address, "--patience", "20")
        assert refused.returncode != 0
        assert "security=" in refused.stderr


def test_more_students_than_a_server_takes_are_told_to_come_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("teacher_server.engine.SESSIONS", 2)
    with teacher().start("tcp://127.0.0.1:0") as server, contextlib.ExitStack() as stack:
        address = server.addresses[0]
        clients = [stack.enter_context(TeacherClient(address)) for _ in range(2)]
        for client in clients:
            client.query(SAMPLES[:1]).result(20)
        with pytest.raises(errors.TeacherUnavailable, match="2 students are connected already"):
            read(address, patience=1.0)
        clients[0].close()
        assert read(address) == len(SAMPLES)


@pytest.mark.parametrize("scheme", ["tcp", "grpc"])
def test_one_key_takes_no_more_than_its_share_of_the_sessions(
    monkeypatch: pytest.MonkeyPatch, keys: Path, certificates: Certificates, scheme: str
) -> None:
    monkeypatch.setattr("teacher_server.engine.SESSIONS_OF_ONE", 2)
    one: Security = Curve(keys, "student")
    other: Security = Curve(keys, "ann")
    own: Security = Curve(keys)
    if scheme == "grpc":
        one, other, own = [certificates.write(n) for n in ("student", "ann", "server")]
    with (
        teacher().start(f"{scheme}://127.0.0.1:0", security=own) as server,
        contextlib.ExitStack() as stack,
    ):
        address = server.addresses[0]
        for _ in range(2):
            client = stack.enter_context(TeacherClient(address, security=one))
            client.query(SAMPLES[:1]).result(20)
        with pytest.raises(errors.TeacherUnavailable, match="2 students with this key"):
            read(address, one, patience=1.0)
        assert read(address, other) == len(SAMPLES)


def test_ids_that_wait_count_as_bytes_that_wait() -> None:
    score = Score(1, np.arange(1000), np.zeros(1000, np.int64))
    assert _held_bytes(score) == 16000
