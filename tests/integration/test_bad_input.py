"""Whatever is wrong is named, with what was expected and found and what to do; nothing hangs."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from pantheon import errors
from pantheon.losses import KLDivergence
from student_client import KnowledgeLoader
from teacher_server import Teacher
from tests.integration.toy import SIZE, Numbers

HASTY = 1.0


class Line(torch.nn.Module):
    """A times x plus b."""

    def __init__(self, a: float = 2.0, b: float = 0.0) -> None:
        super().__init__()
        self.a = torch.nn.Parameter(torch.tensor(a))
        self.b = torch.nn.Parameter(torch.tensor(b))

    def forward(self, x: Tensor) -> Tensor:
        return self.a * x + self.b


class Fewer(Numbers):
    """The same numbers, but not as many."""

    def __len__(self) -> int:
        return SIZE // 2


def line(**options: Any) -> Teacher:
    """A teacher of 2x."""
    return Teacher(Line(), Numbers(), schema={"output": "float32"}, **options)


def read_all(teachers: dict[str, Any], **options: Any) -> int:
    """Read one epoch; answers the number of batches."""
    options = {"batch_size": 50, "patience": HASTY, "merge": {"output": "mean"}} | options
    dataset = options.pop("dataset", Numbers())
    with KnowledgeLoader(dataset, teachers=teachers, **options) as loader:
        return sum(1 for _ in loader)


@contextmanager
def says(error: type[Exception], *words: str, within: float = 10.0) -> Iterator[None]:
    """An error of one kind, in time, whose message has all the words."""
    start = time.monotonic()
    with pytest.raises(error) as caught:
        yield
    assert time.monotonic() - start < within
    message = str(caught.value)
    assert all(w in message for w in words), message


def test_an_unknown_host_is_named() -> None:
    with says(errors.UnknownHost, "no-such-host.invalid"):
        read_all({"t": "tcp://no-such-host.invalid:5557"}, patience=5)


@pytest.mark.parametrize("scheme", ["tcp", "grpc"])
def test_nobody_listening_is_retried_and_then_raised(scheme: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"{scheme}://127.0.0.1:{free.getsockname()[1]}"
        with says(errors.TeacherUnavailable, address, "1", within=HASTY + 4):
            read_all({"t": address})


def test_a_teacher_that_comes_late_is_waited_for(tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/late.sock"
    servers = []
    timer = threading.Timer(0.7, lambda: servers.append(line().start(address)))
    timer.start()
    assert read_all({"t": address}, patience=20) == SIZE // 50
    timer.join()
    servers[0].stop()


@contextmanager
def something_else(answer: bytes) -> Iterator[int]:
    """A port where everybody is answered the same bytes."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        over = threading.Event()

        def loop() -> None:
            while not over.is_set():
                try:
                    peer, _ = server.accept()
                except TimeoutError:
                    continue
                with peer:
                    peer.settimeout(1)
                    peer.sendall(answer)

        thread = threading.Thread(target=loop)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            over.set()
            thread.join()


@pytest.mark.parametrize("scheme", ["tcp", "grpc"])
def test_another_protocol_on_the_port_is_told_apart_from_nobody(scheme: str) -> None:
    answer = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
    with (
        something_else(answer) as port,
        says(errors.TransportError, f"127.0.0.1:{port}", "speak", within=25),
    ):
        read_all({"t": f"{scheme}://127.0.0.1:{port}"}, patience=15)


def test_zeromq_on_a_grpc_port_and_the_reverse_are_named() -> None:
    with line().start("tcp://127.0.0.1:0", "grpc://127.0.0.1:0") as server:
        tcp, grpc = (a.split("://")[1] for a in server.addresses)
        with says(errors.TransportError, grpc, within=25):
            read_all({"t": f"tcp://{grpc}"}, patience=15)
        with says(errors.TransportError, tcp, within=25):
            read_all({"t": f"grpc://{tcp}"}, patience=15)


