"""A stock MLServer, without a line of ours, is a teacher."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pantheon.errors import PantheonError, RefusedError, TeacherUnavailable
from pantheon.losses import LogitMSE
from student_client import KnowledgeLoader, TeacherClient
from teacher_server import Teacher
from tests.integration.mlserver_server import mlserver

pytestmark = pytest.mark.timeout(600)
"""The first run makes MLServer's environment."""

SIZE = 300


class Points:
    """Sample i is twelve numbers made from i."""

    def __init__(self) -> None:
        self.x = torch.randn(SIZE, 12, generator=torch.Generator().manual_seed(3))

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, i: int) -> Tensor:
        return self.x[i]


def taught(x: Tensor) -> Tensor:
    """What the model in MLServer computes."""
    rng = np.random.default_rng(7)
    weight = torch.from_numpy(rng.normal(size=(12, 4)).astype(np.float32))
    return x @ weight + torch.from_numpy(rng.normal(size=4).astype(np.float32))


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A running MLServer's model."""
    with mlserver(tmp_path_factory.mktemp("mlserver")) as (_, port):
        yield f"grpc://127.0.0.1:{port}/linear"


def test_its_outputs_are_the_fields_and_every_sample_is_answered(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.WARNING),
        KnowledgeLoader(
            Points(), batch_size=32, shuffle=True, teachers={"stock": address}
        ) as loader,
    ):
        assert loader.describe()["logits"].shape == (4,)
        seen = []
        for batch in loader:
            torch.testing.assert_close(batch.knowledge["logits"], taught(batch.inputs))
            seen += batch.ids.tolist()
    assert sorted(seen) == list(range(SIZE))
    assert any("revision" in r.message and "stock" in r.message for r in caplog.records)


def test_a_student_learns_from_it(address: str) -> None:
    torch.manual_seed(0)
    student, loss = torch.nn.Linear(12, 4), LogitMSE()
    optimizer = torch.optim.SGD(student.parameters(), 0.1)
    errors = []
    with KnowledgeLoader(
        Points(), batch_size=30, shuffle=True, teachers={"stock": address}
    ) as loader:
        for _ in range(12):
            for batch in loader:
                optimizer.zero_grad()
                error = loss(student(batch.inputs), batch.knowledge["logits"])
                error.backward()
                optimizer.step()
                errors.append(error.item())
    assert errors[0] > 1
    assert errors[-1] < 1e-3
    x = torch.randn(100, 12)
    torch.testing.assert_close(student(x), taught(x), atol=0.1, rtol=0.1)


def test_its_knowledge_merges_with_that_of_a_teacher_of_ours(address: str) -> None:
    zero = Teacher(lambda x: torch.zeros(len(x), 4), Points(), {"logits": "float32"}, "1")
    with KnowledgeLoader(
        Points(),
        batch_size=50,
        teachers={"stock": address, "zero": zero},
        merge={"logits": "mean"},
        revision={"stock": "v1"},
    ) as loader:
        for batch in loader:
            torch.testing.assert_close(batch.knowledge["logits"], taught(batch.inputs) / 2)


def test_any_inputs_are_answered_at_once(address: str) -> None:
    x = torch.randn(5, 12)
    with TeacherClient(address) as client:
        torch.testing.assert_close(client.query(x).result(20)["logits"], taught(x))
        torch.testing.assert_close(client.query({"x": x}).result(20)["logits"], taught(x))


def test_inputs_it_does_not_take_are_named(address: str) -> None:
    with TeacherClient(address) as client:
        with pytest.raises(PantheonError, match=r"'x' .*float32.*float64"):
            client.query(torch.zeros(2, 12, dtype=torch.float64)).result(20)
        with pytest.raises(PantheonError, match=r"takes the inputs \['x'\].*'y'"):
            client.query({"y": torch.zeros(2, 12)}).result(20)
        assert len(client.query(torch.zeros(2, 12)).result(20)) == 2


def test_ids_cannot_be_asked_of_it(address: str) -> None:
    with (
        pytest.raises(PantheonError, match="inputs"),
        KnowledgeLoader(ids=range(10), teachers={"stock": address}, patience=5) as loader,
    ):
        next(iter(loader))


def test_a_model_it_does_not_have_is_named(address: str) -> None:
    other = address.replace("linear", "quadratic")
    with (
        pytest.raises(PantheonError, match="quadratic"),
        KnowledgeLoader(Points(), teachers={"stock": other}, patience=5) as loader,
    ):
        next(iter(loader))


def test_a_server_that_dies_is_missed_after_the_patience(tmp_path: Path) -> None:
    with mlserver(tmp_path / "mlserver") as (process, port):
        address = f"grpc://127.0.0.1:{port}/linear"
        with KnowledgeLoader(
            Points(),
            batch_size=4,
            request_rows=4,
            teachers={"stock": address},
            patience=1,
            window_bytes=256,
        ) as loader:
            batches = iter(loader)
            next(batches)
            process.kill()
            process.wait(10)
            start = time.monotonic()
            with pytest.raises((TeacherUnavailable, RefusedError), match=str(port)):
                list(batches)
            assert time.monotonic() - start < 20
