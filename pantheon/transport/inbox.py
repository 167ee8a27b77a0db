"""A queue that other threads fill and one thread polls."""

from __future__ import annotations

import queue
from typing import Any

from pantheon.transport.wake import Wake


class Inbox:
    """Items in order, and a descriptor that is readable while there are some.

    `put` may be called from any thread, also after `close`; the rest from the polling thread.

    Example:
        >>> inbox = Inbox(); inbox.put("a"); inbox.get(), inbox.get()
        ('a', None)
        >>> inbox.close()
    """

    def __init__(self) -> None:
        self._wake = Wake()
        self._items: queue.SimpleQueue[Any] = queue.SimpleQueue()

    @property
    def fd(self) -> int:
        """Readable when something may wait."""
        return self._wake.fd

    def put(self, item: Any) -> None:
        """Append an item, which must not be None."""
        self._items.put(item)
        self._wake.set()

    def get(self) -> Any | None:
        """The oldest item, or None."""
        try:
            return self._items.get_nowait()
        except queue.Empty:
            self._wake.clear()
        # Between the look and the clear something may have come, whose signal was just cleared.
        try:
            item = self._items.get_nowait()
        except queue.Empty:
            return None
        self._wake.set()
        return item

    def close(self) -> None:
        """Free the descriptor. Safe to call twice."""
        self._wake.close()
