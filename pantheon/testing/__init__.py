"""What Pantheon's own tests are made of, shipped for those who add a transport or a store.

Names are imported when they are first used: the suites need pytest, waiting for events does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pantheon.exports import lazily

if TYPE_CHECKING:
    from pantheon.testing.events import expect as expect
    from pantheon.testing.events import expect_from as expect_from
    from pantheon.testing.events import next_event as next_event
    from pantheon.testing.stores import StoreContract as StoreContract
    from pantheon.testing.transports import TransportContract as TransportContract

__all__ = ["StoreContract", "TransportContract", "expect", "expect_from", "next_event"]

_HOMES = {
    "events": ("expect", "expect_from", "next_event"),
    "stores": ("StoreContract",),
    "transports": ("TransportContract",),
}

__getattr__, __dir__ = lazily(__name__, _HOMES)
