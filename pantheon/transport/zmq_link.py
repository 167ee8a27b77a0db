"""What the events of a ZeroMQ socket monitor mean for a connection: a state machine without I/O."""

from __future__ import annotations

import errno
from dataclasses import dataclass

import zmq

from pantheon.errors import ProtocolError, SecurityError
from pantheon.transport.base import Connected, Lost
from pantheon.transport.zmq_socket import HANDSHAKE_S

WATCHED = (
    zmq.EVENT_CONNECTED
    | zmq.EVENT_CONNECT_DELAYED
    | zmq.EVENT_CONNECT_RETRIED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)

SUSPECT_S = 1.0
"""Seconds of handshake after which we ask who answers there; libzmq goes on meanwhile."""

RETRY_S = 1.0
"""Seconds after a disconnection in which libzmq must have begun to connect again."""


@dataclass(slots=True)
class Link:
    """Follows one connection through its monitor events.

    Args:
        name: what to call the other side in messages.
        keyed: whether this side uses keys.

    Attributes:
        up: the handshake is done and nothing was lost since.
        ever_up: it was up once, so what answers there does speak the protocol.
        suspect: a handshake failed; find out who answers there.
    """

    name: str
    keyed: bool = False
    up: bool = False
    ever_up: bool = False
    suspect: bool = False
    _told: bool = False
    _shaking_since: float | None = None
    _retry_by: float | None = None
    _suspected: bool = False

    def feed(self, event: int, value: int, now: float) -> Connected | Lost | None:
        """Take one monitor event at `now` seconds; what the connection's user should hear."""
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self.up = self.ever_up = True
            self._told = self.suspect = False
            self._shaking_since = self._retry_by = None
            return Connected()
        if event == zmq.EVENT_CONNECTED:
            self._shaking_since, self._retry_by, self._suspected = now, None, False
            return None
        if event == zmq.EVENT_CONNECT_DELAYED:
            self._retry_by = None
            return None
        if event == zmq.EVENT_CONNECT_RETRIED:
            self._retry_by = None
            return self.down(f"connection refused by {self.name}: nobody listens there yet")
        return self._failed(event, value, now)

    def _failed(self, event: int, value: int, now: float) -> Lost | None:
        if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            return self.denied(
                f"{self.name} refuses our key (ZAP status {value}): it is not on the teacher's "
                "allow-list; put the public key into its keys/clients folder"
            )
        if event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
            if value == zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH:
                return self.denied(self._mechanisms())
            if not self.ever_up:
                return self.fatal(f"{self.name} refuses our handshake (ZMTP error {value:#x})")
        self._retry_by = now + RETRY_S
        if event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
            self.suspect = not self._suspected
            self._suspected, self._shaking_since = True, None
            how = "is silent" if value == errno.EAGAIN else "hangs up"
            why = "; is its public key the one in our server.key?" if self.keyed else ""
            return self.down(
                f"{self.name} accepts connections but {how} instead of shaking hands{why}"
            )
        # A disconnection: of a link that was up, or of one that never shook hands.
        was_up, self.up = self.up, False
        if not was_up:
            self.suspect = self.suspect or self._shaking_since is not None
        self._shaking_since = None
        return self.down(f"the connection to {self.name} was closed")

    def _mechanisms(self) -> str:
        if self.keyed:
            return (
                f"{self.name} uses no keys, but this student was given some; serve it with keys, "
                "or leave out security= where the network is trusted"
            )
        return f"{self.name} lets in only clients with keys; give security=Curve('keys/')"

    def denied(self, reason: str) -> Lost:
        """`Lost` for good: one side does not let the other in."""
        self.up = False
        self._told = True
        return Lost(reason, SecurityError(reason))

    def down(self, reason: str) -> Lost | None:
        """`Lost`, once in each period without a connection."""
        self.up = False
        if self._told:
            return None
        self._told = True
        return Lost(reason)

    def fatal(self, what: str) -> Lost:
        """`Lost` for good: something else listens there."""
        self.up = False
        self._told = True
        reason = f"{what}; expected a Pantheon teacher (ZeroMQ): check host, port and scheme"
        return Lost(reason, ProtocolError(reason))

    def stuck(self, now: float) -> bool:
        """Whether to connect anew, because libzmq has neither shaken hands nor tried again in time.

        Sets `suspect` when a handshake takes long; call it every second while not `up`.
        """
        shaking = 0.0 if self._shaking_since is None else now - self._shaking_since
        if shaking > SUSPECT_S and not self._suspected:
            self.suspect = self._suspected = True
        idle = self._retry_by is not None and now > self._retry_by
        if not idle and shaking <= 2 * HANDSHAKE_S:
            return False
        self._retry_by = self._shaking_since = None
        return True
