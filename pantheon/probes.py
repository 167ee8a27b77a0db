"""What machines that watch a process ask it by HTTP: metrics, whether it lives, whether it works.

Answers show numbers and names, never knowledge. Each connection is answered once and has
`ANSWER_S` seconds and `MAX_HEAD` bytes to ask; at most `MAX_CLIENTS` are served at a time, and one
more takes the place of the one that has been at it longest, so that slow, idle or many clients
neither hold the process up nor keep a watcher out.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import TracebackType
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from pantheon.errors import ConfigError, TransportError

logger = logging.getLogger(__name__)

ANSWER_S = 5.0
MAX_HEAD = 1 << 14
"""Bytes of a request that are read; what comes after them is left."""

MAX_CLIENTS = 16
LOOK_S = 0.1
"""Seconds between two looks for clients that are too slow, and whether to end."""


@dataclass(frozen=True, slots=True)
class Health:
    """How a process is.

    Args:
        alive: it works; if not, it is better started again.
        ready: it can be given work.
        facts: more, for people.
    """

    alive: bool
    ready: bool
    facts: Mapping[str, Any] = field(default_factory=dict)


def http_address(text: str) -> tuple[str, int]:
    """Host and port of ``127.0.0.1:9464`` or ``http://127.0.0.1:9464``; `ConfigError` otherwise.

    Example:
        >>> http_address("http://[::1]:9464")
        ('::1', 9464)
    """
    host, colon, port = text.removeprefix("http://").rstrip("/").rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    number = int(port) if port.isascii() and port.isdigit() else 65536
    if not colon or not host or number > 65535 or "/" in host:
        raise ConfigError(f"{text!r} is no HTTP address; expected HOST:PORT, as 127.0.0.1:9464")
    return "0.0.0.0" if host == "*" else host, number


class Probes:
    """An HTTP server with ``/metrics``, ``/healthz`` and ``/readyz``, in threads of its own.

    Args:
        address: ``host:port``; port 0 takes a free one.
        collector: the metrics, read when they are asked for; the process's own (``process_``:
            processor time, memory, open files) are added.
        health: how the process is, read when it is asked for; called from any thread.

    Attributes:
        address: where it listens, ``http://host:port``.

    Raises:
        ConfigError: what is no address.
        TransportError: an address that cannot be bound.

    Example:
        >>> from urllib.request import urlopen
        >>> class Nothing(Collector):
        ...     def collect(self): return []
        >>> with Probes("127.0.0.1:0", Nothing(), lambda: Health(True, True)) as probes:
        ...     urlopen(probes.address + "/readyz").read()
        b'{"alive": true, "ready": true}\\n'
    """

    def __init__(self, address: str, collector: Collector, health: Callable[[], Health]) -> None:
        registry = CollectorRegistry()
        registry.register(collector)
        ProcessCollector(registry=registry)
        where = http_address(address)
        try:
            self._server = _Server(where, registry, health)
        except OSError as error:
            raise TransportError(
                f"cannot listen at http://{address.removeprefix('http://')}: "
                f"{error.strerror or error}; choose another address (port 0 takes a free one)"
            ) from None
        host, port = self._server.server_address[:2]
        name = host.decode() if isinstance(host, bytes | bytearray) else str(host)
        self.address = f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"
        self._closed = threading.Lock()
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(LOOK_S,), name="pantheon-http", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Answer nobody any more and free the address. Safe to call twice, from any thread."""
        if self._closed.acquire(blocking=False):
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()

    def __enter__(self) -> Probes:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _Server(HTTPServer):
    """Few clients at a time, each in a thread, each for a bounded time."""

    request_queue_size = 128

    def __init__(
        self, where: tuple[str, int], registry: CollectorRegistry, health: Callable[[], Health]
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in where[0] else socket.AF_INET
        self.registry, self.health = registry, health
        self._clients: dict[socket.socket, float] = {}
        self._lock = threading.Lock()
        super().__init__(where, _Handler)

    def server_bind(self) -> None:
        """Bind, without asking a name server who we are."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer a client in a thread; if too many are there, the oldest makes room."""
        with self._lock:
            if len(self._clients) >= MAX_CLIENTS:
                self._hang_up(next(iter(self._clients)))
            self._clients[request] = time.monotonic() + ANSWER_S
        threading.Thread(target=self._answer, args=(request, client_address), daemon=True).start()

    def _answer(self, request: Any, client_address: Any) -> None:
        try:
            self.finish_request(request, client_address)
        except OSError as error:
            logger.debug("an HTTP client at %s went away: %s", client_address, error)
        except Exception:
            logger.exception("an HTTP request could not be answered")
        finally:
            with self._lock:
                self._clients.pop(request, None)
            self.shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log why a client could not be taken."""
        logger.warning("an HTTP client could not be taken", exc_info=True)
        with self._lock:
            self._clients.pop(request, None)

    def service_actions(self) -> None:
        """Hang up on clients that take too long."""
        now = time.monotonic()
        with self._lock:
            for client in [c for c, until in self._clients.items() if until <= now]:
                self._hang_up(client)

    def server_close(self) -> None:
        """Free the address and hang up on everybody."""
        super().server_close()
        with self._lock:
            for client in list(self._clients):
                self._hang_up(client)

    def _hang_up(self, client: socket.socket) -> None:
        """Its thread finds the connection at its end, and goes; called under the lock."""
        del self._clients[client]
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version = "pantheon"
    sys_version = ""
    timeout = ANSWER_S

    def setup(self) -> None:
        """Read the whole request, of a bounded size, before it is looked at."""
        super().setup()
        head = bytearray()
        while len(head) < MAX_HEAD and not head.endswith((b"\n\n", b"\n\r\n")):
            if not (line := self.rfile.readline(MAX_HEAD - len(head))):
                break
            head += line
        self.rfile = io.BytesIO(head)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/metrics":
            encode, kind = choose_encoder(self.headers.get("Accept", ""))
            self._say(200, kind, encode(self.server.registry))
        elif path in ("/healthz", "/readyz"):
            health = self.server.health()
            good = health.alive if path == "/healthz" else health.alive and health.ready
            told = {"alive": health.alive, "ready": health.ready, **health.facts}
            self._say(200 if good else 503, "application/json", json.dumps(told).encode() + b"\n")
        else:
            self._say(404, "text/plain", b"ask for /metrics, /healthz or /readyz\n")

    def _say(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        logger.debug("HTTP %s: %s", self.client_address, format % args)
