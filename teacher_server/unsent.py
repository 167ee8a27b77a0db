"""Bytes of replies that students have not taken yet, so that none can fill the server's memory."""

from __future__ import annotations

import itertools
import weakref
from collections import Counter, deque
from collections.abc import Callable, Hashable, Mapping
from typing import Any

from pantheon.wire.messages import Scored
from teacher_server.jobs import PeerKey

COUNTED: Mapping[str, int] = {"tcp": 65536, "ipc": 65536, "grpc": 1}
"""Bytes from which a buffer counts. ZeroMQ copies smaller ones and bounds how many; for gRPC all
wait in a queue of ours. In-process students share the buffers."""

STOP = 4
"""Caps that are held when nobody who holds anything is answered until some of it was sent, as many
sessions, each of which takes one answer and reads none, would hold any number. One client has half
of it, however many sessions it has."""


def nobody(key: PeerKey) -> Hashable:
    """The client behind a session, where nobody has to prove who he is."""
    return None


class Unsent:
    """Counts, per session and client, the large buffers that the transport still holds.

    ZeroMQ keeps a buffer alive until the kernel has taken it, and a gRPC call until its stream has;
    that it is freed says it was sent.

    Args:
        cap: bytes for the whole server. A session may hold half of it; with the cap reached, only
            sessions that hold nothing are answered, so one that does not read stops no other; with
            `STOP` times the cap reached, only clients that hold nothing.
        freed: called, from any thread, when a buffer was freed.
        client: who is behind a session, None where that is not known.
    """

    def __init__(
        self,
        cap: int,
        freed: Callable[[], None],
        client: Callable[[PeerKey], Hashable] = nobody,
    ) -> None:
        self.total = 0
        self._cap, self._freed, self._client = cap, freed, client
        self._held: Counter[PeerKey] = Counter()
        self._held_by: Counter[Hashable] = Counter()
        self._gone: deque[tuple[PeerKey, Hashable, int]] = deque()
        # By number, as hashing a reference would hash the buffer's bytes.
        self._refs: dict[int, weakref.ref[memoryview]] = {}
        self._numbers = itertools.count()
        self.waiting = False

    def add(self, key: PeerKey, scored: Scored, least: int) -> None:
        """Count the buffers of at least so many bytes of a reply that was just sent."""
        client = self._client(key)
        for part in scored.parts:
            data = part.data
            if isinstance(data, memoryview) and data.nbytes >= least:
                self._watch(key, client, data, data.nbytes)

    def _watch(self, key: PeerKey, client: Hashable, data: memoryview, nbytes: int) -> None:
        number = next(self._numbers)

        def gone(ref: weakref.ref[memoryview]) -> None:
            self._refs.pop(number, None)
            self._gone.append((key, client, nbytes))
            if self.waiting:
                self._freed()

        self._refs[number] = weakref.ref(data, gone)
        self._held[key] += nbytes
        self._held_by[client] += nbytes
        self.total += nbytes

    def settle(self) -> None:
        """Take off what was freed."""
        while self._gone:
            owner, client, nbytes = self._gone.popleft()
            self.total -= nbytes
            _take(self._held, owner, nbytes)
            _take(self._held_by, client, nbytes)

    def all_sent(self) -> bool:
        """Whether the transport holds nothing more; while it does, `freed` will be called."""
        self.waiting = True
        self.settle()
        return self.total == 0

    def ready(self, key: PeerKey) -> bool:
        """Whether a session may be answered now."""
        self.settle()
        fits = self._fits(self._held.get(key, 0), self._client(key))
        self.waiting = self.waiting or not fits
        return fits

    def _fits(self, held: int, client: Hashable) -> bool:
        if held:
            return self.total < self._cap and held < self._cap // 2
        if client is None:
            return self.total < STOP * self._cap
        own = self._held_by.get(client, 0)
        return own == 0 or (own < STOP * self._cap // 2 and self.total < STOP * self._cap)


def _take(held: Counter[Any], owner: Hashable, nbytes: int) -> None:
    held[owner] -= nbytes
    if held[owner] <= 0:
        del held[owner]
