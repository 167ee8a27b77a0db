"""What a student is told of an error at the teacher, and what the teacher's log keeps."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor

from pantheon.dataset import Ids
from pantheon.errors import PoisonError
from student_client import TeacherClient
from teacher_server import Teacher

PATH = "/home/ann/project/7.png"


class Torn:
    """Cannot read its last sample."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, id: int) -> Tensor:
        if id == 7:
            raise FileNotFoundError(2, "No such file", PATH)
        return torch.ones(1)


def failing(ids: Tensor) -> Tensor:
    if not bool((ids == 7).any()):
        return ids[:, None].float()
    raise ValueError(f"Traceback of TorchScript, {PATH}, line 3")


@pytest.mark.parametrize(
    ("teacher", "told"),
    [
        (
            Teacher(failing, Ids(8), {"y": "float32"}, revision="1"),
            "the model raised ValueError for ids 7 (1 samples); the teacher's log has the rest",
        ),
        (
            Teacher(
                torch.nn.Linear(1, 2),
                Torn(),
                {"y": "float32"},
                revision="1",
                dataset_fingerprint="torn",
            ),
            "could not be read: FileNotFoundError; the teacher's log has the rest",
        ),
    ],
    ids=["model", "dataset"],
)
def test_a_student_learns_what_failed_and_the_log_alone_where(
    teacher: Teacher, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.WARNING),
        teacher.start("tcp://127.0.0.1:0") as server,
        TeacherClient(server.addresses[0], attempts=1) as client,
        pytest.raises(PoisonError, match="log has the rest") as caught,
    ):
        client.query_ids([7]).result(20)
    assert told in str(caught.value)
    assert PATH not in str(caught.value)
    assert any(
        PATH in r.getMessage()
        and r.exc_info
        and getattr(r, "requests", getattr(r, "request", None))
        for r in caplog.records
        if r.name == "teacher_server.batching"
    )
