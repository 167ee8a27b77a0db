"""Stock clients of gRPC's health protocol ask a teacher how it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from pantheon.transport.grpc_health import MAX_WATCHERS, NOT_SERVING, SERVICE_UNKNOWN, SERVING
from pantheon.transport.oip import SERVICE
from tests.contract.tiny_teacher import TinyTeacher


@pytest.fixture
def teacher() -> Iterator[TinyTeacher]:
    """A teacher on gRPC."""
    with TinyTeacher("grpc://127.0.0.1:0") as serving:
        yield serving


@pytest.fixture
def health(teacher: TinyTeacher) -> Iterator[Any]:
    """A stock client of it."""
    with grpc.insecure_channel(teacher.address.removeprefix("grpc://")) as channel:
        yield health_pb2_grpc.HealthStub(channel)


def asked(service: str = "") -> Any:
    return health_pb2.HealthCheckRequest(service=service)


@pytest.mark.parametrize("service", ["", SERVICE, "tiny"])
def test_the_server_its_protocol_and_its_models_are_serving(health: Any, service: str) -> None:
    assert health.Check(asked(service), timeout=10).status == SERVING


def test_a_model_it_does_not_have_is_not_found(health: Any) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        health.Check(asked("huge"), timeout=10)
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND
    assert next(iter(health.Watch(asked("huge"), timeout=10))).status == SERVICE_UNKNOWN


def test_one_that_watches_is_told_of_changes(health: Any, teacher: TinyTeacher) -> None:
    watched = health.Watch(asked("tiny"), timeout=30)
    assert next(watched).status == SERVING
    teacher.draining = True
    assert next(watched).status == NOT_SERVING
    assert health.Check(asked(), timeout=10).status == NOT_SERVING
    teacher.draining = False
    assert next(watched).status == SERVING


def test_only_so_many_may_watch_and_a_place_is_free_again_after_one_left(
    teacher: TinyTeacher, health: Any
) -> None:
    with ExitStack() as stack:
        watched = [health.Watch(asked(), timeout=30) for _ in range(MAX_WATCHERS)]
        for watch in watched:
            stack.callback(watch.cancel)
            assert next(watch).status == SERVING
        with pytest.raises(grpc.RpcError) as refused:
            next(health.Watch(asked(), timeout=10))
        assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert health.Check(asked(), timeout=10).status == SERVING
        watched[0].cancel()
        assert _watches_again(health)


def _watches_again(health: Any) -> bool:
    for _ in range(1000):
        try:
            next(health.Watch(asked(), timeout=10))
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED  # noqa: PT017
        else:
            return True
    return False
