"""A running server: its thread, its addresses, how it is started and stopped."""

from __future__ import annotations

import atexit
import contextlib
import gc
import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pantheon.errors import ConfigError, PantheonError
from pantheon.probes import Health, Probes
from pantheon.transport import Curve, Listener, Security, Tls, listen, parse_address
from pantheon.transport.security import security_for
from pantheon.transport.wake import Wake
from pantheon.wire.messages import Limits
from teacher_server.abandoning import Abandoned, abandon
from teacher_server.descriptors import raise_limit
from teacher_server.engine import Engine
from teacher_server.host import Host
from teacher_server.metrics import TeacherCollector
from teacher_server.stats import ServerStats

if TYPE_CHECKING:
    from teacher_server.teacher import Teacher

logger = logging.getLogger(__name__)

DRAIN_S = 10.0
INTERRUPT_DRAIN_S = 0.3
"""Seconds in which accepted requests are finished after SIGTERM, and after Ctrl-C."""

LATE_S = 0.3
"""Seconds after the drain in which a forward that the loop is inside of may still end."""

LOOK_S = 0.1
"""Seconds between two looks at whether a server that was told to stop is inside a forward."""

STUCK_S = 60.0
"""Seconds after which a loop that does not turn is held to be stuck; it does every few seconds."""

CAP = 1 << 30

Ready = Callable[[list[str]], object]


