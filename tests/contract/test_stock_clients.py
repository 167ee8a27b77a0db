"""A stock client of the Open Inference Protocol (tritonclient) asks a teacher, in one process."""

from __future__ import annotations

import queue
from collections.abc import Iterator

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from pantheon.testing import expect, next_event
from pantheon.transport import Connected, connect, oip
from tests.contract.tiny_teacher import TinyTeacher


@pytest.fixture
def teacher() -> Iterator[TinyTeacher]:
    """A teacher on gRPC."""
    with TinyTeacher("grpc://127.0.0.1:0") as serving:
        yield serving


@pytest.fixture
def client(teacher: TinyTeacher) -> Iterator[triton.InferenceServerClient]:
    """A stock client of it."""
    with triton.InferenceServerClient(teacher.address.removeprefix("grpc://")) as stock:
        yield stock


def tensor(name: str, array: np.ndarray) -> triton.InferInput:
    datatype = {"int64": "INT64", "float32": "FP32"}[str(array.dtype)]
    return triton.InferInput(name, list(array.shape), datatype).set_data_from_numpy(array)


def test_it_is_live_and_ready(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny")
    assert not client.is_model_ready("huge")


def test_it_describes_itself(client: triton.InferenceServerClient) -> None:
    server = client.get_server_metadata()
    assert (server.name, list(server.extensions)) == ("pantheon", ["pantheon"])
    model = client.get_model_metadata("tiny")
    assert model.name == "tiny"
    inputs = [(t.name, t.datatype, list(t.shape)) for t in model.inputs]
    assert inputs == [("sample_id", "INT64", [-1]), ("view", "INT64", [-1])]
    assert [(t.name, t.datatype, list(t.shape)) for t in model.outputs] == [
        ("logits", "FP32", [-1, 3])
    ]


def test_it_answers_ids_and_views(client: triton.InferenceServerClient) -> None:
    ids, views = np.array([3, 1, 2]), np.array([0, 10, 0])
    found = client.infer("tiny", [tensor("sample_id", ids), tensor("view", views)], request_id="q")
    np.testing.assert_array_equal(found.as_numpy("logits"), np.outer(ids + views, [1, 2, 3]))
    assert found.get_response().id == "q"
    assert found.get_response().parameters["revision"].string_param == "r1"


def test_it_answers_inputs(client: triton.InferenceServerClient) -> None:
    x = np.array([0.5, 2.0], np.float32)
    found = client.infer("tiny", [tensor("input", x)])
    np.testing.assert_array_equal(found.as_numpy("logits"), np.outer(x, [1, 2, 3]))


def test_a_message_of_countless_fields_is_refused_and_others_are_served(
    teacher: TinyTeacher, client: triton.InferenceServerClient
) -> None:
    empty_inputs = b"\x2a\x00" * 1_000_000
    with grpc.insecure_channel(teacher.address.removeprefix("grpc://")) as channel:
        call = channel.unary_unary(f"/{oip.SERVICE}/ModelInfer")
        with pytest.raises(grpc.RpcError) as refused:
            call(empty_inputs, timeout=10)
    assert refused.value.code() is grpc.StatusCode.INTERNAL
    assert "Traceback" not in refused.value.details()
    assert client.infer("tiny", [tensor("sample_id", np.array([3]))]) is not None


def test_typed_contents_that_would_hold_up_others_are_refused_with_the_reason(
    teacher: TinyTeacher,
) -> None:
    request = oip.ModelInferRequest(model_name="tiny")
    entry = request.inputs.add(name="sample_id", datatype="INT64", shape=[1 << 18])
    entry.contents.int64_contents.extend([1] * (1 << 18))
    with grpc.insecure_channel(teacher.address.removeprefix("grpc://")) as channel:
        with pytest.raises(grpc.RpcError) as refused:
            oip.Stub(channel).ModelInfer(request, timeout=10)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "send raw_input_contents" in refused.value.details()


def test_typed_contents_are_read_too(teacher: TinyTeacher) -> None:
    request = oip.ModelInferRequest(model_name="tiny")
    entry = request.inputs.add(name="sample_id", datatype="INT64", shape=[2])
    entry.contents.int64_contents.extend([5, 6])
    with grpc.insecure_channel(teacher.address.removeprefix("grpc://")) as channel:
        answer = oip.Stub(channel).ModelInfer(request, timeout=10)
    found = np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(2, 3)
    np.testing.assert_array_equal(found, [[5, 10, 15], [6, 12, 18]])


@pytest.mark.parametrize(
    ("model", "inputs", "status", "says"),
    [
        ("huge", [tensor("sample_id", np.arange(3))], "NOT_FOUND", "no model 'huge'"),
        ("tiny", [tensor("sample_id", np.arange(300))], "INVALID_ARGUMENT", "beyond 99"),
        ("tiny", [tensor("sample_id", np.ones((2, 2), np.int64))], "INVALID_ARGUMENT", "shape"),
        (
            "tiny",
            [tensor("sample_id", np.arange(3)), tensor("view", np.arange(2))],
            "INVALID_ARGUMENT",
            "2 views for 3 ids",
        ),
    ],
)
def test_a_refusal_has_a_status_and_a_reason(
    client: triton.InferenceServerClient,
    model: str,
    inputs: list[triton.InferInput],
    status: str,
    says: str,
) -> None:
    with pytest.raises(InferenceServerException, match=says) as caught:
        client.infer(model, inputs)
    assert status in caught.value.status()
    assert client.is_server_ready()


def test_bytes_tensors_are_refused_by_name(client: triton.InferenceServerClient) -> None:
    words = triton.InferInput("text", [1], "BYTES").set_data_from_numpy(np.array([b"hi"], object))
    with pytest.raises(InferenceServerException, match=r"BYTES.*not supported"):
        client.infer("tiny", [words])


def test_it_answers_a_stream_request_by_request(client: triton.InferenceServerClient) -> None:
    answers: queue.Queue[tuple[triton.InferResult | None, Exception | None]] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for i in range(5):
        client.async_stream_infer("tiny", [tensor("sample_id", np.array([i]))], request_id=f"r{i}")
    client.async_stream_infer("tiny", [tensor("sample_id", np.array([999]))], request_id="bad")
    client.async_stream_infer("tiny", [tensor("view", np.arange(2))])
    found = [answers.get(timeout=10) for _ in range(7)]
    results = [result for result, _ in found if result is not None]
    assert [result.get_response().id for result in results] == [f"r{i}" for i in range(5)]
    for i, result in enumerate(results):
        np.testing.assert_array_equal(result.as_numpy("logits"), [[i, 2 * i, 3 * i]])
    errors = sorted(str(error) for _, error in found if error is not None)
    assert "either 'sample_id' or inputs" in errors[0]
    assert "beyond 99" in errors[1]
    client.stop_stream()


def test_every_call_is_a_peer_that_leaves(
    teacher: TinyTeacher, client: triton.InferenceServerClient
) -> None:
    for _ in range(3):
        client.infer("tiny", [tensor("sample_id", np.arange(3))])
    student = connect(teacher.address)
    expect(student, Connected)
    assert next_event(student, 0.1) is None
    student.close()
    assert teacher.lost >= 3
