"""The peers of a gRPC listener: threads of calls on one side, the listener's queue on the other."""

from __future__ import annotations

import itertools
import queue
import threading
from typing import Any

from pantheon.transport.base import Lost
from pantheon.transport.inbox import Inbox
from pantheon.wire.messages import Message

MAX_UNREAD = 256
"""Messages of one peer that may wait for the listener; more are left in the network."""

MAX_UNSENT = 4096
"""Messages that may wait for one peer; one that reads nothing for so long counts as gone."""

# One count for all listeners, so that a peer of a closed one is nobody to the next.
_numbers = itertools.count(1)


class GrpcPeer:
    """One conversation: a stream, or a single call that stands for one.

    Args:
        number: what the listener's user knows it by.
        inbox: the listener's.
        client: its certificate, None without one.
    """

    def __init__(self, number: int, inbox: Inbox, client: bytes | None = None) -> None:
        self.number, self.client = number, client
        self.gone = False
        self._inbox = inbox
        self._unread = threading.BoundedSemaphore(MAX_UNREAD)
        self._unsent: queue.Queue[Message | None] = queue.Queue()
        self._lock = threading.Lock()

    def say(self, message: Message) -> bool:
        """Pass on what the peer said; waits while the listener does not keep up."""
        while not self._unread.acquire(timeout=1.0):
            if self.gone:
                return False
        self._inbox.put((self, message))
        return not self.gone

    def read(self) -> None:
        """The listener's user took one message."""
        self._unread.release()

    def deliver(self, message: Message) -> bool:
        """Queue a message for the peer; False when it is gone."""
        if self._unsent.qsize() >= MAX_UNSENT:
            self.finish("the student stopped reading")
        with self._lock:
            if self.gone:
                return False
            self._unsent.put(message)
            return True

    def next(self, timeout: float | None = None) -> Message | None:
        """What to send next; None at the end, or after `timeout` seconds."""
        try:
            return self._unsent.get(timeout=timeout)
        except queue.Empty:
            return None

    def finish(self, reason: str) -> None:
        """The conversation is over; what is queued for the peer may still leave."""
        with self._lock:
            if self.gone:
                return
            self.gone = True
        self._unsent.put(None)
        self._inbox.put((self, Lost(reason)))


class GrpcPeers:
    """All peers of a listener, by number."""

    def __init__(self) -> None:
        self.inbox = Inbox()
        self._peers: dict[int, GrpcPeer] = {}

    def open(self, client: bytes | None = None) -> GrpcPeer:
        """A new peer; called by the threads of calls."""
        peer = GrpcPeer(next(_numbers), self.inbox, client)
        self._peers[peer.number] = peer
        return peer

    def get(self, number: Any) -> GrpcPeer | None:
        """The peer of this number, None when it is gone."""
        return self._peers.get(number) if isinstance(number, int) else None

    def receive(self) -> tuple[int, Message | Lost] | None:
        """The next message or loss for the listener's user."""
        item = self.inbox.get()
        if item is None:
            return None
        peer, message = item
        if isinstance(message, Lost):
            self._peers.pop(peer.number, None)
        else:
            peer.read()
        return peer.number, message

    def close(self) -> None:
        """Finish every conversation."""
        for peer in list(self._peers.values()):
            peer.finish("the listener was closed")