class Server:
    """Teachers answering at some addresses, on a thread of its own.

    Made by `start`; a context manager that stops it. One model is asked without a name.

    Args:
        teachers: by the name students ask for.
        addresses: where to listen: ``tcp://``, ``ipc://``, ``grpc://`` and ``inproc://``, any mix.
        security: keys, without which nobody is let in: `Curve` for tcp and ipc, `Tls` for gRPC.
        insecure: allow addresses that other machines can reach without keys: anybody may ask.
        limits: of requests and replies.
        cap: bytes of waiting requests and of unsent replies, each, for the whole server.
        http: ``host:port`` where metrics and health are served to whoever asks; None for nowhere.

    Attributes:
        addresses: where students can come, once it has started.
        http: where metrics and health are, ``http://host:port``, once it has started.

    Raises:
        ConfigError: no teacher, no address, or one that others can reach without ``insecure``.
        TransportError: an address that cannot be bound.
    """

    def __init__(
        self,
        teachers: Mapping[str, Teacher],
        addresses: Sequence[str],
        *,
        security: Security = None,
        insecure: bool = False,
        limits: Limits | None = None,
        cap: int = CAP,
        http: str | None = None,
    ) -> None:
        _check(teachers, addresses, security, insecure)
        self._security = security
        self.addresses: list[str] = []
        self._teachers, self._binds = dict(teachers), list(addresses)
        self._limits, self._cap = limits or Limits(), cap
        self._wake = Wake()
        self._started: Future[list[str]] = Future()
        self._stop_after: float | None = None
        self._stop_by = math.inf
        self._engine: Engine | None = None
        self._watch_at = http
        self._probes: Probes | None = None
        self._thread = threading.Thread(target=self._run, name="pantheon-server", daemon=True)
        self._error: BaseException | None = None

    def start(self) -> Server:
        """Begin to serve; returns when every address is bound."""
        try:
            self.watch()
            # Here, so that what is wrong with a model is raised where it was handed over.
            for teacher in self._teachers.values():
                teacher.prepare()
            raise_limit(self._binds)
            self._thread.start()
            self.addresses = self._started.result()
        except BaseException:
            self.stop(0)
            raise
        return self

    def watch(self) -> None:
        """Serve metrics and health, before the models are ready; `start` does it too."""
        if self._watch_at is not None and self._probes is None:
            collector = TeacherCollector(self.stats, self._revisions)
            self._probes = Probes(self._watch_at, collector, self.health)

    @property
    def http(self) -> str | None:
        """Where metrics and health are served."""
        return None if self._probes is None else self._probes.address

    def _revisions(self) -> dict[str, str]:
        return {} if self._engine is None else self._engine.revisions()

    def health(self) -> Health:
        """How it is, for those who start it again or send it work; from any thread.

        It is alive while its loop turns, and ready while it takes requests and some worker of each
        model can answer them.
        """
        engine = self._engine
        if engine is None or not self._thread.is_alive():
            ended = self._thread.ident is not None and not self._thread.is_alive()
            state = "stopped" if ended else "starting"
            return Health(not ended, False, {"state": state})
        stats = engine.stats()
        if stats.turned > STUCK_S:
            return Health(False, False, {"state": f"stuck for {stats.turned:.0f} s"})
        if stalled := [name for name, model in stats.models.items() if model.stalled]:
            return Health(True, False, {"state": f"no worker for {', '.join(stalled)}"})
        state = "draining" if stats.draining or self._stopping else "serving"
        return Health(True, state == "serving", {"state": state, "sessions": stats.sessions})

    def request_stop(self, drain: float = DRAIN_S) -> None:
        """Ask it to stop, without waiting; may be called from a signal handler or any thread."""
        self._stop_after = drain
        self._stop_by = min(self._stop_by, time.monotonic() + drain)
        if self._engine is not None:
            self._engine.drain(drain)
        self._wake.set()

    def stop(self, drain: float = DRAIN_S) -> None:
        """Refuse new work, finish accepted requests for ``drain`` seconds, and free the addresses.

        Safe to call twice and from any thread.
        """
        self._stop(drain)
        if self._probes is not None:
            self._probes.close()

    def _stop(self, drain: float) -> None:
        self.request_stop(drain)
        if self._thread.ident is not None and threading.current_thread() is not self._thread:
            self._join()
        elif self._thread.ident is None:
            self._wake.close()

    def wait(self) -> None:
        """Return when it has stopped; raises what ended it, if that was an error."""
        self._join()
        if self._probes is not None:
            self._probes.close()
        if self._error is not None:
            raise self._error

    def _join(self) -> None:
        """Wait for the loop's end; a forward that keeps it from ending is abandoned."""
        while self._thread.is_alive():
            self._thread.join(LOOK_S)
            engine, late = self._engine, time.monotonic() > self._stop_by + LATE_S
            if late and engine is not None and engine.borrowed:
                logger.warning("the server stops inside a forward of a model, which does not end")
                abandon(self._thread)
                if self._thread.is_alive():
                    engine.leave()
                return

    def stats(self) -> ServerStats:
        """Counters since the start."""
        return self._engine.stats() if self._engine is not None else ServerStats()

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop(DRAIN_S if kind is None else 0)

    def _run(self) -> None:
        """The thread: everything that owns a socket is made, used and closed here."""
        try:
            with contextlib.ExitStack() as stack:
                stack.callback(self._wake.close)
                hosts = self._open_hosts(stack)
                listeners = self._open_listeners(stack)
                self._engine = Engine(hosts, listeners, self._wake, self._cap)
                if self._stop_after is not None:
                    self._engine.drain(self._stop_after)
                self._started.set_result([listener.address for listener in listeners])
                self._engine.run()
        except Abandoned:
            logger.debug("the forward that the server stopped inside of was left")
        except Exception as error:
            if not self._started.done():
                self._started.set_exception(error)
                return
            logger.critical("the server ended with an error", exc_info=True)
            self._error = error

    def _open_hosts(self, stack: contextlib.ExitStack) -> dict[str, Host]:
        hosts = {}
        for name, teacher in self._teachers.items():
            hosts[name] = teacher.host(name, self._wake, self._limits, lambda: self._stopping)
            stack.callback(hosts[name].stop)
        return hosts

    @property
    def _stopping(self) -> bool:
        return self._stop_after is not None

    def _open_listeners(self, stack: contextlib.ExitStack) -> list[Listener]:
        listeners = []
        for address in self._binds:
            listeners.append(listen(address, limits=self._limits, security=self._security))
            stack.callback(listeners[-1].close)
        return listeners


