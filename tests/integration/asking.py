"""A student reduced to its messages, for tests of the server alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import zmq
from torch import Tensor

from pantheon.codec import decode
from pantheon.transport import Connected, Lost, connect, parse_address
from pantheon.wire.buffers import from_raw, to_raw
from pantheon.wire.messages import (
    Cancel,
    Goodbye,
    Heartbeat,
    Hello,
    Refused,
    Score,
    Scored,
    Welcome,
)

Seen = TypeVar("Seen")
PATIENCE_S = 40.0


class Asking:
    """Says what a test wants and waits for what it expects; nothing is retried.

    Args:
        address: the server's, with the model.
        hello: more of the Hello; None to say none.
    """

    def __init__(self, address: str, hello: dict[str, Any] | None = None, greet: bool = True):
        self.connection = connect(address)
        self.heartbeats: list[Heartbeat] = []
        self._poller = zmq.Poller()
        for pollable in self.connection.pollables:
            self._poller.register(pollable, zmq.POLLIN)
        self.wait(Connected)
        if greet:
            model = parse_address(address).model
            self.connection.send(Hello(**({"session": "test", "model": model} | (hello or {}))))
            self.welcome = self.wait(Welcome)

    def hear(self, seconds: float = PATIENCE_S) -> Any:
        """The next event that is no heartbeat."""
        end = time.monotonic() + seconds
        while True:
            event = self.connection.receive()
            if isinstance(event, Heartbeat):
                self.heartbeats.append(event)
            elif event is not None:
                return event
            elif time.monotonic() > end:
                raise TimeoutError(f"nothing was said for {seconds} s")
            else:
                self._poller.poll(20)

    def wait(self, kind: type[Seen]) -> Seen:
        """The next event, which must be of a kind."""
        event = self.hear()
        assert isinstance(event, kind), event
        return event

    def ask(self, request: int, ids: Sequence[int], views: Sequence[int] | None = None) -> None:
        """Send a request for ids."""
        seen = None if views is None else np.array(views, np.int64)
        assert self.connection.send(Score(request, np.array(ids, np.int64), seen))

    def ask_inputs(self, request: int, **inputs: Tensor) -> None:
        """Send a request for inputs; ``x`` alone stands for the single one."""
        named = {"" if name == "x" else name: to_raw(t) for name, t in inputs.items()}
        assert self.connection.send(Score(request, inputs=named))

    def answer(self, ids: Sequence[int], **more: Any) -> dict[str, Any]:
        """Ask and wait: decoded values by field."""
        self.ask(1, ids, **more)
        return self.decoded(self.wait(Scored))

    def refusal(self, ids: Sequence[int], **more: Any) -> Refused:
        """Ask and wait for the refusal."""
        self.ask(1, ids, **more)
        return self.wait(Refused)

    def decoded(self, scored: Scored) -> dict[str, Any]:
        """The values of a reply."""
        return dict(decode(self.welcome.schema, [from_raw(p) for p in scored.parts]))

    def cancel(self, *requests: int) -> None:
        """Send a Cancel."""
        assert self.connection.send(Cancel(requests))

    def ended(self) -> str:
        """Wait until the server leaves; its reason."""
        while True:
            match self.hear():
                case Goodbye(reason) | Lost(reason):
                    return reason

    def __enter__(self) -> Asking:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.connection.close()
