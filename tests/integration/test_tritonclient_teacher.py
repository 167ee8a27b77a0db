"""A stock client, tritonclient, asks a real Teacher from the process that a student learns in."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
import tritonclient.grpc as triton
from torch import Tensor
from tritonclient.utils import InferenceServerException

from pantheon.codec import decode
from pantheon.codec.parts import schema_parts
from pantheon.knowledge import Ragged
from student_client import KnowledgeLoader
from teacher_server import Teacher, start
from tests.integration.models import SIZE, WIDTH, Augmented, Vectors, net

DATATYPES = {"int64": "INT64", "float32": "FP32"}


class Tokens(torch.nn.Module):
    """A sample's tokens: as many as its target says."""

    def forward(self, x: Tensor) -> Ragged:
        lengths = torch.arange(len(x)) % 3
        return Ragged(x.repeat_interleave(lengths, 0)[:, :4], lengths)


def teachers() -> dict[str, Teacher]:
    """Several models in one server."""
    return {
        "dense": Teacher(net(), Augmented(), {"logits": "float32"}, views=3, fixed_rows=16),
        "half": Teacher(net(), Vectors(), {"logits": "float16"}, fixed_rows=16),
        "top": Teacher(net(), Vectors(), {"logits": "topk:3@1,2"}, fixed_rows=16),
        "ragged": Teacher(Tokens(), Vectors(), {"tokens": "float32"}, "1"),
        "inputs": Teacher(net(), None, {"logits": "float32"}, example=torch.zeros(2, WIDTH)),
        "broken": Teacher(Fails(), Vectors(), {"logits": "float32"}, "1"),
    }


class Fails(torch.nn.Module):
    """Cannot bear sample 9."""

    def forward(self, x: Tensor) -> Tensor:
        if (x == Vectors().rows[9]).all(1).any():
            raise RuntimeError("not this one")
        return x


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[dict[str, Teacher], str]]:
    """The teachers, and the address where they are served."""
    made = teachers()
    with start(made, "grpc://127.0.0.1:0") as server:
        yield made, server.addresses[0]


@pytest.fixture
def client(served: tuple[dict[str, Teacher], str]) -> Iterator[triton.InferenceServerClient]:
    """A stock client of them."""
    with triton.InferenceServerClient(served[1].removeprefix("grpc://")) as stock:
        yield stock


def tensor(name: str, array: np.ndarray) -> triton.InferInput:
    """An input of a request."""
    datatype = DATATYPES[str(array.dtype)]
    return triton.InferInput(name, list(array.shape), datatype).set_data_from_numpy(array)


def answer(teacher: Teacher, found: Any) -> dict[str, Any]:
    """The knowledge in an answer, decoded by the teacher's schema."""
    parts = [found.as_numpy(p.name) for p in schema_parts(teacher.scorer.schema)]
    return decode(teacher.scorer.schema, [torch.from_numpy(np.array(p)) for p in parts])


def test_every_model_is_ready_and_describes_itself(
    served: tuple[dict[str, Teacher], str], client: triton.InferenceServerClient
) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    for name, teacher in served[0].items():
        assert client.is_model_ready(name)
        told = client.get_model_metadata(name)
        assert told.versions == [teacher.scorer.revision]
    assert not client.is_model_ready("none")
    outputs = [(t.name, t.datatype) for t in client.get_model_metadata("top").outputs]
    assert outputs == [("logits", "FP32"), ("logits.indices", "INT32"), ("logits.tail", "FP32")]


@pytest.mark.parametrize("name", ["dense", "half", "top"])
def test_ids_are_answered_with_what_the_teacher_scores(
    served: tuple[dict[str, Teacher], str], client: triton.InferenceServerClient, name: str
) -> None:
    teacher, ids = served[0][name], np.array([7, SIZE - 1, 0, 7])
    found = client.infer(name, [tensor("sample_id", ids)], request_id="some")
    assert found.get_response().id == "some"
    wanted = decode(teacher.scorer.schema, teacher.scorer.score(ids))["logits"]
    got = answer(teacher, found)["logits"]
    if name == "top":
        assert torch.equal(got.values, wanted.values)
        assert torch.equal(got.indices, wanted.indices)
        assert torch.equal(got.tail_at(2.0), wanted.tail_at(2.0))
    else:
        assert torch.equal(got, wanted)


