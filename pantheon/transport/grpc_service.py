"""The methods of the Open Inference Protocol that a listener answers, in terms of our messages."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any

import grpc

from pantheon.errors import ProtocolError
from pantheon.transport import oip
from pantheon.transport.grpc_dialects import Dialect, Stock, dialect_of, stock_score, too_large
from pantheon.transport.grpc_peers import GrpcPeer, GrpcPeers
from pantheon.transport.oip_messages import INPUT, SAMPLE_ID, VIEW, part_names, write_scored
from pantheon.transport.oip_tensors import DATATYPES
from pantheon.wire.messages import (
    Heartbeat,
    Hello,
    Inquiry,
    Message,
    Refused,
    Scored,
    Status,
    Welcome,
)

logger = logging.getLogger(__name__)

WELCOME_S = 10.0
"""Seconds in which the teacher must answer Hello."""

FIRST_S = 10.0
"""Seconds a stream may be silent that is not welcomed: each takes a thread while it lasts."""

ANSWER_S = 600.0
"""Seconds a single call without a deadline of its own may wait for its answer."""

_NOT_FOUND = ("model",)
_UNAVAILABLE = ("draining", "busy")
_INTERNAL = ("error", "finite", "wrong")


def status_of(code: str) -> Any:
    """The gRPC status that says what a refusal's code says.

    >>> status_of("model").name, status_of("range").name
    ('NOT_FOUND', 'INVALID_ARGUMENT')
    """
    if code in _NOT_FOUND:
        return grpc.StatusCode.NOT_FOUND
    if code in _UNAVAILABLE:
        return grpc.StatusCode.UNAVAILABLE
    return grpc.StatusCode.INTERNAL if code in _INTERNAL else grpc.StatusCode.INVALID_ARGUMENT


class Servicer:
    """Turns calls into peers of the listener. Its methods run in the threads of gRPC's pool.

    Args:
        peers: the listener's.
        malformed: called with the error whenever something unreadable arrives.
    """

    def __init__(self, peers: GrpcPeers, malformed: Any) -> None:
        self._peers = peers
        self._malformed = malformed

    def ServerLive(self, request: Any, context: Any) -> Any:
        """The process answers."""
        return oip.ServerLiveResponse(live=True)

    def ServerReady(self, request: Any, context: Any) -> Any:
        """The teacher takes requests."""
        status = self.inquire(context)
        ready = status is not None and not status.draining and not status.stalled
        return oip.ServerReadyResponse(ready=ready)

    def inquire(self, context: Any) -> Status | None:
        """How the teacher is; None where it does not say so in time.

        Unlike a Hello it makes no session and is never refused, so probes leave the counts alone.
        """
        with self._call(context) as peer:
            peer.say(Inquiry())
            answer = peer.next(WELCOME_S)
            return answer if isinstance(answer, Status) else None

    def ServerMetadata(self, request: Any, context: Any) -> Any:
        """Our name, version, and the extension that tells our students who we are."""
        version = metadata.version("pantheon-kd")
        return oip.ServerMetadataResponse(
            name="pantheon", version=version, extensions=[oip.EXTENSION]
        )

    def ModelReady(self, request: Any, context: Any) -> Any:
        """The teacher welcomes a student of this model."""
        with self._call(context) as peer:
            answer = self._greet(peer, request.name)
        return oip.ModelReadyResponse(ready=isinstance(answer, Welcome))

    def ModelMetadata(self, request: Any, context: Any) -> Any:
        """Inputs and outputs, from the teacher's Welcome."""
        with self._call(context) as peer:
            return model_metadata(self._welcome(peer, request.name, context))

    def ModelInfer(self, request: Any, context: Any) -> Iterator[Any]:
        """One request of a stock client, by ids or by inputs, and its one answer."""
        try:
            score = stock_score(request, 0)
        except ProtocolError as error:
            self._malformed(error)
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        with self._call(context) as peer:
            schema = self._welcome(peer, request.model_name, context).schema
            peer.say(score)
            answer = self._answer(peer, context)
            response = write_scored(answer, request.model_name, part_names(schema))
            response.id = request.id
            yield response

    def ModelStreamInfer(self, requests: Any, context: Any) -> Iterator[Any]:
        """A conversation: our students say Hello on it, stock clients just ask."""
        with _Threshold(FIRST_S, context.cancel) as threshold:
            first = _next(requests)
            if first is None:
                return
            dialect = dialect_of(first)
            with self._call(context) as peer:
                reader = threading.Thread(
                    target=self._listen, args=(peer, dialect, first, requests), daemon=True
                )
                reader.start()
                yield from _responses(peer, dialect, threshold)

    def _listen(self, peer: GrpcPeer, dialect: Dialect, first: Any, requests: Any) -> None:
        if isinstance(dialect, Stock):
            peer.say(dialect.hello())
        request = first
        while request is not None:
            try:
                peer.say(dialect.read(request))
            except ProtocolError as error:
                self._malformed(error)
                peer.deliver(dialect.blame(request, error))
            request = _next(requests)
        dialect.ended = True
        if isinstance(dialect, Stock):
            peer.deliver(Heartbeat())  # Wakes the writer, which ends when all is answered.
        else:
            peer.finish("the student disconnected")

    @contextlib.contextmanager
    def _call(self, context: Any) -> Iterator[GrpcPeer]:
        (certificate,) = context.auth_context().get("x509_pem_cert") or (None,)
        peer = self._peers.open(certificate)
        if not context.add_callback(lambda: peer.finish("the student disconnected")):
            peer.finish("the student disconnected")
        try:
            yield peer
        finally:
            peer.finish("the call is over")

    def _greet(self, peer: GrpcPeer, model: str) -> Message | None:
        peer.say(Hello(session="a stock client", model=model))
        return peer.next(WELCOME_S)

    def _welcome(self, peer: GrpcPeer, model: str, context: Any) -> Welcome:
        answer = self._greet(peer, model)
        if isinstance(answer, Refused):
            context.abort(status_of(answer.code), answer.message)
        if not isinstance(answer, Welcome):
            context.abort(grpc.StatusCode.UNAVAILABLE, "the teacher does not answer")
        assert isinstance(answer, Welcome)
        return answer

    def _answer(self, peer: GrpcPeer, context: Any) -> Scored:
        deadline = time.monotonic() + ANSWER_S
        while (answer := peer.next(max(0.0, deadline - time.monotonic()))) is not None:
            if isinstance(answer, Scored):
                answer = too_large(answer) or answer
            if isinstance(answer, Refused):
                context.abort(status_of(answer.code), answer.message)
            if isinstance(answer, Scored):
                return answer
        context.abort(grpc.StatusCode.UNAVAILABLE, "the teacher went away")
        raise AssertionError("abort raises")


