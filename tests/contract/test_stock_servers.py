"""A server that is none of ours, made of another project's generated stubs, is a teacher."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from pantheon.errors import ConfigError, ProtocolError
from pantheon.schema import FieldSpec
from pantheon.testing import expect, next_event
from pantheon.transport import Connected, Connection, Lost, connect
from pantheon.wire.messages import (
    Cancel,
    Heartbeat,
    Hello,
    RawTensor,
    Refused,
    Score,
    Scored,
    Welcome,
)


class Stock(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Doubles its input; model ``typed`` answers with typed contents, ``slow`` waits for `gate`."""

    def __init__(self) -> None:
        self.gate = threading.Event()

    def ServerLive(self, request: Any, context: Any) -> Any:
        return pb.ServerLiveResponse(live=True)

    def ServerMetadata(self, request: Any, context: Any) -> Any:
        return pb.ServerMetadataResponse(name="stock", version="1", extensions=["classification"])

    def ModelMetadata(self, request: Any, context: Any) -> Any:
        if request.name == "nothing":
            context.abort(grpc.StatusCode.NOT_FOUND, "no such model")
        response = pb.ModelMetadataResponse(name=request.name, versions=["1"], platform="none")
        response.inputs.add(name="x", datatype="FP32", shape=[-1, 2])
        if request.name != "mute":
            width = -1 if request.name == "dynamic" else 2
            response.outputs.add(name="y", datatype="FP32", shape=[-1, width])
            response.outputs.add(name="label", datatype="INT64", shape=[-1])
        return response

    def ModelInfer(self, request: Any, context: Any) -> Any:
        if request.model_name == "slow":
            self.gate.wait(30)
        if request.model_name == "broken":
            context.abort(grpc.StatusCode.INTERNAL, "CUDA error")
        x = np.frombuffer(request.raw_input_contents[0], np.float32).reshape(-1, 2)
        response = pb.ModelInferResponse(model_name=request.model_name, id=request.id)
        # Not in the order of the metadata, and with one output more.
        outputs = {"extra": x, "y": 2 * x, "label": np.arange(len(x))}
        for name, value in outputs.items():
            datatype = "INT64" if name == "label" else "FP32"
            entry = response.outputs.add(name=name, datatype=datatype, shape=value.shape)
            if request.model_name != "typed":
                entry.contents.SetInParent()  # As MLServer does.
                response.raw_output_contents.append(value.tobytes())
            elif name == "label":
                entry.contents.int64_contents.extend(value.tolist())
            else:
                entry.contents.fp32_contents.extend(value.ravel().tolist())
        return response


class StockServer:
    """The servicer on a port."""

    def __init__(self, port: int = 0) -> None:
        self.servicer = Stock()
        self.server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self.servicer, self.server)
        self.port = self.server.add_insecure_port(f"127.0.0.1:{port}")
        self.server.start()

    def close(self) -> None:
        self.servicer.gate.set()
        self.server.stop(None).wait()


@pytest.fixture
def stock() -> Iterator[StockServer]:
    """A running stock server."""
    server = StockServer()
    yield server
    server.close()


@pytest.fixture
def ask(stock: StockServer) -> Iterator[Any]:
    """A connection to one of its models, by name."""
    made: list[Connection] = []

    def make(model: str) -> Connection:
        made.append(connect(f"grpc://127.0.0.1:{stock.port}/{model}"))
        return made[-1]

    yield make
    for connection in made:
        connection.close()


def welcomed(connection: Connection, hello: Hello | None = None) -> Welcome:
    """Say Hello and be welcomed."""
    expect(connection, Connected)
    assert connection.send(hello or Hello("s"))
    return expect(connection, Welcome)


X = np.array([[1, 2], [3, 4], [5, 6]], np.float32)
INPUT = RawTensor("float32", X.shape, X.tobytes())


def test_it_is_welcomed_with_its_metadata(ask: Any) -> None:
    welcome = welcomed(ask("double"))
    assert (welcome.model, welcome.revision, welcome.dataset) == ("double", "", None)
    assert (welcome.accepts_ids, welcome.accepts_inputs) == (False, True)
    assert list(welcome.schema) == [
        FieldSpec("label", "int64", (), "raw"),
        FieldSpec("y", "float32", (2,), "float32"),
    ]


