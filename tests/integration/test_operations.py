"""What those who run teachers see: metrics, health, readiness, and `pantheon status`."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import grpc
import pytest
import torch
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from pantheon.errors import ConfigError, PantheonError, TransportError
from pantheon.probes import ANSWER_S, MAX_CLIENTS, MAX_HEAD
from pantheon.transport import Curve
from pantheon.transport.keys import generate
from student_client import KnowledgeLoader, TeacherClient
from teacher_server import Server, Teacher, start

SIZE = 1000
ROOT = Path(__file__).parents[2]


class Held(torch.nn.Module):
    """Its forwards wait while the gate is shut."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self.inside = threading.Event()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.inside.set()
        time.sleep(0.01)  # Not so quick that the server's loop does it itself.
        assert self.gate.wait(30)
        return x * 2


@pytest.fixture
def model() -> Iterator[Held]:
    """A model that can be held up."""
    made = Held()
    yield made
    made.gate.set()


@pytest.fixture
def server(model: Held) -> Iterator[Server]:
    """It on both transports, watched by HTTP."""
    teacher = Teacher(model, torch.ones(SIZE, 3), {"logits": "float32"}, "r1", name="digits")
    with teacher.start("tcp://127.0.0.1:0", "grpc://127.0.0.1:0", http="127.0.0.1:0") as made:
        yield made


def asked(server: Server, path: str) -> tuple[int, bytes]:
    try:
        with urlopen(f"{server.http}{path}", timeout=10) as answer:
            return answer.status, answer.read()
    except HTTPError as error:
        with error:
            return error.code, error.read()


def metrics(server: Server) -> dict[str, float]:
    """What Prometheus' own parser reads, by name; histograms by their count and sum."""
    status, body = asked(server, "/metrics")
    assert status == 200
    families = text_string_to_metric_families(body.decode())
    return {s.name: s.value for f in families for s in f.samples if not s.name.endswith("_bucket")}


def learn(server: Server, **options: object) -> int:
    """One epoch; how many batches it had."""
    samples = torch.ones(SIZE, 3)
    with KnowledgeLoader(samples, 100, teachers={"t": server.addresses[0]}, **options) as loader:  # type: ignore[arg-type]
        return len(list(loader))


def test_metrics_count_exactly_what_a_student_was_given(server: Server) -> None:
    learn(server, request_rows=50)
    found = metrics(server)
    assert found["pantheon_teacher_samples_total"] == SIZE
    assert found["pantheon_teacher_requests_total"] == SIZE / 50
    assert found["pantheon_teacher_bytes_total"] == SIZE * 3 * 4
    assert found["pantheon_teacher_request_seconds_count"] == SIZE / 50
    assert found["pantheon_teacher_batch_samples_sum"] == SIZE
    assert found["process_resident_memory_bytes"] > 0


def test_a_request_is_not_held_to_have_waited_while_the_server_was_idle(server: Server) -> None:
    total = "pantheon_teacher_request_seconds_sum"
    with TeacherClient(server.addresses[0]) as client:
        client.query(torch.ones(1, 3)).result(30)
        while server.stats().turned < 0.6:
            time.sleep(0.01)  # With a student there the loop turns once a second, for heartbeats.
        before, start = metrics(server)[total], time.monotonic()
        client.query(torch.ones(1, 3)).result(30)
        took = time.monotonic() - start
    assert 0 < metrics(server)[total] - before <= took


def test_refusals_are_counted_by_their_code_and_probes_are_none_of_them(model: Held) -> None:
    teachers = {
        name: Teacher(model, torch.ones(SIZE, 3), {"logits": "float32"}, name) for name in "ab"
    }
    with start(teachers, "grpc://127.0.0.1:0", http="127.0.0.1:0") as server:
        with grpc.insecure_channel(server.addresses[0].removeprefix("grpc://")) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            for service in ("", "a", "b"):
                asked_for = health_pb2.HealthCheckRequest(service=service)
                assert health.Check(asked_for, timeout=10).status == 1
        assert "pantheon_teacher_refusals_total{" not in asked(server, "/metrics")[1].decode()
        with TeacherClient(server.addresses[0] + "/b") as client:
            client.query_ids([1]).result(30)
            with pytest.raises(PantheonError):
                client.query_ids([SIZE]).result(30)
        shown = asked(server, "/metrics")[1].decode()
        assert 'pantheon_teacher_refusals_total{code="range"}' in shown
        assert 'pantheon_teacher_requests_total{model="a"} 0.0' in shown
        assert 'pantheon_teacher_requests_total{model="b"} 1.0' in shown