class _Threshold:
    """Ends a stream that is not welcomed within some seconds, or of what it last was told.

    Once welcomed a stream stays, however long it is idle: students evaluate between epochs.

    Args:
        seconds: how long it may stand there.
        end: what ends the stream, from another thread.
    """

    def __init__(self, seconds: float, end: Callable[[], object]) -> None:
        self._seconds, self._end = seconds, end
        self._welcomed = False
        self._timer = self._start()

    def _start(self) -> threading.Timer:
        timer = threading.Timer(self._seconds, self._end)
        timer.daemon = True
        timer.start()
        return timer

    def pass_by(self, message: Message) -> None:
        """The stream took what the teacher said."""
        if isinstance(message, Welcome):
            self._welcomed = True
            self._timer.cancel()
        elif isinstance(message, Status) and not self._welcomed:
            self._timer.cancel()
            self._timer = self._start()

    def __enter__(self) -> _Threshold:
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()


def _responses(peer: GrpcPeer, dialect: Dialect, threshold: _Threshold) -> Iterator[Any]:
    """What the teacher says to a peer, as its stream takes it."""
    while (message := peer.next()) is not None:
        if (response := dialect.write(message)) is not None:
            yield response
        threshold.pass_by(message)
        if dialect.finished:
            return
        del message, response  # Else the last reply would count as unsent while nothing comes.


def _next(requests: Any) -> Any | None:
    """The next request of a stream; None at its end, however it ended."""
    try:
        return next(requests, None)
    except Exception as error:  # noqa: BLE001 - grpc raises a bare Exception for a stream cut short
        logger.debug("a stream ended: %s", error)
        return None


def model_metadata(welcome: Welcome) -> Any:
    """What a teacher takes and gives, in the protocol's words."""
    from pantheon.codec.parts import schema_parts

    response = oip.ModelMetadataResponse(
        name=welcome.model, versions=[welcome.revision], platform="pantheon"
    )
    if welcome.accepts_ids:
        response.inputs.add(name=SAMPLE_ID, datatype="INT64", shape=[-1])
        if welcome.views:
            response.inputs.add(name=VIEW, datatype="INT64", shape=[-1])
    elif welcome.accepts_inputs:
        response.inputs.add(name=INPUT, shape=[-1])
    for part in schema_parts(welcome.schema):
        shape = [-1, *part.shape]
        response.outputs.add(name=part.name, datatype=DATATYPES[part.dtype], shape=shape)
    return response
