"""A connection that loses, repeats, delays and damages what it carries, the same way every time."""

from __future__ import annotations

import random
from collections import Counter, deque
from dataclasses import dataclass, replace
from typing import Any

from pantheon.transport import Connected, Connection, Event, Lost
from pantheon.transport.wake import Wake
from pantheon.wire.messages import Message, RawTensor, Score, Scored


@dataclass(frozen=True)
class Faults:
    """How likely each fault is, for each answer.

    Args:
        drop: it never arrives.
        repeat: it arrives twice.
        delay: it arrives after the next one.
        flip: one bit of it is wrong.
        part: the connection breaks, and is made again, before it is heard.
        most: how often the same samples' answers may be damaged or cut off before one arrives; a
            third time would rightly be given up.
    """

    drop: float = 0.0
    repeat: float = 0.0
    delay: float = 0.0
    flip: float = 0.0
    part: float = 0.0
    most: int = 2


class Calm:
    """Counts how often a teacher's answer for the same samples was harmed, by any replica."""

    def __init__(self) -> None:
        self.harmed: Counter[bytes | None] = Counter()


class Faulty(Connection):
    """A connection with faults drawn from a seed."""

    def __init__(self, inner: Connection, faults: Faults, calm: Calm, seed: int) -> None:
        self.inner, self.faults, self.calm = inner, faults, calm
        self.address = inner.address
        self._random = random.Random(seed)
        self._events: deque[Event] = deque()
        self._delayed: deque[Event] = deque()
        self._wake = Wake()
        self._asked: dict[int, bytes] = {}
        self.injected = 0

    @property
    def pollables(self) -> tuple[Any, ...]:
        return (*self.inner.pollables, self._wake.fd)

    def send(self, message: Message) -> bool:
        if isinstance(message, Score) and message.ids is not None:
            self._asked[message.request] = message.ids.tobytes()
        return self.inner.send(message)

    def receive(self) -> Event | None:
        if not self._events:
            self._take(self.inner.receive())
        if not self._events:
            self._events.extend(self._delayed)
            self._delayed.clear()
        if self._events:
            return self._events.popleft()
        self._wake.clear()
        return None

    def _take(self, event: Event | None) -> None:
        if event is None:
            return
        if not isinstance(event, Scored):
            self._events.append(event)
            return
        fault = self._draw(event)
        if fault not in ("drop", "flip", "part"):
            self.calm.harmed.pop(self._asked.pop(event.request, b""), None)
        self.injected += fault is not None
        match fault:
            case None:
                self._events.append(event)
                self._events.extend(self._delayed)
                self._delayed.clear()
            case "drop":
                self._wake.set()
            case "repeat":
                self._events.extend((event, event))
            case "delay":
                self._delayed.append(event)
                self._wake.set()
            case "flip":
                self._events.append(flipped(event, self._random))
            case "part":
                self._events.extend((Lost("a fault"), Connected(), event))

    def _draw(self, scored: Scored) -> str | None:
        at = self._random.random()
        for fault in ("drop", "repeat", "delay", "flip", "part"):
            at -= getattr(self.faults, fault)
            if at < 0:
                return fault if self._may(fault, scored) else None
        return None

    def _may(self, fault: str, scored: Scored) -> bool:
        """Whether a fault leaves every request a last attempt; counts the harm it does."""
        if fault not in ("flip", "part"):
            return True
        # Whichever was asked for first is blamed when a connection breaks.
        own = self._asked.get(scored.request)  # Nobody waits for it any more when there is none.
        hit = set(self._asked.values()) if fault == "part" else {own} - {None}
        if any(self.calm.harmed[samples] >= self.faults.most for samples in hit):
            return False
        self.calm.harmed.update(hit)
        if fault == "part":
            self._asked.clear()
        return True

    def close(self) -> None:
        self.inner.close()
        self._wake.close()


def flipped(scored: Scored, source: random.Random) -> Scored:
    """The answer with one bit of its first payload changed."""
    first, *rest = scored.parts
    data = bytearray(first.data)
    data[source.randrange(len(data))] ^= 1 << source.randrange(8)
    return replace(scored, parts=(RawTensor(first.dtype, first.shape, bytes(data)), *rest))
