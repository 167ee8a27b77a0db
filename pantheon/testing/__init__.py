"""What Pantheon's own tests are made of, shipped for those who write a transport or use a store of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pantheon.testing.events import expect, expect_from, next_event

if TYPE_CHECKING:
    from pantheon.testing.stores import StoreContract
from pantheon.testing.transports import TransportContract

__all__ = ["StoreContract", "TransportContract", "expect", "expect_from", "next_event"]


def __getattr__(name: str) -> Any:
    # The suite needs pytest; waiting for events does not.
    if name == "StoreContract", "TransportContract":
        from pantheon.testing.stores import StoreContract
from pantheon.testing.transports import TransportContract

        return TransportContract
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