def test_views_reach_the_dataset(
    served: tuple[dict[str, Teacher], str], client: triton.InferenceServerClient
) -> None:
    teacher, ids, views = served[0]["dense"], np.arange(4), np.array([1, 2, 3, 1])
    found = client.infer("dense", [tensor("sample_id", ids), tensor("view", views)])
    (wanted,) = teacher.scorer.score(ids, views)
    np.testing.assert_array_equal(found.as_numpy("logits"), wanted.numpy())
    plain = client.infer("dense", [tensor("sample_id", ids)]).as_numpy("logits")
    assert not np.array_equal(plain, wanted.numpy())


def test_ragged_knowledge_comes_with_its_lengths(
    served: tuple[dict[str, Teacher], str], client: triton.InferenceServerClient
) -> None:
    teacher, ids = served[0]["ragged"], np.arange(5)
    got = answer(teacher, client.infer("ragged", [tensor("sample_id", ids)]))["tokens"]
    assert got.lengths.tolist() == [0, 1, 2, 0, 1]
    assert torch.equal(got[2], Vectors().rows[2, :4].expand(2, 4))


def test_inputs_are_answered(
    served: tuple[dict[str, Teacher], str], client: triton.InferenceServerClient
) -> None:
    x = torch.randn(6, WIDTH)
    found = client.infer("inputs", [tensor("input", x.numpy())]).as_numpy("logits")
    with torch.inference_mode():
        wanted = net().eval()(x)
    torch.testing.assert_close(torch.from_numpy(np.array(found)), wanted)


def test_a_stream_answers_every_request_once(
    served: tuple[dict[str, Teacher], str], client: triton.InferenceServerClient
) -> None:
    answers: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for number in range(20):
        ids = np.arange(number, number + 5)
        client.async_stream_infer("dense", [tensor("sample_id", ids)], request_id=str(number))
    seen = {}
    for _ in range(20):
        result, error = answers.get(timeout=20)
        assert error is None
        seen[int(result.get_response().id)] = result.as_numpy("logits")
    client.stop_stream()
    (wanted,) = served[0]["dense"].scorer.score(np.arange(24))
    assert sorted(seen) == list(range(20))
    for number, logits in seen.items():
        np.testing.assert_array_equal(logits, wanted[number : number + 5].numpy())


def test_clients_and_a_student_ask_at_once(served: tuple[dict[str, Teacher], str]) -> None:
    made, address = served
    (wanted,) = made["dense"].scorer.score(np.arange(SIZE))

    def stock(seed: int) -> bool:
        ids = np.random.default_rng(seed).permutation(SIZE)[:50]
        with triton.InferenceServerClient(address.removeprefix("grpc://")) as client:
            found = client.infer("dense", [tensor("sample_id", ids)]).as_numpy("logits")
        return bool(np.array_equal(found, wanted[ids].numpy()))

    with ThreadPoolExecutor(4) as pool:
        asked = pool.map(stock, range(12))
        with KnowledgeLoader(
            Vectors(), batch_size=20, shuffle=True, teachers={"t": f"{address}/dense"}
        ) as loader:
            for batch in loader:
                assert torch.equal(batch.knowledge["logits"], wanted[batch.ids])
        assert all(asked)


@pytest.mark.parametrize(
    ("model", "inputs", "words"),
    [
        ("dense", {"sample_id": np.array([SIZE])}, str(SIZE)),
        ("dense", {"sample_id": np.array([-1])}, "-1"),
        ("dense", {"view": np.array([1])}, "sample_id"),
        ("none", {"sample_id": np.array([0])}, "none"),
        ("inputs", {"sample_id": np.array([0])}, "dataset"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_a_reason(
    client: triton.InferenceServerClient, model: str, inputs: dict[str, np.ndarray], words: str
) -> None:
    with pytest.raises(InferenceServerException, match=words):
        client.infer(model, [tensor(name, array) for name, array in inputs.items()])
    found = client.infer("dense", [tensor("sample_id", np.array([0]))])
    assert found.as_numpy("logits").shape == (1, 10)


def test_a_model_that_raises_is_told_to_the_client(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="not this one"):
        client.infer("broken", [tensor("sample_id", np.array([9]))])
    found = client.infer("broken", [tensor("sample_id", np.array([8]))])
    np.testing.assert_array_equal(found.as_numpy("logits")[0], Vectors().rows[8].numpy())
