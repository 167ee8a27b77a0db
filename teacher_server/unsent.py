"""Bytes of replies that students have not taken yet, so that none can fill the server's memory."""

from __future__ import annotations

import itertools
import weakref
from collections import Counter, deque
from collections.abc import Callable

from pantheon.messages import Scored
from teacher_server.jobs import PeerKey

COUNTED = 65536
"""Smaller buffers are copied by ZeroMQ and not counted."""


class Unsent:
    """Counts, per session, the large buffers that the transport still holds.

    ZeroMQ keeps a buffer alive until the kernel has taken it; that it is freed says it was sent.

    Args:
        cap: bytes for the whole server. A session may hold half of it; with the cap reached, only
            sessions that hold nothing are answered, so one that does not read stops no other.
        freed: called, from any thread, when a buffer was freed.
    """

    def __init__(self, cap: int, freed: Callable[[], None]) -> None:
        self.total = 0
        self._cap, self._freed = cap, freed
        self._held: Counter[PeerKey] = Counter()
        self._gone: deque[tuple[PeerKey, int]] = deque()
        # By number, as hashing a reference would hash the buffer's bytes.
        self._refs: dict[int, weakref.ref[memoryview]] = {}
        self._numbers = itertools.count()
        self.waiting = False

    def add(self, key: PeerKey, scored: Scored) -> None:
        """Count the buffers of a reply that was just sent."""
        for part in scored.parts:
            data = part.data
            if isinstance(data, memoryview) and data.nbytes >= COUNTED:
                self._watch(key, data, data.nbytes)

    def _watch(self, key: PeerKey, data: memoryview, nbytes: int) -> None:
        number = next(self._numbers)

        def gone(ref: weakref.ref[memoryview]) -> None:
            self._refs.pop(number, None)
            self._gone.append((key, nbytes))
            if self.waiting:
                self._freed()

        self._refs[number] = weakref.ref(data, gone)
        self._held[key] += nbytes
        self.total += nbytes

    def ready(self, key: PeerKey) -> bool:
        """Whether a session may be answered now."""
        while self._gone:
            owner, nbytes = self._gone.popleft()
            self.total -= nbytes
            self._held[owner] -= nbytes
            if self._held[owner] <= 0:
                del self._held[owner]
        held = self._held.get(key, 0)
        fits = held == 0 or (self.total < self._cap and held < self._cap // 2)
        self.waiting = self.waiting or not fits
        return fits