@pytest.mark.parametrize("scheme", ["shm", "ftp"])
def test_a_scheme_that_is_not_built_yet_says_so(scheme: str) -> None:
    with says(errors.UnsupportedScheme, f"{scheme}://"):
        read_all({"t": f"{scheme}://somewhere"})


def mismatched() -> dict[str, tuple[list[Teacher], dict[str, Any], type[Exception], list[str]]]:
    """Teachers that do not fit each other or the student."""
    return {
        "replicas of two schemas": (
            [line(), Teacher(Line(), Numbers(), schema={"output": "float16"})],
            {},
            errors.SchemaMismatch,
            ["float32", "float16"],
        ),
        "replicas of two revisions": (
            [line(), Teacher(Line(a=3.0), Numbers(), schema={"output": "float32"})],
            {},
            errors.RevisionMismatch,
            [],
        ),
        "another revision than asked for": (
            [line()],
            {"revision": {"t": "0123456789abcdef"}},
            errors.RevisionMismatch,
            ["0123456789abcdef"],
        ),
        "another dataset than the student's": (
            [line()],
            {"dataset_fingerprint": "other"},
            errors.DatasetMismatch,
            ["other"],
        ),
        "a shorter dataset than the student's": (
            [Teacher(Line(), Fewer(), schema={"output": "float32"}, dataset_fingerprint="same")],
            {"dataset_fingerprint": "same"},
            errors.DatasetMismatch,
            ["500", "1000"],
        ),
    }


@pytest.mark.parametrize("case", mismatched())
def test_what_does_not_fit_is_named_on_both_sides(case: str) -> None:
    teachers, options, error, words = mismatched()[case]
    servers = [t.start("tcp://127.0.0.1:0") for t in teachers]
    try:
        with says(error, *words):
            read_all({"t": [s.addresses[0] for s in servers]}, **options)
    finally:
        for server in servers:
            server.stop()


def test_teachers_with_different_id_ranges_are_named() -> None:
    short = Teacher(Line(), Fewer(), schema={"output": "float32"})
    with (
        line().start("tcp://127.0.0.1:0") as a,
        short.start("tcp://127.0.0.1:0") as b,
        says(errors.DatasetMismatch, "500", "1000"),
    ):
        read_all({"a": a.addresses[0], "b": b.addresses[0]}, dataset=None)


@pytest.mark.parametrize("bad", [-1, SIZE, 10**12])
def test_an_id_out_of_range_is_named(bad: int) -> None:
    with says(errors.IdOutOfRange, str(bad)):
        read_all({"t": line()}, ids=[0, bad])


def raising(x: Tensor) -> Tensor:
    """A model with a bug, which its first forward does not show."""
    if bool(x.any()):
        raise RuntimeError("the weights are on fire")
    return x


def leaving(x: Tensor) -> Tensor:
    """A model that wants the process to end, from its second forward on."""
    if (x != 0).any():
        raise SystemExit("enough")
    return x


def wrong(x: Tensor) -> Tensor:
    """A model whose shape changes after its first forward."""
    return x if len(x) == 1 else torch.cat([x, x], dim=1)


def poisoned(x: Tensor) -> Tensor:
    """NaN for one sample, 333."""
    return torch.where(x == 333, torch.nan, x)


MODELS: dict[str, tuple[Callable[[Tensor], Tensor], type[Exception], list[str]]] = {
    "raises": (raising, errors.TeacherError, ["the weights are on fire"]),
    "leaves": (leaving, errors.TeacherError, ["SystemExit", "enough"]),
    "wrong shape": (wrong, errors.TeacherError, ["(1,)", "(2,)"]),
    "not a number": (poisoned, errors.NotFiniteError, ["333"]),
}


@pytest.mark.parametrize("case", MODELS)
@pytest.mark.parametrize("way", ["tcp", "grpc", "local"])
def test_a_broken_model_is_named_and_the_server_lives_on(case: str, way: str) -> None:
    model, error, words = MODELS[case]
    broken = Teacher(model, Numbers(), schema={"output": "float32"}, revision="1")
    if way == "local":
        with says(error, *words):
            read_all({"t": broken})
        return
    with broken.start(f"{way}://127.0.0.1:0") as server:
        for _ in range(2):
            with says(error, *words):
                read_all({"t": server.addresses[0]})