@pytest.mark.parametrize("model", ["double", "typed"])
@pytest.mark.parametrize("name", ["", "x"])
def test_it_scores_inputs(ask: Any, model: str, name: str) -> None:
    connection = ask(model)
    welcomed(connection)
    assert connection.send(Score(7, inputs={name: INPUT}))
    scored = expect(connection, Scored)
    assert (scored.request, scored.rows, scored.revision) == (7, 3, "")
    label, y = scored.parts
    np.testing.assert_array_equal(np.frombuffer(label.data, np.int64), [0, 1, 2])
    np.testing.assert_array_equal(np.frombuffer(y.data, np.float32).reshape(y.shape), 2 * X)


def test_fields_not_asked_for_are_not_sent(ask: Any) -> None:
    connection = ask("double")
    assert welcomed(connection, Hello("s", fields=("y",))).schema.names == ("y",)
    assert connection.send(Score(1, inputs={"": INPUT}))
    assert len(expect(connection, Scored).parts) == 1


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({"z": INPUT}, r"takes the inputs \['x'\], found \['z'\]"),
        ({}, "must carry inputs"),
        ({"": RawTensor("float32", (), bytes(4))}, "first dimension counts samples"),
        ({"": RawTensor("float64", (1, 2), bytes(16))}, "must be float32, found float64"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_here(ask: Any, inputs: Any, says: str) -> None:
    connection = ask("double")
    welcomed(connection)
    assert connection.send(Score(1, inputs=inputs))
    refused = expect(connection, Refused)
    assert (refused.request, refused.code) == (1, "inputs")
    with pytest.raises(AssertionError, match=says):
        raise AssertionError(refused.message)


def test_ids_are_refused_with_the_reason(ask: Any) -> None:
    connection = ask("double")
    welcomed(connection)
    assert connection.send(Score(1, np.arange(3)))
    assert "send inputs" in expect(connection, Refused).message


@pytest.mark.parametrize(
    ("model", "code", "says"),
    [
        ("nothing", "model", "no such model"),
        ("mute", "schema", "names no outputs"),
        ("dynamic", "schema", "must be stated"),
    ],
)
def test_a_model_that_cannot_be_used_says_why(ask: Any, model: str, code: str, says: str) -> None:
    connection = ask(model)
    expect(connection, Connected)
    assert connection.send(Hello("s"))
    refused = expect(connection, Refused)
    assert (refused.request, refused.code) == (None, code)
    assert says in refused.message


def test_what_the_model_raises_is_a_refusal(ask: Any) -> None:
    connection = ask("broken")
    welcomed(connection)
    assert connection.send(Score(4, inputs={"": INPUT}))
    refused = expect(connection, Refused)
    assert (refused.request, refused.code) == (4, "error")
    assert "CUDA error" in refused.message


def test_slow_answers_are_kept_alive_and_can_be_cancelled(stock: StockServer, ask: Any) -> None:
    connection = ask("slow")
    welcomed(connection)
    assert connection.send(Score(1, inputs={"": INPUT}))
    assert connection.send(Score(2, inputs={"": INPUT}))
    assert expect(connection, Heartbeat) == Heartbeat((1, 2))
    assert connection.send(Cancel((1,)))
    stock.servicer.gate.set()
    while isinstance(event := next_event(connection), Heartbeat):
        continue
    assert isinstance(event, Scored)
    assert event.request == 2
    assert not isinstance(next_event(connection, 0.2), Scored)


def test_it_is_lost_and_found_again(stock: StockServer, ask: Any) -> None:
    connection = ask("double")
    welcomed(connection)
    stock.close()
    lost = expect(connection, Lost)
    assert not lost.fatal
    again = StockServer(stock.port)
    welcomed(connection)
    again.close()


def test_without_a_model_in_the_address_the_error_says_how_to_name_it(stock: StockServer) -> None:
    connection = connect(f"grpc://127.0.0.1:{stock.port}")
    lost = expect(connection, Lost)
    assert isinstance(lost.error, ConfigError)
    assert f"grpc://127.0.0.1:{stock.port}/model" in lost.reason
    connection.close()


def test_a_grpc_server_of_another_service_is_a_protocol_error() -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    connection = connect(f"grpc://127.0.0.1:{port}/m")
    lost = expect(connection, Lost)
    assert isinstance(lost.error, ProtocolError)
    assert "Open Inference Protocol" in lost.reason
    connection.close()
    server.stop(None).wait()
