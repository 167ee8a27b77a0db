"""What a loader promises beside bits and order: iteration, failover, routing, workers, leaving."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
import zmq
from torch import Tensor
from torch.utils.data import default_collate

from pantheon import errors
from pantheon.merge import Route
from pantheon.schema import FieldSpec, KnowledgeSchema
from pantheon.transport import listen
from pantheon.wire.messages import Hello, Welcome
from student_client import Batch, KnowledgeLoader
from teacher_server import Server, Teacher
from tests.integration.programs import ROOT
from tests.integration.toy import Numbers, toy_teacher

SIZE = 1000


class Times(torch.nn.Module):
    """A times x, as slowly as told."""

    def __init__(self, a: float, seconds: float = 0.0) -> None:
        super().__init__()
        self.a = torch.nn.Parameter(torch.tensor(a))
        self.seconds = seconds

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.seconds)
        return self.a * x


def teacher(a: float = 2.0, seconds: float = 0.0, **options: Any) -> Teacher:
    return Teacher(
        Times(a, seconds),
        Numbers(),
        schema={"y": "float32"},
        **{"dataset_fingerprint": "toy"} | options,
    )


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with teacher().start("tcp://127.0.0.1:0") as running:
        yield running


def loader(source: Any, **options: Any) -> KnowledgeLoader:
    options = {"batch_size": 50, "dataset_fingerprint": "toy", "patience": 10.0} | options
    dataset = options.pop("dataset", Numbers())
    return KnowledgeLoader(dataset, teachers={"t": source}, **options)


def check(batch: Batch, a: float = 2.0) -> list[int]:
    """The ids of a batch, after comparing its knowledge with them."""
    y = batch.knowledge["y"]
    assert isinstance(y, Tensor)
    assert y.flatten().tolist() == [a * i for i in batch.ids.tolist()]
    return batch.ids.tolist()


def test_breaking_off_leaves_the_loader_usable_and_cancels_the_rest(server: Server) -> None:
    with loader(server.addresses[0], shuffle=True) as reading:
        for epoch in range(4):
            reading.set_epoch(epoch)
            for n, batch in enumerate(reading):
                check(batch)
                if n == epoch:
                    break
        ids = [i for batch in reading for i in check(batch)]
        assert sorted(ids) == list(range(SIZE))
        assert reading.state_dict()["epoch"] == 5


def test_an_older_iterator_becomes_invalid_and_says_so(server: Server) -> None:
    with loader(server.addresses[0]) as reading:
        older = iter(reading)
        next(older)
        newer = iter(reading)
        with pytest.raises(errors.ConfigError, match="one epoch goes on at a time"):
            next(older)
        assert check(next(newer)) == list(range(50))


def test_an_exhausted_iterator_stays_exhausted(server: Server) -> None:
    with loader(server.addresses[0], batch_size=SIZE) as reading:
        batches = iter(reading)
        next(batches)
        for _ in range(2):
            with pytest.raises(StopIteration):
                next(batches)


def test_a_state_after_a_break_goes_on_where_it_was_left(server: Server) -> None:
    with loader(server.addresses[0], shuffle=True, seed=4) as reading:
        whole = [check(b) for b in reading]
    with loader(server.addresses[0], shuffle=True, seed=4) as reading:
        for n, _ in enumerate(reading):
            if n == 6:
                break
        state = reading.state_dict()
    with loader(server.addresses[0], shuffle=True, seed=4) as again:
        again.load_state_dict(state)
        assert again.state_dict() == state
        again.set_epoch(0)
        assert [check(b) for b in again] == whole[7:]
        assert next(iter(again)).ids.tolist() != whole[0]


@pytest.mark.parametrize("request_rows", [17, 50, 100, 1000])
def test_a_state_in_the_middle_of_a_request_continues(server: Server, request_rows: int) -> None:
    with loader(server.addresses[0], request_rows=request_rows) as reading:
        batches = iter(reading)
        for _ in range(3):
            next(batches)
        state = reading.state_dict()
        reading.load_state_dict(state)
        assert [i for b in reading for i in check(b)] == list(range(150, SIZE))


def test_chosen_ids_keep_their_ids(server: Server) -> None:
    ids = list(range(900, 100, -7))
    with loader(server.addresses[0], ids=ids, shuffle=True) as reading:
        seen = []
        for batch in reading:
            assert batch.inputs.flatten().tolist() == [float(i) for i in batch.ids]
            seen += check(batch)
    assert sorted(seen) == sorted(ids)


def test_chosen_ids_are_checked_at_once() -> None:
    with pytest.raises(errors.DatasetError, match=r"more than once.*\[3\]"):
        loader("tcp://127.0.0.1:9", ids=[3, 1, 3])
    with pytest.raises(errors.IdOutOfRange, match="5000"):
        loader("tcp://127.0.0.1:9", ids=[3, 5000])


def test_ranks_pad_the_last_batch_and_mask_it(server: Server) -> None:
    real = []
    for rank in range(3):
        with loader(server.addresses[0], batch_size=64, rank=rank, world=3) as reading:
            assert len(reading) == 6
            for batch in reading:
                check(batch)
                real += batch.ids[batch.mask].tolist()
    assert sorted(real) == list(range(SIZE))


def test_dropping_the_last_batch_leaves_whole_ones(server: Server) -> None:
    with loader(server.addresses[0], batch_size=300, drop_last=True) as reading:
        assert [len(b) for b in reading] == [300] * 3 == [300] * len(reading)


def test_knowledge_alone_needs_no_dataset(server: Server) -> None:
    with loader(server.addresses[0], dataset=None) as reading:
        assert len(reading) == SIZE // 50
        assert reading.describe() == KnowledgeSchema((FieldSpec("y", "float32", (1,)),))
        for batch in reading:
            assert batch.inputs is None
            assert batch.targets is None
            check(batch)


@pytest.mark.parametrize("collate_fn", [None, default_collate])
def test_worker_processes_read_the_samples(server: Server, collate_fn: Any) -> None:
    options = {"num_workers": 2, "collate_fn": collate_fn, "shuffle": True}
    with loader(server.addresses[0], **options) as reading:
        for stop in (3, 20, 20):
            for n, batch in enumerate(reading, start=1):
                ids = check(batch)
                assert batch.inputs.flatten().tolist() == [float(i) for i in ids]
                assert batch.targets.tolist() == ids
                if n == stop:
                    break


def test_workers_are_forked_where_no_socket_exists_and_nobody_outlives_the_student() -> None:
    with toy_teacher("minus").start("tcp://127.0.0.1:0") as running:
        command = [sys.executable, "-W", "error", "-m", "tests.integration.forking"]
        process = subprocess.run(
            [*command, running.addresses[0]], cwd=ROOT, capture_output=True, text=True, timeout=50
        )
    assert (process.returncode, process.stdout, process.stderr) == (0, "done\n", "")


def test_a_replica_that_dies_loses_no_sample() -> None:
    with teacher(seconds=0.01).start("tcp://127.0.0.1:0") as stays:
        dies = teacher(seconds=0.01).start("tcp://127.0.0.1:0")
        addresses = [stays.addresses[0], dies.addresses[0]]
        with loader(addresses, batch_size=10, request_rows=10, shuffle=True) as reading:
            seen = []
            for n, batch in enumerate(reading):
                seen += check(batch)
                if n == 20:
                    assert reading.stats().teachers["t"].replicas == 2
                    dies.stop(drain=0)
            assert sorted(seen) == list(range(SIZE))
            found = reading.stats().teachers["t"]
            assert (found.replicas, found.losses) == (1, 1)


def test_a_replica_that_joins_late_gets_work() -> None:
    first, late = teacher(seconds=0.005), teacher(seconds=0.0)
    with (
        first.start("tcp://127.0.0.1:0") as a,
        teacher().start("tcp://127.0.0.1:0") as reserved,
    ):
        address = reserved.addresses[0]
        reserved.stop(drain=0)
        with loader([a.addresses[0], address], batch_size=5, request_rows=5) as reading:
            batches = iter(reading)
            check(next(batches))
            assert reading.stats().teachers["t"].replicas == 1
            with late.start(address):
                replicas = 0
                for batch in batches:
                    check(batch)
                    replicas = max(replicas, reading.stats().teachers["t"].replicas)
                assert replicas == 2


def test_a_teacher_that_comes_back_goes_on() -> None:
    server = teacher().start("tcp://127.0.0.1:0")
    address = server.addresses[0]
    with loader(address, batch_size=10, request_rows=10, window_bytes=100) as reading:
        seen = []
        for n, batch in enumerate(reading):
            seen += check(batch)
            if n == 30:
                server.stop(drain=0)
                server = teacher().start(address)
        assert seen == list(range(SIZE))
        assert reading.stats().teachers["t"].losses == 1
    server.stop()


def test_a_teacher_that_comes_back_with_other_weights_is_refused() -> None:
    server = teacher().start("tcp://127.0.0.1:0")
    address = server.addresses[0]
    with loader(address, batch_size=10, request_rows=10, window_bytes=100) as reading:
        batches = iter(reading)
        next(batches)
        server.stop(drain=0)
        with (
            teacher(a=3.0).start(address),
            pytest.raises(errors.RevisionMismatch, match="'t'"),
        ):
            list(batches)


def test_a_slow_teacher_that_shows_signs_of_life_is_waited_for() -> None:
    slow = teacher(seconds=1.5)
    with (
        slow.start("tcp://127.0.0.1:0") as server,
        loader(server.addresses[0], ids=range(50), patience=1.2, lease=1.2) as reading,
    ):
        assert check(next(iter(reading))) == list(range(50))
        assert reading.stats().expired == 0


@contextmanager
def silent() -> Iterator[str]:
    """A teacher that welcomes everybody and never answers."""
    listener = listen("tcp://127.0.0.1:0")
    over = threading.Event()
    schema = KnowledgeSchema((FieldSpec("y", "float32", (1,)),))

    def run() -> None:
        poller = zmq.Poller()
        for pollable in listener.pollables:
            poller.register(pollable, zmq.POLLIN)
        while not over.is_set():
            poller.poll(50)
            while (event := listener.receive()) is not None:
                if isinstance(event[1], Hello):
                    listener.send(event[0], Welcome("", "1", schema, dataset="toy", size=SIZE))
        listener.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield listener.address
    finally:
        over.set()
        thread.join()


def test_a_teacher_that_says_nothing_is_given_up_and_named() -> None:
    with (
        silent() as address,
        loader(address, patience=1.0, lease=0.3) as reading,
        pytest.raises(errors.TeacherUnavailable, match=f"{address}.*has said nothing for 3 s"),
    ):
        next(iter(reading))


def test_a_silent_replica_does_not_stop_the_others(server: Server) -> None:
    replica = Teacher(
        Times(2.0), Numbers(), schema={"y": "float32"}, revision="1", dataset_fingerprint="toy"
    )
    with (
        silent() as address,
        replica.start("tcp://127.0.0.1:0") as answers,
        loader([address, answers.addresses[0]], lease=0.3, request_rows=50) as reading,
    ):
        assert [i for batch in reading for i in check(batch)] == list(range(SIZE))
        stats = reading.stats()
        assert stats.expired + stats.suspected > 0


def test_rows_are_asked_only_of_the_teacher_they_are_routed_to() -> None:
    keys = np.arange(SIZE) % 3
    route = Route(keys, {0: "a", 1: "b", 2: "b"})
    with (
        teacher(2.0).start("tcp://127.0.0.1:0") as a,
        teacher(3.0).start("tcp://127.0.0.1:0") as b,
        KnowledgeLoader(
            Numbers(),
            batch_size=32,
            shuffle=True,
            teachers={"a": a.addresses[0], "b": b.addresses[0]},
            merge={"y": route},
            request_rows=80,
            dataset_fingerprint="toy",
        ) as reading,
    ):
        for batch in reading:
            y = batch.knowledge["y"]
            assert isinstance(y, Tensor)
            expected = [i * (2.0 if i % 3 == 0 else 3.0) for i in batch.ids.tolist()]
            assert y.flatten().tolist() == expected
        bytes_of = {name: t.bytes for name, t in reading.stats().teachers.items()}
        assert bytes_of == {"a": 334 * 4, "b": 666 * 4}


def test_an_unknown_key_is_refused_and_named(server: Server) -> None:
    route = Route(lambda ids: ids % 2, {0: "t"})
    with (
        loader(server.addresses[0], merge={"y": route}) as reading,
        pytest.raises(errors.MergeError, match="key 1"),
    ):
        next(iter(reading))


class Views(Numbers):
    """Sample i in view v is i + v / 4."""

    def get(self, i: int, view: int) -> tuple[Tensor, int]:
        return torch.tensor([i + view / 4]), i


def test_teacher_and_student_see_the_same_view() -> None:
    seeing = Teacher(
        Times(2.0), Views(), schema={"y": "float32"}, views=3, dataset_fingerprint="toy"
    )
    with (
        seeing.start("tcp://127.0.0.1:0") as server,
        loader(server.addresses[0], dataset=Views(), views=3, shuffle=True) as reading,
    ):
        for epoch in range(4):
            for batch in reading:
                assert torch.equal(batch.knowledge["y"], 2 * batch.inputs)
                view = 1 + epoch % 3
                assert torch.equal(batch.inputs.flatten(), batch.ids + view / 4)
                assert batch.knowledge.views is not None
                assert batch.knowledge.views.tolist() == [view] * len(batch)


@pytest.mark.parametrize("scheme", ["tcp", "grpc"])
def test_a_teacher_without_a_dataset_is_sent_the_students_inputs(scheme: str) -> None:
    blind = Teacher(Times(2.0), schema={"y": "float32"}, example=torch.zeros(1, 1))
    with (
        blind.start(f"{scheme}://127.0.0.1:0") as server,
        loader(server.addresses[0], shuffle=True) as reading,
    ):
        ids = [i for batch in reading for i in check(batch)]
    assert sorted(ids) == list(range(SIZE))


def test_two_teachers_of_one_field_need_a_merge(server: Server) -> None:
    two = {"a": server.addresses[0], "b": server.addresses[0]}
    with (
        KnowledgeLoader(Numbers(), teachers=two, dataset_fingerprint="toy") as reading,
        pytest.raises(errors.MergeError, match=r"'y'.*a, b.*merge="),
    ):
        reading.describe()


def test_a_callable_sees_batches_however_requests_are_cut(server: Server) -> None:
    sizes = []

    def largest(values: dict[str, Tensor]) -> Tensor:
        sizes.append(len(values["a"]))
        return torch.stack(list(values.values())).amax(0)

    two = {"a": server.addresses[0], "b": server.addresses[0]}
    with KnowledgeLoader(
        batch_size=300, teachers=two, merge={"y": largest}, request_rows=600
    ) as reading:
        reading.describe()
        sizes.clear()
        for batch in reading:
            check(batch)
    assert sizes == [300, 300, 300, 100]


def test_names_of_teachers_and_fields_are_checked(server: Server) -> None:
    with pytest.raises(errors.ConfigError, match=r"'u'.*the teachers are t"):
        loader(server.addresses[0], fields={"u": ["y"]})
    with (
        loader(server.addresses[0], merge={"z": "mean"}) as reading,
        pytest.raises(errors.ConfigError, match="'z'"),
    ):
        reading.describe()
    with (
        loader(server.addresses[0], fields={"t": ["z"]}) as reading,
        pytest.raises(errors.SchemaMismatch, match="z"),
    ):
        reading.describe()


def test_nothing_is_left_over(server: Server) -> None:
    before = threading.active_count()
    with loader(server.addresses[0]) as reading:
        next(iter(reading))
    reading.close()
    with pytest.raises(errors.ConfigError, match="closed"):
        iter(reading)
    assert threading.active_count() == before


def test_a_loader_nobody_holds_is_closed() -> None:
    with teacher().start("tcp://127.0.0.1:0") as server:
        for batch in loader(server.addresses[0]):
            check(batch)
            break
        reading = loader(server.addresses[0])
        next(iter(reading))
        fleet = reading._fleet
        del reading, batch
        gc.collect()
        assert fleet.closed


def test_the_first_batch_is_there_within_a_second(server: Server) -> None:
    start = time.monotonic()
    with loader(server.addresses[0], shuffle=True) as reading:
        check(next(iter(reading)))
        assert time.monotonic() - start < 1.0


def test_an_in_flight_window_keeps_fast_teachers_from_running_ahead() -> None:
    with (
        teacher().start("tcp://127.0.0.1:0") as server,
        loader(server.addresses[0], batch_size=1, request_rows=1, window_bytes=40) as reading,
    ):
        batches = iter(reading)
        for _ in range(5):
            next(batches)
            assert reading.stats().teachers["t"].bytes <= (reading.stats().batches + 10) * 4


def test_checksums_are_compared_when_asked_for(server: Server) -> None:
    with loader(server.addresses[0], integrity=True) as reading:
        for batch in reading:
            check(batch)
        assert reading.stats().teachers["t"].corrupt == 0


def test_students_that_follow_each_other_are_not_taken_for_one_another() -> None:
    with teacher().start("tcp://127.0.0.1:0") as server:
        for _ in range(60):
            with KnowledgeLoader(batch_size=4, teachers={"t": server.addresses[0]}) as loader:
                next(iter(loader))
                assert loader.stats().teachers["t"].losses == 0