def test_nan_can_be_let_through_on_purpose() -> None:
    teacher = Teacher(
        poisoned, Numbers(), schema={"output": "float32"}, revision="1", finite="allow"
    )
    assert read_all({"t": teacher}) == SIZE // 50


class Endless(IterableDataset[Tensor]):
    """An iterable without ids."""

    def __iter__(self) -> Iterator[Tensor]:
        yield torch.zeros(1)


def test_an_iterable_dataset_is_refused_on_both_sides() -> None:
    with says(errors.DatasetError, "map-style"):
        read_all({"t": line()}, dataset=Endless())
    with says(errors.DatasetError, "map-style"):
        Teacher(Line(), Endless(), schema={"output": "float32"})


def test_a_resume_with_another_global_batch_says_which_batch_size_keeps_it() -> None:
    teacher = line()
    with KnowledgeLoader(Numbers(), batch_size=50, teachers={"t": teacher}) as loader:
        next(iter(loader))
        state = loader.state_dict()
    with (
        KnowledgeLoader(Numbers(), batch_size=40, teachers={"t": teacher}) as other,
        says(errors.ResumeMismatch, "batch_size", "50", "40"),
    ):
        other.load_state_dict(state)


def test_an_undeclared_temperature_names_the_declared_ones() -> None:
    classes = torch.nn.Linear(1, 10)
    teacher = Teacher(classes, Numbers(), schema={"logits": "topk:4@1,2"})
    with KnowledgeLoader(Numbers(), batch_size=50, teachers={"t": teacher}) as loader:
        batch = next(iter(loader))
    with says(errors.UndeclaredTemperature, "3", "1", "2"):
        KLDivergence(temperature=3.0)(torch.zeros(50, 10), batch.knowledge["logits"])


def flip(shard: Path) -> None:
    """Change one bit in the middle of the last row."""
    data = bytearray(shard.read_bytes())
    data[-5] ^= 1
    shard.write_bytes(data)


def cut(shard: Path) -> None:
    """Lose the last half."""
    data = shard.read_bytes()
    shard.write_bytes(data[: len(data) // 2])


DAMAGES: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "cut short": (cut, ["shard"]),
    "flipped": (flip, ["shard", "checksum"]),
    "missing": (lambda shard: shard.unlink(), ["shard"]),
    "extra": (
        lambda shard: shard.with_name("shard-extra.safetensors").write_bytes(shard.read_bytes()),
        ["shard-extra"],
    ),
    "manifest not JSON": (
        lambda shard: (shard.parent / "manifest.json").write_text("{"),
        ["manifest.json", "JSON"],
    ),
    "manifest of something else": (
        lambda shard: (shard.parent / "manifest.json").write_text(json.dumps([1])),
        ["manifest.json"],
    ),
    "manifest absent": (lambda shard: (shard.parent / "manifest.json").unlink(), ["manifest.json"]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_dump_is_never_read_as_whole(tmp_path: Path, damage: str) -> None:
    line().dump(str(tmp_path), shard_rows=300)
    assert read_all({"t": str(tmp_path)}) == SIZE // 50
    harm, words = DAMAGES[damage]
    harm(sorted(tmp_path.glob("shard-*.safetensors"))[-1])
    with says(errors.StoreError, str(tmp_path), *words):
        read_all({"t": str(tmp_path)})


def test_a_path_that_is_no_dump_says_so(tmp_path: Path) -> None:
    with says(errors.StoreError, str(tmp_path / "nothing")):
        read_all({"t": str(tmp_path / "nothing")})


def test_a_server_for_everybody_wants_to_be_asked_twice() -> None:
    with says(errors.ConfigError, "0.0.0.0", "insecure"):
        line().start("tcp://0.0.0.0:0")