def _check(
    teachers: Mapping[str, Any], addresses: Sequence[str], security: Security, insecure: bool
) -> None:
    if not teachers:
        raise ConfigError("nothing to serve: give at least one teacher")
    if not addresses or isinstance(addresses, str):
        raise ConfigError("give at least one address to serve at, such as tcp://127.0.0.1:5557")
    for text in addresses:
        address = parse_address(text)
        if address.model:
            raise ConfigError(f"{text}: a server's address has no model; students add its name")
        keys = security_for(security, address)
        if not (address.loopback or insecure or _authenticates(keys)):
            raise ConfigError(
                f"{text} can be reached from other machines, and nobody who asks is authenticated; "
                f"give keys with security= (--keys), serve at {address.scheme}://127.0.0.1:"
                f"{address.port} or ipc://, or say insecure=True (--insecure) if the network is "
                "trusted"
            )


def _authenticates(keys: Curve | Tls | None) -> bool:
    """Whether clients have to show who they are; TLS without an authority only hides."""
    return isinstance(keys, Curve) or (isinstance(keys, Tls) and keys.ca is not None)


def start(
    teachers: Mapping[str, Teacher],
    *addresses: str,
    security: Security = None,
    insecure: bool = False,
    limits: Limits | None = None,
    cap: int = CAP,
    http: str | None = None,
) -> Server:
    """Serve several models in the background; `Server.addresses` says where.

    Example:
        >>> import torch
        >>> from pantheon.dataset import Ids
        >>> from teacher_server import Teacher
        >>> teacher = Teacher(torch.nn.Embedding(9, 2), Ids(9), {"vector": "float32"})
        >>> with start({"a": teacher, "b": teacher}, "inproc://two-models") as server:
        ...     server.addresses
        ['inproc://two-models']
    """
    server = Server(
        teachers, addresses, security=security, insecure=insecure, limits=limits, cap=cap, http=http
    )
    return server.start()


def serve(
    teachers: Mapping[str, Teacher],
    *addresses: str,
    security: Security = None,
    insecure: bool = False,
    limits: Limits | None = None,
    cap: int = CAP,
    http: str | None = None,
    drain: float = DRAIN_S,
    ready: Ready | None = None,
) -> None:
    """Serve several models until SIGTERM or Ctrl-C, or until nothing is left to serve.

    SIGTERM finishes accepted requests for ``drain`` seconds, Ctrl-C for a moment; a second
    signal ends at once. Signals are heeded only when this is the main thread.

    Args:
        ready: called with the addresses bound when students can come, that of `http` the last.

    Raises:
        as `Server`.
    """
    server = Server(
        teachers, addresses, security=security, insecure=insecure, limits=limits, cap=cap, http=http
    )
    try:
        server.watch()
        for teacher in teachers.values():
            teacher.prepare()
    except BaseException:
        server.stop(0)
        raise
    # Collecting torch's objects at the interpreter's end takes longer than Ctrl-C may.
    atexit.register(gc.freeze)
    with _signals(server, drain):
        try:
            server.start()
        except Interrupted:
            return
        try:
            if ready is not None:
                ready([*server.addresses, *filter(None, [server.http])])
            server.wait()
        except BaseException:
            server.stop(0)
            raise


class Interrupted(PantheonError):
    """The server was told to stop before it had started."""


@contextlib.contextmanager
def _signals(server: Server, drain: float) -> Iterator[None]:
    """SIGTERM and SIGINT stop the server, gently the first time."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    seen = 0

    def handle(number: int, frame: object) -> None:
        nonlocal seen
        seen += 1
        patience = drain if number == signal.SIGTERM else min(drain, INTERRUPT_DRAIN_S)
        server.request_stop(patience if seen == 1 else 0.0)

    before = {s: signal.signal(s, handle) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
