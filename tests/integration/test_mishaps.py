"""Errors and busy teachers in the middle of an epoch: nothing is mixed up, and nobody hangs."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterable
from typing import Any

import pytest
import torch
import zmq
from torch import Tensor

from pantheon import errors
from pantheon.merge import Mask
from pantheon.schema import FieldSpec
from pantheon.transport import listen
from pantheon.wire.messages import Hello, Limits, Refused, Score
from student_client import KnowledgeLoader
from teacher_server import Teacher
from teacher_server.host import describe

SIZE, BATCH = 480, 8


class Fragile(torch.utils.data.Dataset[Tensor]):
    """Sample i is i; each id of `bad` cannot be read once."""

    def __init__(self) -> None:
        self.bad: set[int] = set()

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, i: int) -> Tensor:
        if i in self.bad:
            self.bad.discard(i)
            raise OSError(f"sample {i} is away for a moment")
        return torch.tensor([float(i)])


def echo(dataset: Any = None, **options: Any) -> Teacher:
    """Answers its inputs as they are."""
    spec = FieldSpec("y", "float32", (1,), "raw")
    return Teacher(lambda x: x.clone(), dataset, {"y": spec}, revision="1", **options)


def loader(dataset: Any, source: Any, **options: Any) -> KnowledgeLoader:
    options = {"request_rows": BATCH, "dataset_fingerprint": "d"} | options
    return KnowledgeLoader(dataset, BATCH, teachers={"t": source}, **options)


def right(batch: Any) -> None:
    assert batch.inputs.flatten().tolist() == batch.ids.tolist()
    assert batch.knowledge["y"].flatten().tolist() == batch.ids.tolist()


def read(batches: Iterable[Any], seen: list[int]) -> None:
    """Read to the end, noting the ids."""
    for batch in batches:
        right(batch)
        seen += batch.ids.tolist()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_unreadable_sample_ends_the_epoch_which_can_be_gone_on_with(num_workers: int) -> None:
    data = Fragile()
    data.bad = {3 * BATCH + 1}
    served = echo(torch.arange(float(SIZE)).unsqueeze(1), dataset_fingerprint="d")
    with (
        served.start("tcp://127.0.0.1:0") as server,
        loader(data, server.addresses[0], num_workers=num_workers) as reading,
    ):
        batches, seen = iter(reading), list[int]()
        with pytest.raises((OSError, errors.DatasetError), match="away for a moment"):
            read(batches, seen)
        with pytest.raises(errors.ConfigError, match=r"ended by .*load_state_dict"):
            next(batches)
        reading.load_state_dict(reading.state_dict())
        read(reading, seen)
        assert seen == list(range(SIZE))


@pytest.mark.parametrize("step", [0, 4])
def test_answers_to_an_epoch_that_failed_are_not_taken_for_the_next_ones(step: int) -> None:
    data = Fragile()
    with (
        echo().start("tcp://127.0.0.1:0") as server,
        loader(data, server.addresses[0], window_bytes=4 * BATCH * 4, shuffle=True) as reading,
    ):
        reading.describe()
        itinerary = reading._itinerary
        assert itinerary is not None
        # An input that is to be sent with a request asked for ahead.
        data.bad = {int(itinerary.stretch(0, (step + 3) * BATCH, SIZE).ids[1])}
        with pytest.raises(errors.DatasetError, match="away for a moment"):
            read(reading, [])
        time.sleep(0.2)
        seen: list[int] = []
        read(reading, seen)
        assert sorted(seen) == list(range(SIZE))


def test_an_epoch_that_could_not_begin_is_still_ahead() -> None:
    data = Fragile()
    with (
        echo().start("tcp://127.0.0.1:0") as server,
        loader(data, server.addresses[0]) as reading,
    ):
        whole = iter(reading)
        for _ in range(5):
            next(whole)
        reading.load_state_dict(reading.state_dict())
        data.bad = {5 * BATCH}
        with pytest.raises(errors.DatasetError, match="away for a moment"):
            iter(reading)
        assert next(iter(reading)).ids.tolist() == list(range(5 * BATCH, 6 * BATCH))


class Busy:
    """A replica that welcomes everybody and says that it is busy, always."""

    def __init__(self, like: Teacher) -> None:
        self.asked = 0
        self._listener = listen("tcp://127.0.0.1:0")
        self._own = describe("", like.scorer, Limits())
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.address = self._listener.address

    def _run(self) -> None:
        poller = zmq.Poller()
        for pollable in self._listener.pollables:
            poller.register(pollable, zmq.POLLIN)
        while not self._over.is_set():
            poller.poll(50)
            while (received := self._listener.receive()) is not None:
                peer, message = received
                if isinstance(message, Hello):
                    self._listener.send(peer, self._own)
                elif isinstance(message, Score):
                    self.asked += 1
                    self._listener.send(peer, Refused(message.request, "busy", "come later"))
        self._listener.close()

    def __enter__(self) -> Busy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


@pytest.fixture
def calm() -> Teacher:
    return echo(torch.arange(float(SIZE)).unsqueeze(1), dataset_fingerprint="d")


def test_what_one_replica_is_too_busy_for_is_done_by_another(calm: Teacher) -> None:
    data = torch.arange(float(SIZE)).unsqueeze(1)
    with (
        Busy(calm) as busy,
        calm.start("tcp://127.0.0.1:0") as server,
        loader(data, [busy.address, server.addresses[0]], patience=5.0) as reading,
    ):
        for batch in reading:
            right(batch)
        assert 0 < busy.asked < SIZE // BATCH / 2, "it is not asked again and again"


def test_a_teacher_that_is_busy_for_longer_than_the_patience_is_given_up(calm: Teacher) -> None:
    with (
        Busy(calm) as busy,
        loader(Fragile(), busy.address, patience=1.0) as reading,
        pytest.raises(errors.TeacherUnavailable, match="only that it is busy"),
    ):
        next(iter(reading))


def test_a_teacher_that_is_back_answers_what_is_not_needed_yet(calm: Teacher) -> None:
    data = torch.arange(float(SIZE)).unsqueeze(1)
    with contextlib.ExitStack() as stack:
        other = stack.enter_context(calm.start("tcp://127.0.0.1:0"))
        first = echo(data, dataset_fingerprint="d").start("tcp://127.0.0.1:0")
        teachers = {"a": other.addresses[0], "b": first.addresses[0]}
        options: dict[str, Any] = {"request_rows": BATCH, "patience": 0.5}
        student = KnowledgeLoader(
            data,
            BATCH,
            teachers=teachers,
            merge={"y": Mask("mean")},
            dataset_fingerprint="d",
            **options,
        )
        stack.enter_context(student)
        missed: list[int] = []
        for step, batch in enumerate(student):
            if not bool(batch.knowledge.mask["y"].all()):
                missed.append(step)
            if step == 5:
                first.stop(0)
            if len(missed) == 1 and missed[0] == step:
                stack.enter_context(echo(data, dataset_fingerprint="d").start(first.addresses[0]))
            if missed:
                time.sleep(0.02)
        # All the rest was within the window when it was given up.
        assert 1 <= len(missed) < (SIZE // BATCH - missed[0]) / 2
