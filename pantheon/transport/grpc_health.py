"""The standard health service of gRPC, ``grpc.health.v1.Health``, in front of a listener."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
from grpc_health.v1 import health_pb2

from pantheon.transport.oip import SERVICE
from pantheon.wire.messages import Status

WATCH_S = 1.0
"""Seconds between two looks on behalf of those who watch."""

MAX_WATCHERS = 16
"""Clients that watch at once; each takes a thread while it does."""

SERVING: int = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING: int = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN: int = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


def status_of(answer: Status | None, service: str) -> int:
    """What a teacher says of itself as the protocol's number.

    Args:
        answer: None where there was none in time.
        service: the model whose health it is; empty for that of the whole server.

    Example:
        >>> status_of(None, "") == NOT_SERVING
        True
        >>> status_of(Status("1", 9.0, False, (("vit", "r1"),)), "bert") == SERVICE_UNKNOWN
        True
    """
    if answer is None or answer.draining or answer.stalled:
        return NOT_SERVING
    return SERVING if not service or service in dict(answer.models) else SERVICE_UNKNOWN


class HealthServicer:
    """Answers for the server (no service named, or that of the Open Inference Protocol) and models.

    Source: the gRPC health checking protocol, version 1.

    Args:
        inquire: asks the teacher how it is, in a call's context.
    """

    def __init__(self, inquire: Callable[[Any], Status | None]) -> None:
        self._inquire = inquire
        self._places = threading.Semaphore(MAX_WATCHERS)

    def Check(self, request: Any, context: Any) -> Any:
        """How a service is now; the status NOT_FOUND for one that is not there."""
        status = self._status(request, context)
        if status == SERVICE_UNKNOWN:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such service or model")
        return health_pb2.HealthCheckResponse(status=status)

    def Watch(self, request: Any, context: Any) -> Iterator[Any]:
        """How a service is now, and again whenever that has changed."""
        if not self._places.acquire(blocking=False):
            context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"{MAX_WATCHERS} clients watch already; call Check instead",
            )
        over = threading.Event()
        try:
            last = None
            if not context.add_callback(over.set):
                return
            while not over.is_set():
                if (status := self._status(request, context)) != last:
                    yield health_pb2.HealthCheckResponse(status=status)
                last = status
                over.wait(WATCH_S)
        finally:
            self._places.release()

    def _status(self, request: Any, context: Any) -> int:
        service = "" if request.service == SERVICE else request.service
        return status_of(self._inquire(context), service)
