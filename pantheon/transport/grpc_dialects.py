"""How a listener speaks on a stream: to our students, and to stock clients of the protocol."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from typing import Any

from pantheon.errors import ProtocolError
from pantheon.transport import oip
from pantheon.transport.oip_messages import (
    INPUT,
    MAX_MESSAGE,
    PARAMETER,
    part_names,
    read_request,
    read_score,
    write_control,
    write_scored,
)
from pantheon.wire.messages import Hello, Message, RawTensor, Refused, Score, Scored, Welcome


class Dialect(ABC):
    """Reads the requests and writes the responses of one stream.

    Attributes:
        ended: the client will ask nothing more.
    """

    ended = False

    @property
    def finished(self) -> bool:
        """Whether the client has had all it asked for, and will ask no more."""
        return False

    @abstractmethod
    def read(self, request: Any) -> Message:
        """The message in a ``ModelInferRequest``; `ProtocolError` when there is none."""

    @abstractmethod
    def blame(self, request: Any, error: ProtocolError) -> Refused:
        """The answer to a request that `read` could not."""

    @abstractmethod
    def write(self, message: Message) -> Any | None:
        """A ``ModelStreamInferResponse``, or None for what this client has no ear for."""


def dialect_of(first: Any) -> Dialect:
    """The dialect of a stream that begins with this ``ModelInferRequest``."""
    return Native() if PARAMETER in first.parameters else Stock(first.model_name)


class Native(Dialect):
    """Our own students: every message there is."""

    def __init__(self) -> None:
        self._model = ""
        self._names: tuple[str, ...] = ()

    def read(self, request: Any) -> Message:
        """Any message a student may send."""
        return read_request(request)

    def blame(self, request: Any, error: ProtocolError) -> Refused:
        """A refusal of the request, if it has a number."""
        known = request.id.isascii() and request.id.isdigit() and len(request.id) < 19
        return Refused(int(request.id) if known else None, "protocol", str(error))

    def write(self, message: Message) -> Any:
        """Any message a teacher may send."""
        if isinstance(message, Welcome):
            self._model, self._names = message.model, part_names(message.schema)
        if not isinstance(message, Scored):
            return write_control(message, self._model)
        if (refused := too_large(message)) is not None:
            return write_control(refused, self._model)
        answer = write_scored(message, self._model, self._names)
        return oip.ModelStreamInferResponse(infer_response=answer)


class Stock(Dialect):
    """A client that knows only the protocol: requests by any id, one answer or error to each."""

    def __init__(self, model: str) -> None:
        self.model = model
        self._names: tuple[str, ...] = ()
        self._numbers = itertools.count()
        self._ids: dict[int, str] = {}

    def hello(self) -> Hello:
        """What such a client would say if it could."""
        return Hello(session="a stock client", model=self.model)

    def read(self, request: Any) -> Score:
        """A request for ids or inputs."""
        number = next(self._numbers)
        self._ids[number] = request.id
        if request.model_name != self.model:
            raise ProtocolError(
                f"this stream began with model {self.model!r}, now it asks {request.model_name!r}; "
                "open a stream for each model"
            )
        return stock_score(request, number)

    def blame(self, request: Any, error: ProtocolError) -> Refused:
        """A refusal of the request, the last that was numbered."""
        return Refused(max(self._ids), "protocol", str(error))

    @property
    def finished(self) -> bool:
        """Whether the client half-closed the stream and every request is answered."""
        return self.ended and not self._ids

    def write(self, message: Message) -> Any | None:
        """Answers and refusals; the rest is not for this client."""
        if isinstance(message, Welcome):
            self._names = part_names(message.schema)
        if isinstance(message, Scored) and (refused := too_large(message)) is not None:
            message = refused
        if isinstance(message, Refused):
            failed = oip.ModelStreamInferResponse(
                error_message=f"{message.code}: {message.message}"
            )
            if message.request is not None:
                failed.infer_response.id = self._ids.pop(message.request, "")
            return failed
        if isinstance(message, Scored):
            answer = write_scored(message, self.model, self._names)
            answer.id = self._ids.pop(message.request, "")
            return oip.ModelStreamInferResponse(infer_response=answer)
        return None


def stock_score(request: Any, number: int) -> Score:
    """A stock client's request; its one tensor ``input`` is a model's single positional input."""
    score = read_score(request, number)
    if set(score.inputs) != {INPUT}:
        return score
    renamed: dict[str, RawTensor] = {"": score.inputs[INPUT]}
    return Score(number, None, None, renamed)


def too_large(scored: Scored) -> Refused | None:
    """The refusal to send instead of what protobuf cannot carry."""
    size = sum(memoryview(part.data).nbytes for part in scored.parts)
    if size <= MAX_MESSAGE:
        return None
    text = f"the answer has {size} bytes, gRPC carries {MAX_MESSAGE}; ask for fewer rows at once"
    return Refused(scored.request, "limits", text)
