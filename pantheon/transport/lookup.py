"""Questions to the network that may block, asked in short-lived threads: names, and who listens."""

from __future__ import annotations

import logging
import queue
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from pantheon.errors import UnknownHost
from pantheon.transport.address import Address
from pantheon.transport.wake import Wake

logger = logging.getLogger(__name__)

TRIES = 3
PAUSE_S = 0.5
PROBE_S = 3.0

ZMTP_GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\r\n\r\n"
"""A ZMTP signature, and the end of a line: an HTTP server waits for one before it complains."""

HTTP2_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""HTTP/2's client preface: the magic line and an empty SETTINGS frame."""


class Lookup:
    """Runs questions in threads of their own and wakes the poller when an answer is there.

    Example:
        >>> lookup = Lookup(); lookup.ask(lambda: 6 * 7)
        >>> while (answer := lookup.answer()) is None: pass
        >>> lookup.close(); answer
        42
    """

    def __init__(self) -> None:
        self._wake = Wake()
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.busy = False

    @property
    def fd(self) -> int:
        """Readable when an answer waits."""
        return self._wake.fd

    def ask(self, question: Callable[[], Any]) -> None:
        """Ask one question, which must not raise; its answer comes by `answer`."""
        self.busy = True
        threading.Thread(target=self._run, args=(question,), name="lookup", daemon=True).start()

    def _run(self, question: Callable[[], Any]) -> None:
        self._answers.put(question())
        self._wake.set()

    def answer(self) -> Any | None:
        """An answer, or None when there is none now."""
        self._wake.clear()
        try:
            answer = self._answers.get_nowait()
        except queue.Empty:
            return None
        self.busy = False
        return answer

    def close(self) -> None:
        """Forget what is still being asked."""
        self._wake.close()


def resolve(address: Address) -> list[Address] | UnknownHost:
    """The numeric addresses of a name, IPv4 first, or the error that says it has none. Blocks."""
    error: OSError | None = None
    for attempt in range(TRIES):
        if attempt:
            time.sleep(PAUSE_S)
        try:
            found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as problem:
            error = problem if isinstance(problem, OSError) else OSError(0, str(problem))
            if error.errno != socket.EAI_AGAIN:
                break
        else:
            found.sort(key=lambda entry: entry[0] != socket.AF_INET)
            hosts = dict.fromkeys(str(entry[4][0]) for entry in found)
            return [Address(address.scheme, host, address.port) for host in hosts]
    return UnknownHost(
        f"host {address.host!r} of {address} does not resolve ({error and error.strerror}); check "
        "the name, or that the teacher's container or service is up"
    )


def probe(address: Address, greeting: bytes = ZMTP_GREETING) -> bytes | None:
    """The first bytes that whoever listens at a numeric address or path says; None if nobody does.

    Empty when the other side hangs up, `SILENT` when it says nothing for `PROBE_S` seconds. Blocks.
    """
    family = socket.AF_UNIX if address.path else socket.AF_INET6 if ":" in address.host else None
    try:
        with socket.socket(family or socket.AF_INET, socket.SOCK_STREAM) as sock:
            sock.settimeout(PROBE_S)
            sock.connect(address.path or (address.host, address.port))
            try:
                sock.sendall(greeting)
                return sock.recv(16)
            except TimeoutError:
                return SILENT
            except ConnectionError:
                return b""
    except OSError:
        return None


SILENT = b"(nothing)"


def is_zmtp(said: bytes) -> bool:
    """Whether the first bytes of a connection are a ZMTP signature."""
    return said[:1] == ZMTP_GREETING[:1]


def is_http2(said: bytes) -> bool:
    """Whether the first bytes of a connection are an HTTP/2 server's SETTINGS or GOAWAY."""
    return len(said) >= 5 and said[:1] == b"\0" and said[3] in (4, 7)
