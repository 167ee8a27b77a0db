"""What Pantheon's own tests are made of, shipped for those who add a transport or a store."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pantheon.testing.events import expect, expect_from, next_event

if TYPE_CHECKING:
    from pantheon.testing.stores import StoreContract
    from pantheon.testing.transports import TransportContract

_SUITES = {"StoreContract": "stores", "TransportContract": "transports"}

__all__ = ["StoreContract", "TransportContract", "expect", "expect_from", "next_event"]


def __getattr__(name: str) -> Any:
    # The suites need pytest; waiting for events does not.
    if name in _SUITES:
        return getattr(import_module(f"{__name__}.{_SUITES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