def test_what_waits_is_seen_with_its_age(server: Server, model: Held) -> None:
    model.gate.clear()
    model.inside.clear()
    thread = threading.Thread(target=learn, args=(server,))
    thread.start()
    try:
        assert model.inside.wait(30)
        for _ in range(100):
            found = metrics(server)
            if found["pantheon_teacher_oldest_scoring_seconds"] > 0.2:
                break
            time.sleep(0.2)
        assert found["pantheon_teacher_oldest_scoring_seconds"] > 0.2
        assert found["pantheon_teacher_scoring_requests"] > 0
        assert found["pantheon_teacher_sessions"] == 1
    finally:
        model.gate.set()
        thread.join()


def test_a_server_that_drains_is_alive_but_not_ready(server: Server, model: Held) -> None:
    assert asked(server, "/readyz")[0] == asked(server, "/healthz")[0] == 200
    model.gate.clear()
    model.inside.clear()
    thread = threading.Thread(target=learn, args=(server,), kwargs={"patience": 0.5})
    failed: list[object] = []
    before, threading.excepthook = threading.excepthook, failed.append  # type: ignore[assignment]
    try:
        thread.start()
        assert model.inside.wait(30)
        server.request_stop(5)
        status, body = asked(server, "/readyz")
        assert status == 503
        assert json.loads(body)["state"] == "draining"
        assert asked(server, "/healthz")[0] == 200
        said = pantheon("status", *server.addresses, "--json")
        assert said.returncode == 1
        states = [teacher["state"] for teacher in json.loads(said.stdout)["teachers"]]
        assert states == ["draining", "draining"]
        assert pantheon("health", str(server.http)).returncode == 1
    finally:
        model.gate.set()
        server.stop(0)
        thread.join()
        threading.excepthook = before
    with pytest.raises(OSError, match="refused"):
        urlopen(f"{server.http}/healthz", timeout=5)


def test_clients_that_are_slow_silent_or_many_keep_nobody_out(server: Server) -> None:
    where = ("127.0.0.1", int(str(server.http).rpartition(":")[2]))
    silent = [socket.create_connection(where) for _ in range(3 * MAX_CLIENTS)]
    try:
        for number, client in enumerate(silent):
            if number % 2:
                client.sendall(b"GET /met")
        assert asked(server, "/healthz")[0] == 200
        learn(server)
        assert metrics(server)["pantheon_teacher_samples_total"] == SIZE
        silent[-1].settimeout(ANSWER_S + 5)
        assert silent[-1].recv(1) == b""
    finally:
        for client in silent:
            client.close()


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00\xff" * 100 + b"\r\n\r\n",
        b"GET " + b"/" * 10 * MAX_HEAD,
        b"POST /metrics HTTP/1.1\r\n\r\n",
    ],
)
def test_garbage_is_answered_with_no_knowledge_and_no_trace(server: Server, garbage: bytes) -> None:
    where = ("127.0.0.1", int(str(server.http).rpartition(":")[2]))
    with socket.create_connection(where) as client:
        client.settimeout(10)
        try:
            client.sendall(garbage)
            said = b"".join(iter(lambda: client.recv(4096), b""))
        except ConnectionError:
            said = b""
    assert b"Traceback" not in said
    assert b"pantheon_teacher" not in said
    assert asked(server, "/metrics")[0] == 200
    assert asked(server, "/secrets")[0] == 404


def test_an_http_address_that_cannot_be_is_refused() -> None:
    teacher = Teacher(torch.nn.Identity(), torch.ones(9, 3), {"logits": "float32"}, "r")
    with pytest.raises(ConfigError, match="is no HTTP address; expected HOST:PORT"):
        teacher.start("inproc://watched", http="9464")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(TransportError, match=f"cannot listen at http://127.0.0.1:{port}"):
            teacher.start("inproc://watched", http=f"127.0.0.1:{port}")


def pantheon(*arguments: str, timeout: float = 40) -> subprocess.CompletedProcess[str]:
    """Run the command line."""
    return subprocess.run(
        [sys.executable, "-m", "pantheon", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "COLUMNS": "120"},
    )


