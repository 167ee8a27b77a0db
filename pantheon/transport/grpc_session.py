"""What a gRPC connection does while it is up, with a Pantheon teacher: one stream."""

from __future__ import annotations

import queue
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from pantheon.transport import oip
from pantheon.transport.inbox import Inbox
from pantheon.transport.oip_messages import read_response, write_request
from pantheon.wire.messages import Goodbye, Hello, Message


class Session(ABC):
    """One period in which a connection is up."""

    @abstractmethod
    def send(self, message: Message) -> bool:
        """Hand a message over without blocking; False when the session is over."""

    @abstractmethod
    def run(self) -> str:
        """Work until the session is over and say why.

        Raises:
            grpc.RpcError: the call failed.
            ProtocolError: the other side said what cannot be read.
        """

    @abstractmethod
    def close(self) -> None:
        """End `run`, from another thread."""


class StreamSession(Session):
    """The stream to a Pantheon teacher.

    Args:
        stub: the server's methods.
        inbox: where messages go.
        model: what the address names, for Hello's without a model.
    """

    def __init__(self, stub: oip.Stub, inbox: Inbox, model: str) -> None:
        self._inbox = inbox
        self._model = model
        self._outgoing: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._call = stub.ModelStreamInfer(self._requests())

    def _requests(self) -> Iterator[Any]:
        while (request := self._outgoing.get()) is not None:
            yield request

    def send(self, message: Message) -> bool:
        """Queue a message for the stream; credit bounds how many there are."""
        if isinstance(message, Hello):
            self._model = message.model or self._model
        self._outgoing.put(write_request(message, self._model))
        return True

    def run(self) -> str:
        """Read responses until the stream ends."""
        try:
            for response in self._call:
                self._inbox.put(read_response(response))
        finally:
            self._outgoing.put(None)
            self._call.cancel()
        return "the teacher ended the stream"

    def close(self) -> None:
        """Say goodbye and half-close the stream; the teacher then ends it."""
        self.send(Goodbye("closed"))
        self._outgoing.put(None)
