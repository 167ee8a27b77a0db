"""What is taught in the chaos tests: a small dataset, teachers of it, and a student's plain loop.

As a program, ``python -m tests.chaos.lessons JSON``, it is a student in a process of its own: it
takes the arguments of `learn` and prints its `Lesson` as JSON.
"""

from __future__ import annotations

import copy
import hashlib
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from student_client import KnowledgeLoader
from teacher_server import Teacher

SIZE, WIDTH, CLASSES = 2400, 16, 10
BATCH = 20
STEPS = SIZE // BATCH
"""Steps of an epoch."""


class Rows:
    """Sample i is a row of random numbers."""

    def __init__(self, size: int = SIZE) -> None:
        generator = torch.Generator().manual_seed(1)
        self.rows = torch.randn(size, WIDTH, generator=generator)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Tensor:
        return self.rows[i]


class Expert(torch.nn.Module):
    """A network whose rows have other bits in another batch shape; it may take its time.

    Args:
        weights: seed of its weights.
        pace: seconds that every forward takes at least.
    """

    def __init__(self, weights: int = 0, pace: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(weights)
        self.net = torch.nn.Sequential(
            torch.nn.Linear(WIDTH, 300), torch.nn.ReLU(), torch.nn.Linear(300, CLASSES)
        )
        self.pace = pace

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.pace)
        return self.net(x)  # type: ignore[no-any-return]


def teacher(weights: int = 0, pace: float = 0.0, revision: str | None = None) -> Teacher:
    """A deterministic teacher of the rows, whose revision may be stated, wrongly too."""
    return Teacher(
        Expert(weights, pace),
        Rows(),
        {"logits": "float32"},
        revision,
        fixed_rows=16,
        dataset_fingerprint="chaos",
    )


@dataclass
class Lesson:
    """What a student did.

    Args:
        ids: of each step.
        weights: a digest of the student's final weights, byte for byte.
        stats: the loader's numbers at the end.
        seconds: how long it took.
    """

    ids: list[list[int]] = field(default_factory=list)
    weights: str = ""
    stats: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


class Student:
    """A small network, its optimizer and its loader."""

    def __init__(self, teachers: Mapping[str, Any], **options: Any) -> None:
        torch.manual_seed(7)
        self.model = torch.nn.Sequential(
            torch.nn.Linear(WIDTH, 24), torch.nn.Tanh(), torch.nn.Linear(24, CLASSES)
        )
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9)
        chosen: dict[str, Any] = {"request_rows": BATCH, "window_bytes": 16 * BATCH * CLASSES * 4}
        self.loader = KnowledgeLoader(
            Rows(),
            BATCH,
            teachers=teachers,
            shuffle=True,
            seed=3,
            dataset_fingerprint="chaos",
            **chosen | options,
        )

    def step(self, batch: Any) -> None:
        """Learn from one batch."""
        wanted = batch.knowledge["logits"]
        loss = torch.nn.functional.mse_loss(self.model(batch.inputs), wanted)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """Model, optimizer and loader."""
        return {name: getattr(self, name).state_dict() for name in ("model", "optimizer", "loader")}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state."""
        for name, value in state.items():
            getattr(self, name).load_state_dict(value)

    def digest(self) -> str:
        """A digest of the weights' bytes."""
        state = hashlib.sha256()
        for name, tensor in self.model.state_dict().items():
            state.update(name.encode() + tensor.numpy().tobytes())
        return state.hexdigest()


def learn(
    addresses: Any,
    epochs: int = 1,
    during: Callable[[Student, Lesson], None] = lambda student, lesson: None,
    state: Mapping[str, Any] | None = None,
    kept: list[Any] | None = None,
    **options: Any,
) -> Lesson:
    """Train to the end of some epochs.

    Args:
        during: called before each step.
        state: of a student to continue.
        kept: gets the student's state after each step.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    lesson, start = Lesson(), time.monotonic()
    student = Student({"expert": addresses}, **options)
    try:
        if state is not None:
            student.load_state_dict(state)
        while (epoch := student.loader.state_dict()["epoch"]) < epochs:
            for batch in student.loader:
                during(student, lesson)
                lesson.ids.append(batch.ids.tolist())
                student.step(batch)
                if kept is not None:
                    kept.append(copy.deepcopy(student.state_dict()))
            assert student.loader.state_dict()["epoch"] == epoch + 1
        lesson.stats = student.loader.stats().as_dict()
    finally:
        student.loader.close()
        torch.set_num_threads(threads)
    lesson.weights, lesson.seconds = student.digest(), time.monotonic() - start
    return lesson


if __name__ == "__main__":
    print(json.dumps(asdict(learn(**json.loads(sys.argv[1])))), flush=True)
