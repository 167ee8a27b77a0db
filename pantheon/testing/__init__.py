"""What Pantheon's own tests are made of, shipped for those who write a transport of their own."""

from __future__ import annotations

from pantheon.testing.events import expect, next_event
from pantheon.testing.transports import TransportContract

__all__ = ["TransportContract", "expect", "next_event"]
