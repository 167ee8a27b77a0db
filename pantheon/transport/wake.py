"""A file descriptor by which one thread wakes another that polls."""

from __future__ import annotations

import os
import threading


class Wake:
    """A self-pipe: `set` makes `fd` readable until `clear`.

    `set` may be called from any thread, from signal handlers and after `close`; everything else
    from the polling thread.

    Example:
        >>> wake = Wake(); wake.set(); wake.set(); wake.clear(); wake.close()
    """

    def __init__(self) -> None:
        self.fd, self._write = os.pipe()
        os.set_blocking(self.fd, False)
        os.set_blocking(self._write, False)
        # Reentrant, as a signal handler may interrupt whoever holds it. So a handler's `set` runs
        # between any two steps here: it may write once more, but none can be missed.
        self._lock = threading.RLock()
        self._pending = False
        self._closed = False

    def set(self) -> None:
        """Make `fd` readable."""
        with self._lock:
            if not self._pending and not self._closed:
                self._pending = True
                os.write(self._write, b"\0")

    def clear(self) -> None:
        """Make `fd` unreadable; call it before looking at what was queued."""
        with self._lock:
            if self._pending and not self._closed:
                os.read(self.fd, 16)
                self._pending = False

    def close(self) -> None:
        """Free both descriptors. Safe to call twice."""
        with self._lock:
            if not self._closed:
                self._closed = True
                os.close(self.fd)
                os.close(self._write)
