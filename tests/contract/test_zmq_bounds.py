"""What one end of a ZeroMQ connection can make the other hold is bounded, before and after keys."""

from __future__ import annotations

import socket
from contextlib import closing, suppress
from pathlib import Path

import pytest

from pantheon.transport import Curve, listen, parse_address
from pantheon.transport.keys import generate

MOST = (1 << 20) + 64
"""Bytes of the longest frame that a teacher takes."""


@pytest.mark.parametrize("mechanism", ["NULL", "CURVE"])
@pytest.mark.parametrize("kind", [0x02, 0x06])  # A message and a command.
def test_a_stranger_that_claims_a_long_frame_is_cut_off_at_once(
    tmp_path: Path, mechanism: str, kind: int
) -> None:
    generate(tmp_path)
    security = Curve(tmp_path) if mechanism == "CURVE" else None
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00" + mechanism.encode().ljust(20, b"\0")
    with closing(listen("tcp://127.0.0.1:0", security=security)) as listener:
        where = parse_address(listener.address)
        # Less than the seconds a handshake may take.
        with socket.create_connection((where.host, where.port), timeout=2.0) as sock:
            sock.sendall(greeting + bytes(32))
            sock.recv(64, socket.MSG_WAITALL)
            sock.sendall(bytes([kind]) + (MOST + 1).to_bytes(8, "big"))
            with suppress(ConnectionResetError):
                while sock.recv(1024):
                    pass
