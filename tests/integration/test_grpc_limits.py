"""What one gRPC client can take of a server is bounded, and the others are served."""

from __future__ import annotations

import contextlib
import itertools
import queue
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import torch

from pantheon.dataset import Ids
from pantheon.transport import oip
from pantheon.transport.grpc_listener import MAX_CALLS, MAX_STREAMS
from pantheon.transport.oip_messages import read_response, write_request
from pantheon.wire.messages import (
    Heartbeat,
    Hello,
    Inquiry,
    Message,
    Score,
    Scored,
    Status,
    Welcome,
)
from teacher_server import Server, Teacher
from tests.integration.asking import Asking

WIDTH = 1 << 18  # 1 MiB a sample


def server(cap: int) -> Server:
    """A teacher of large samples, which answers four at once."""
    rows = torch.zeros(64, WIDTH)
    teacher = Teacher(
        lambda ids: rows[: len(ids)] + 0, Ids(64), {"x": "float32"}, revision="1", batch_rows=4
    )
    return Server({"": teacher}, ["grpc://127.0.0.1:0"], cap=cap).start()


def channel_to(address: str) -> grpc.Channel:
    """A client of a small window: probing, gRPC may widen it to whole answers that nobody reads."""
    options = [
        ("grpc.max_receive_message_length", -1),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.http2.bdp_probe", 0),
    ]
    return grpc.insecure_channel(address.removeprefix("grpc://"), options=options)


class Stream:
    """A bare stream, which takes nothing from the wire until it is read."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._outgoing: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.call = oip.Stub(channel).ModelStreamInfer(iter(self._outgoing.get, None))

    def say(self, message: Message) -> None:
        self._outgoing.put(write_request(message, ""))

    def hear(self) -> Iterator[Message]:
        return (read_response(response) for response in self.call)

    def close(self) -> None:
        self._outgoing.put(None)
        self.call.cancel()


@contextlib.contextmanager
def stream(address: str) -> Iterator[Stream]:
    with channel_to(address) as channel, contextlib.closing(Stream(channel)) as opened:
        yield opened


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_stream_that_is_not_read_stops_no_other_and_fills_no_memory() -> None:
    cap = 64 << 20
    with (
        server(cap) as serving,
        stream(serving.addresses[0]) as deaf,
        Asking(serving.addresses[0]) as awake,
    ):
        deaf.say(Hello("deaf"))
        for request in range(60):
            deaf.say(Score(request, np.arange(4)))
        for _ in range(20):
            assert awake.answer(range(4))["x"].shape == (4, WIDTH)
        stats = serving.stats()
        assert cap // 4 < stats.unsent < cap
        assert stats.queued > 20
        kinds = (type(m) for m in deaf.hear() if not isinstance(m, Heartbeat))
        assert list(itertools.islice(kinds, 61)) == [Welcome] + [Scored] * 60
        wait_for(lambda: serving.stats().unsent == 0)


def test_answers_of_small_parts_that_are_not_read_count_too() -> None:
    fields = dict.fromkeys("abcdefgh", "float32")
    row = torch.zeros(15_000)  # 60 kB
    teacher = Teacher(
        lambda ids: {name: row.expand(len(ids), -1) + 0 for name in fields},
        Ids(64),
        fields,
        revision="1",
        batch_rows=1,
    )
    with (
        Server({"": teacher}, ["grpc://127.0.0.1:0"], cap=2 << 20).start() as serving,
        stream(serving.addresses[0]) as deaf,
    ):
        deaf.say(Hello("deaf"))
        for request in range(60):
            deaf.say(Score(request, np.arange(1)))
        wait_for(lambda: serving.stats().unsent > 1 << 20)
        time.sleep(0.3)
        stats = serving.stats()
        assert stats.unsent < 2 << 20
        assert stats.queued > 20


def test_a_call_lasts_until_its_answer_is_taken() -> None:
    request = oip.ModelInferRequest()
    request.inputs.add(name="sample_id", datatype="INT64", shape=[16])
    request.raw_input_contents.append(np.arange(16).tobytes())
    with server(256 << 20) as serving, channel_to(serving.addresses[0]) as channel:
        infer = channel.unary_stream(f"/{oip.SERVICE}/ModelInfer")
        calls = [infer(request.SerializeToString()) for _ in range(3)]
        wait_for(lambda: serving.stats().rows == 3 * 16)
        time.sleep(0.3)
        stats = serving.stats()
        assert stats.sessions == 3
        assert stats.unsent == 3 * 16 * WIDTH * 4
        for call in calls:
            (answer,) = call
            assert len(answer) > 16 * WIDTH * 4
        wait_for(lambda: serving.stats().sessions == serving.stats().unsent == 0)


def started(monkeypatch: pytest.MonkeyPatch, seconds: float = 1.0) -> Server:
    """A server that ends silent streams after some seconds."""
    monkeypatch.setattr("pantheon.transport.grpc_service.FIRST_S", seconds)
    return server(64 << 20)


def is_live(stub: oip.Stub) -> bool:
    try:
        return bool(stub.ServerLive(oip.ServerLiveRequest(), timeout=5).live)
    except grpc.RpcError:
        return False


def test_streams_that_nobody_welcomed_do_not_keep_a_student_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    never = queue.SimpleQueue[Any]()
    said = oip.ModelInferRequest(model_name="no such model")
    with started(monkeypatch, 5.0) as serving, contextlib.ExitStack() as stack:
        other = oip.Stub(stack.enter_context(channel_to(serving.addresses[0])))
        for _ in range(MAX_CALLS // MAX_STREAMS):
            stub = oip.Stub(stack.enter_context(channel_to(serving.addresses[0])))
            for _ in range(MAX_STREAMS):
                requests = itertools.chain([said], iter(never.get, None))
                stack.callback(stub.ModelStreamInfer(requests).cancel)
                stack.callback(never.put, None)
        wait_for(lambda: not is_live(other))
        wait_for(lambda: is_live(other))
        with Asking(serving.addresses[0]) as student:
            assert student.answer(range(4))["x"].shape == (4, WIDTH)


def test_a_welcomed_stream_may_be_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    with started(monkeypatch) as serving, Asking(serving.addresses[0]) as student:
        student.answer(range(4))
        time.sleep(3.0)
        assert serving.stats().sessions == 1
        assert student.answer(range(4))["x"].shape == (4, WIDTH)


def test_one_that_asks_how_a_server_is_keeps_its_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    with started(monkeypatch) as serving, stream(serving.addresses[0]) as watching:
        heard = watching.hear()
        for _ in range(6):
            watching.say(Inquiry())
            assert isinstance(next(heard), Status)
            time.sleep(0.4)
        wait_for(lambda: not watching.call.is_active())
        assert serving.stats().malformed == 0


def test_one_connection_does_not_take_every_call() -> None:
    with server(64 << 20) as serving, channel_to(serving.addresses[0]) as channel:
        streams = [Stream(channel) for _ in range(MAX_CALLS + 10)]
        for each in streams:
            each.say(Hello("many"))
        wait_for(lambda: serving.stats().sessions == MAX_STREAMS)
        with Asking(serving.addresses[0]) as other:
            assert other.answer(range(4))["x"].shape == (4, WIDTH)
        for each in streams:
            each.close()
