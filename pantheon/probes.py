"""What machines that watch a process ask it by HTTP: metrics, whether it lives, whether it works.

Answers show numbers and names, never knowledge. Each connection is answered once and has
`ANSWER_S` seconds and `MAX_HEAD` bytes to ask; at most `MAX_CLIENTS` are served at a time, and one
more takes the place of one that has said nothing, or of one whose address has more than others.
Each address has a share of connections, one for those that ask for metrics, one for other
questions, and one for those that say nothing at first; beyond it questions are answered 429 and
silence is hung up on. So neither slow, idle nor many clients hold the process up or keep a watcher
out.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import select
import socket
import socketserver
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import TracebackType
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from pantheon.errors import ConfigError, TransportError
from pantheon.shares import Shares

logger = logging.getLogger(__name__)

ANSWER_S = 5.0
MAX_HEAD = 1 << 14
"""Bytes of a request that are read; what comes after them is left."""

MAX_CLIENTS = 16
BURST = 80
RATE = 20.0
"""Connections of one address and kind at once, and in a second."""

TOO_MANY = (
    b"HTTP/1.0 429 Too Many Requests\r\nRetry-After: 1\r\n"
    b"Content-Type: text/plain\r\nContent-Length: 36\r\n\r\nasked too often; ask once a second.\n"
)
"""What an address is told that asks beyond its share."""

FRESH_S = 0.5
"""Seconds in which a client that asks keeps its place against others of its address."""

PARKED = 64
"""Clients beyond the share of those that say nothing, which are waited for without a thread."""

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


@dataclass(slots=True)
class _Client:
    host: str
    since: float
    asked: bool = False


def _peek(request: socket.socket) -> bytes:
    """What kind of question has come; empty while none has."""
    try:
        data = request.recv(12, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except OSError:
        return b""
    return b"metrics" if data == b"GET /metrics" else b"other" if data else b""


def _refuse(request: socket.socket) -> None:
    """Say that it was asked too often; without waiting, as there may be many."""
    with contextlib.suppress(OSError):
        request.recv(MAX_HEAD, socket.MSG_DONTWAIT)  # What is left unread would reset the answer.
        request.send(TOO_MANY, socket.MSG_DONTWAIT)


class _Metrics:
    """The encoded metrics, read anew for a few scrapes in a second."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry, self._shares = registry, Shares(burst=4, rate=1.0)
        self._encoded: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def encoded(self, accept: str) -> tuple[str, bytes]:
        """Content type and body, for an Accept header."""
        encode, kind = choose_encoder(accept)
        with self._lock:
            if self._shares.take(kind) or kind not in self._encoded:
                self._encoded[kind] = encode(self._registry)
            return kind, self._encoded[kind]


class _Server(HTTPServer):
    """Few clients at a time, each in a thread, each for a bounded time."""

    request_queue_size = 128

    def __init__(
        self, where: tuple[str, int], registry: CollectorRegistry, health: Callable[[], Health]
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in where[0] else socket.AF_INET
        self.health = health
        self._clients: dict[socket.socket, _Client] = {}
        self._shares = Shares(BURST, RATE)
        self._parked: deque[tuple[Any, Any, float]] = deque()
        self._lock = threading.Lock()
        self.metrics = _Metrics(registry)
        super().__init__(where, _Handler)

    def server_bind(self) -> None:
        """Bind, without asking a name server who we are."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer a client in a thread, if its address has not had its share."""
        if _peek(request) or self._shares.take((client_address[0], b"")):
            self._admit(request, client_address)
            return
        # Without a thread until it asks, as a watcher among many silent ones soon does.
        self._parked.append((request, client_address, time.monotonic()))
        if len(self._parked) > PARKED:
            self.shutdown_request(self._parked.popleft()[0])

    def _admit(self, request: Any, client_address: Any) -> None:
        host, asked = str(client_address[0]), _peek(request)
        if asked and not self._shares.take((host, asked)):
            _refuse(request)
            self.shutdown_request(request)
            return
        if not self._place(request, host):
            self.shutdown_request(request)
            return
        threading.Thread(target=self._answer, args=(request, client_address), daemon=True).start()

    def _look_at_parked(self, now: float) -> None:
        parked, self._parked = self._parked, deque()
        ready = select.select([p[0] for p in parked], [], [], 0)[0] if parked else []
        for request, client_address, since in parked:
            if request in ready and _peek(request):
                self._admit(request, client_address)
            elif request in ready or since + ANSWER_S <= now:
                self.shutdown_request(request)
            else:
                self._parked.append((request, client_address, since))

    def _place(self, request: socket.socket, host: str) -> bool:
        with self._lock:
            if len(self._clients) >= MAX_CLIENTS:
                if (victim := self._dispensable(host)) is None:
                    return False
                self._hang_up(victim)
            self._clients[request] = _Client(host, time.monotonic())
        return True

    def _dispensable(self, host: str) -> socket.socket | None:
        """Who makes room for a client of an address."""
        for client, about in self._clients.items():
            if not about.asked:
                return client
        counts = Counter(about.host for about in self._clients.values())
        crowd = host if counts[host] == max(counts.values()) else counts.most_common(1)[0][0]
        oldest = next(c for c, about in self._clients.items() if about.host == crowd)
        fresh = time.monotonic() - self._clients[oldest].since < FRESH_S
        return None if crowd == host and fresh else oldest

    def begun(self, request: socket.socket) -> None:
        """Note that a client has begun to ask."""
        with self._lock:
            if request in self._clients:
                self._clients[request].asked = True

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
        self._look_at_parked(time.monotonic())
        late = time.monotonic() - ANSWER_S
        with self._lock:
            for client in [c for c, about in self._clients.items() if about.since <= late]:
                self._hang_up(client)

    def server_close(self) -> None:
        """Free the address and hang up on everybody."""
        super().server_close()
        for request, _, _ in self._parked:
            self.shutdown_request(request)
        self._parked.clear()
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
            if not head:
                self.server.begun(self.request)
            head += line
        self.rfile = io.BytesIO(head)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._say(200, *self.server.metrics.encoded(self.headers.get("Accept", "")))
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