def test_status_shows_every_teacher_and_says_which_is_down(server: Server) -> None:
    learn(server, request_rows=50)
    shown = pantheon("status", *server.addresses)
    assert shown.returncode == 0, shown.stderr
    assert [line.split()[1] for line in shown.stdout.splitlines()[1::2]] == ["serving"] * 2
    assert "digits r1" in shown.stdout
    nobody = "tcp://127.0.0.1:1"
    found = pantheon("status", *server.addresses, nobody, "--json", "--patience", "1")
    assert found.returncode == 1
    zmq, grpc, down = json.loads(found.stdout)["teachers"]
    assert zmq["samples"] == grpc["samples"] == SIZE
    assert zmq["models"] == {"digits": "r1"}
    assert down["state"] == "down"
    assert "refused" in down["trouble"]


def test_status_of_a_name_is_that_of_all_its_addresses(server: Server) -> None:
    name = server.addresses[0].replace("tcp://127.0.0.1", "dns://localhost")
    found = json.loads(pantheon("status", name, "--json", "--patience", "2").stdout)["teachers"]
    assert server.addresses[0] in [teacher["address"] for teacher in found]


def test_status_goes_on_with_rates_until_it_is_stopped(server: Server) -> None:
    command = [sys.executable, "-m", "pantheon", "status", server.addresses[0], "--json"]
    with subprocess.Popen(
        [*command, "--watch", "--every", "0.2"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            first = json.loads(process.stdout.readline())["teachers"][0]
            assert "samples_per_second" not in first
            learn(server)
            rates = 0.0
            for line in process.stdout:
                rates += json.loads(line)["teachers"][0]["samples_per_second"]
                if rates:
                    break
            assert rates > 0
        finally:
            process.terminate()


def test_health_is_an_exit_status(server: Server) -> None:
    for address in (server.addresses[1], str(server.http)):
        well = pantheon("health", address)
        assert (well.returncode, well.stdout) == (0, f"{address}: serving\n")
    ill = pantheon("health", "tcp://127.0.0.1:1", "--patience", "0.5")
    assert ill.returncode == 1
    assert "refused" in ill.stdout
    assert pantheon("health", "nonsense").returncode == 2


def test_nobody_without_a_key_is_told_how_a_teacher_is(tmp_path: Path) -> None:
    generate(tmp_path)
    teacher = Teacher(torch.nn.Identity(), torch.ones(9, 3), {"logits": "float32"}, "r")
    with teacher.start("tcp://127.0.0.1:0", security=Curve(tmp_path)) as server:
        address = server.addresses[0]
        assert pantheon("health", address, "--keys", str(tmp_path)).returncode == 0
        stranger = pantheon("status", address, "--json", "--patience", "1.5")
        assert stranger.returncode == 1
        (found,) = json.loads(stranger.stdout)["teachers"]
        assert found["state"] == "down"
        assert "uptime" not in found


SLOW = """
import time
from pathlib import Path
import torch


class Gated(torch.nn.Module):
    def forward(self, x):
        for _ in range(3000):
            if float(x.max()) < 50 or Path("go").exists():
                return x * 2
            time.sleep(0.01)


def data():
    return torch.arange(100.0).unsqueeze(1)
"""


def test_a_dump_shows_how_far_it_is(tmp_path: Path) -> None:
    (tmp_path / "gated.py").write_text(SLOW)
    (tmp_path / "teacher.yaml").write_text(
        "model: gated:Gated\ndataset: gated:data\nschema: {y: float32}\n"
        "revision: r1\nbatch_rows: 10\nshard_rows: 10\n"
    )
    command = ["-m", "pantheon", "dump", "teacher.yaml", "dump", "--http", "127.0.0.1:0"]
    path = f"{tmp_path}{os.pathsep}{ROOT}"
    with subprocess.Popen(
        [sys.executable, *command],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "COLUMNS": "120"},
    ) as process:
        try:
            assert process.stdout is not None
            http = process.stdout.readline().split()[-1]
            found: dict[str, float] = {}
            while found.get("pantheon_dump_samples", 0) < 50:
                time.sleep(0.2)
                with urlopen(f"{http}/metrics", timeout=10) as answer:
                    text = answer.read().decode()
                families = text_string_to_metric_families(text)
                found = {s.name: s.value for f in families for s in f.samples}
            assert found["pantheon_dump_samples"] == 50
            assert found["pantheon_dump_wanted_samples"] == 100
            with urlopen(f"{http}/readyz", timeout=10) as answer:
                assert json.loads(answer.read())["samples"] == 50
            (tmp_path / "go").touch()
            assert process.wait(30) == 0
        finally:
            process.kill()
