"""Peers whose messages cannot be read: which of them are heard no more, and what the log says."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass

from pantheon.transport.base import Peer

PERIOD_S = 10.0
"""Seconds between two lines of the log on one peer, and in which its messages are counted."""

MOST = 1024
MOST_BYTES = 1 << 20
"""Malformed messages of a peer in a period, and bytes of their headers; after more of either,
nothing of it is read for a period."""

REMEMBERED = 4096
"""Peers that are counted at once; of more, those that began first are forgotten."""


@dataclass(slots=True)
class _Record:
    since: float
    earlier: int = 0
    messages: int = 0
    header_bytes: int = 0
    shut_until: float = 0.0


class Strikes:
    """Counts malformed messages by who sent them.

    Example:
        >>> strikes = Strikes()
        >>> [strikes.add("ann", 1 << 19) for _ in range(3)]
        ['1 of this peer', '', 'nothing of this peer is read for 10 s']
        >>> strikes.shut("ann"), strikes.shut("bob")
        (True, False)
    """

    def __init__(self) -> None:
        self._records: OrderedDict[Peer, _Record] = OrderedDict()

    def shut(self, peer: Peer) -> bool:
        """Whether what a peer sends is to be dropped unread."""
        record = self._records.get(peer)
        return record is not None and time.monotonic() < record.shut_until

    def add(self, peer: Peer, header_bytes: int) -> str:
        """Count a malformed message.

        Args:
            header_bytes: what was read of it; 0 for one that the network may have damaged.

        Returns:
            What a line of the log is to say of the peer; empty: it has said enough.
        """
        record = self._record(peer)
        record.messages += 1
        record.header_bytes += header_bytes
        beyond = record.messages > MOST or record.header_bytes > MOST_BYTES
        if beyond and header_bytes and not record.shut_until:
            record.shut_until = time.monotonic() + PERIOD_S
            return f"nothing of this peer is read for {PERIOD_S:.0f} s"
        return f"{1 + record.earlier} of this peer" if record.messages == 1 else ""

    def _record(self, peer: Peer) -> _Record:
        now, record = time.monotonic(), self._records.get(peer)
        if record is None or now - record.since >= PERIOD_S:
            earlier = max(0, record.messages - 1) if record else 0
            record = self._records[peer] = _Record(now, earlier)
            self._records.move_to_end(peer)
        if len(self._records) > REMEMBERED:
            self._records.popitem(last=False)
        return record
