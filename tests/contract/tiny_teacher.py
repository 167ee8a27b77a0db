"""A teacher in a dozen lines on a bare listener: logits are ids (or inputs) times [1, 2, 3]."""

from __future__ import annotations

import threading
from types import TracebackType

import numpy as np

from pantheon.schema import FieldSpec, KnowledgeSchema
from pantheon.testing import next_event
from pantheon.transport import Lost, listen
from pantheon.wire.messages import (
    Hello,
    Inquiry,
    RawTensor,
    Refused,
    Score,
    Scored,
    Status,
    Welcome,
)

SCHEMA = KnowledgeSchema((FieldSpec("logits", "float32", (3,)),))


class TinyTeacher:
    """Serves model ``tiny`` (100 samples) in a thread until the block is left."""

    def __init__(self, address: str) -> None:
        self.listener = listen(address)
        self.address = self.listener.address
        self.lost = 0
        self.draining = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> TinyTeacher:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        self.listener.close()

    def _serve(self) -> None:
        while not self._stop.is_set():
            event = next_event(self.listener, 0.05)
            if event is None:
                continue
            peer, message = event
            self.lost += isinstance(message, Lost)
            if isinstance(message, Hello):
                self.listener.send(peer, self._greet(message))
            elif isinstance(message, Score):
                self.listener.send(peer, self._score(message))
            elif isinstance(message, Inquiry):
                models = (("tiny", "r1"),)
                self.listener.send(peer, Status("0", 1.0, self.draining, models))

    def _greet(self, hello: Hello) -> Welcome | Refused:
        if self.draining:
            return Refused(None, "draining", "this server is about to stop")
        if hello.model not in ("", "tiny"):
            return Refused(None, "model", f"no model {hello.model!r}; this server has 'tiny'")
        return Welcome("tiny", "r1", SCHEMA, size=100, views=1)

    def _score(self, score: Score) -> Scored | Refused:
        if score.ids is not None:
            if score.ids.max(initial=0) >= 100:
                return Refused(score.request, "range", f"id {score.ids.max()} is beyond 99")
            x = score.ids.astype(np.float32)
            x = x + (0 if score.views is None else score.views)
        else:
            x = np.frombuffer(score.inputs[""].data, np.float32)
        logits = np.outer(x, np.float32([1, 2, 3])).astype(np.float32)
        part = RawTensor("float32", logits.shape, logits.tobytes())
        return Scored(score.request, "r1", len(logits), (part,))
