"""All replicas of all teachers: one poller, the handshakes, patience with those that are down."""

from __future__ import annotations

import functools
import logging
import math
import random
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import zmq

from pantheon.errors import MismatchError, PantheonError, ProtocolError, TeacherUnavailable
from pantheon.transport import Connected, Event, Lost
from pantheon.wire.messages import Goodbye, Heartbeat, Refused, Scored, Welcome
from student_client.discovery import Discovery
from student_client.handshake import Agreement, check_together, refused_hello
from student_client.replica import Replica
from student_client.trace import Trace

logger = logging.getLogger(__name__)

LOOK_S = 0.1
"""Seconds between two looks at a replica that is down: its connection keeps its timers by them."""

RETRY_S = 0.5
"""Seconds until a replica that asked to come later is greeted again."""

STOPPED_S = 1.0
"""Seconds that a wait may be longer than it should have been, and still count."""

HEARD = 1024
"""Messages of one replica that are heard before the others and the clock."""

BACK_OFF_S = 30.0
"""Most seconds until one that is lost again and again is greeted again."""


class Handler(Protocol):
    """Whoever works with the replicas that are up."""

    def joined(self, replica: Replica) -> None:
        """A replica may be asked."""

    def left(self, replica: Replica, *, crashed: bool) -> None:
        """A replica may not be asked any more; what it was asked is lost."""

    def scored(self, replica: Replica, message: Scored) -> None:
        """An answer."""

    def refused(self, replica: Replica, message: Refused) -> None:
        """No answer, and why."""

    def working(self, replica: Replica, message: Heartbeat) -> None:
        """Which requests a replica still works on."""

    def gone(self, teacher: str) -> bool:
        """No replica of a teacher within the patience; whether to go on without it."""


class Fleet:
    """The replicas of some teachers, driven by one thread inside `pump`.

    Args:
        replicas: all of them.
        agreements: per teacher, what its replicas have to agree on.
        patience: seconds of waiting without any replica of a teacher after which it is given up.
        clock: seconds.
        discoveries: what finds more replicas.
        session: our name, for the log.

    Attributes:
        joins, losses: per teacher, how often a replica came up, and how often one went away.
        trace: the log of the session.
        absent: teachers that were given up and are gone on without, until they are back.
    """

    def __init__(
        self,
        replicas: Iterable[Replica],
        agreements: Mapping[str, Agreement],
        patience: float,
        clock: Callable[[], float] = time.monotonic,
        discoveries: Iterable[Discovery] = (),
        session: str = "",
    ) -> None:
        self.trace = Trace(session)
        self.agreements = dict(agreements)
        self.patience, self.clock = patience, clock
        self.handler: Handler | None = None
        self.closed = False
        self.joins: Counter[str] = Counter()
        self.losses: Counter[str] = Counter()
        self.absent: set[str] = set()
        self._waited = dict.fromkeys(agreements, 0.0)
        self._random = random.Random()
        self._poller = zmq.Poller()
        self._owner: dict[Any, Replica] = {}
        self._replicas: dict[tuple[str, str], Replica] = {}
        self._extra: dict[Any, Callable[[], None]] = {}
        for replica in replicas:
            self._add(replica)
        self._discoveries = tuple(discoveries)
        for discovery in self._discoveries:
            self.watch(discovery.fd, functools.partial(self._discovered, discovery))
        self._read: dict[type, Callable[[Replica, Any], None]] = {
            Scored: self._scored,
            Heartbeat: self._working,
            Refused: self._refused,
            Welcome: self._welcome,
            Connected: self._connected,
            Lost: self._lost,
            Goodbye: self._goodbye,
        }
        _open.add(self)

    @property
    def replicas(self) -> tuple[Replica, ...]:
        """All replicas that are known now."""
        # Copied at once, as other threads ask too.
        return tuple(self._replicas.copy().values())

    def find(self, teacher: str, address: str) -> Replica | None:
        """A replica by its address, None for one that is not known (any more)."""
        return self._replicas.get((teacher, address))

    def _add(self, replica: Replica) -> None:
        self._replicas[replica.teacher, replica.address] = replica
        for pollable in replica.connection.pollables:
            self._poller.register(pollable, zmq.POLLIN)
            self._owner[pollable] = replica

    def _remove(self, replica: Replica) -> None:
        del self._replicas[replica.teacher, replica.address]
        for pollable in [p for p, owner in self._owner.items() if owner is replica]:
            self._poller.unregister(pollable)
            del self._owner[pollable]
        replica.connection.close()

    def _discovered(self, discovery: Discovery) -> None:
        """Reach replicas that have come, and forget those that are down and no longer named."""
        if not discovery.answer():
            return
        found = discovery.found or frozenset()
        for replica in [r for r in self.replicas if r.teacher == discovery.teacher]:
            # A name server that fails for a moment makes no replica go away.
            unnamed = replica.found not in found and not discovery.trouble
            if replica.found is not None and not replica.up and (unnamed or replica.error):
                logger.info("teacher %r at %s is given up", replica.teacher, replica.address)
                self._remove(replica)
        known = {r.address for r in self.replicas if r.teacher == discovery.teacher}
        for address in sorted(found, key=str):
            if str(address) not in known:
                logger.info("teacher %r is also at %s", discovery.teacher, address)
                self._add(discovery.make(address))

    @property
    def agreed(self) -> bool:
        """Whether every teacher has been heard of."""
        return all(a.first for a in self.agreements.values())

    def up(self, teacher: str) -> list[Replica]:
        """The replicas of a teacher that may be asked."""
        return [r for r in self.replicas if r.teacher == teacher and r.up]

    def watch(self, fd: int, act: Callable[[], None]) -> None:
        """Have `pump` also wait for a descriptor and call `act` when it is readable."""
        self._poller.register(fd, zmq.POLLIN)
        self._extra[fd] = act

    def agree(self) -> None:
        """Wait until every teacher has been heard of; raises as `pump` does."""
        while not self.agreed:
            self.pump(None)

    def pump(self, until: float | None) -> None:
        """Wait for events and handle all there are; returns after some, or at the time `until`.

        Raises:
            TeacherUnavailable: no replica of a teacher within the patience.
            MismatchError: a replica means something else than we do.
            UnknownHost, ProtocolError: no replica of a teacher can ever be reached.
        """
        before = self.clock()
        for discovery in self._discoveries:
            discovery.ask(before)
        down = [r for r in self._replicas.values() if r.welcome is None]
        timeout = self._timeout(before, until, down)
        for pollable, _ in self._poller.poll(timeout):
            if pollable in self._extra:
                self._extra[pollable]()
            elif pollable in self._owner:
                self._drain(self._owner[pollable])
        if down or self._discoveries:
            now = self.clock()
            self._look_after(down, now)
            # What is longer by far was spent stopped, or with other work.
            most = math.inf if timeout is None else timeout / 1000 + STOPPED_S
            self._lose_patience(min(now - before, most))

    def _timeout(self, now: float, until: float | None, down: list[Replica]) -> int | None:
        limits = [d.due - now for d in self._discoveries]
        if until is not None:
            limits.append(until - now)
        if down:
            limits.append(LOOK_S)
        return max(0, math.ceil(min(limits) * 1000)) if limits else None

    def _look_after(self, down: list[Replica], now: float) -> None:
        for replica in down:
            self._drain(replica)
            if replica.retry_at is not None and replica.retry_at <= now:
                replica.retry_at = None
                replica.send(replica.hello)

    def _lose_patience(self, waited: float) -> None:
        for teacher in self._waited:
            if self.up(teacher):
                self._waited[teacher] = 0.0
                continue
            self._waited[teacher] += waited
            if self._waited[teacher] >= self.patience and teacher not in self.absent:
                seconds, self._waited[teacher] = self._waited[teacher], 0.0
                error = self._given_up(teacher, seconds)
                if self.handler is None or not self.handler.gone(teacher):
                    raise error
                logger.error("going on without teacher %r: %s", teacher, error)

    def _given_up(self, teacher: str, seconds: float) -> TeacherUnavailable:
        replicas = [r for r in self.replicas if r.teacher == teacher]
        troubles = [f"{r.address}: {r.down}" for r in replicas]
        named = [d for d in self._discoveries if d.teacher == teacher]
        troubles += [d.trouble for d in named if d.trouble]
        where = "; ".join(troubles) or "its name has no address"
        return TeacherUnavailable(
            f"no replica of teacher {teacher!r} could be reached for {seconds:.1f} s ({where}); "
            f"start it, or wait longer with patience= (now {self.patience:g} s)"
        )

    def _drain(self, replica: Replica) -> None:
        connection = replica.connection
        if not replica.supervised:
            # Work is done in `receive` here: one answer, then look elsewhere.
            self._handle(replica, connection.receive())
            return
        for _ in range(HEARD):
            if (event := connection.receive()) is None:
                return
            self._handle(replica, event)

    def _handle(self, replica: Replica, event: Event | None) -> None:
        read = self._read.get(type(event))
        if read is not None:
            read(replica, event)

    def _scored(self, replica: Replica, message: Scored) -> None:
        replica.failures = 0
        if self.handler:
            self.handler.scored(replica, message)

    def _working(self, replica: Replica, message: Heartbeat) -> None:
        if self.handler:
            self.handler.working(replica, message)

    def _connected(self, replica: Replica, _: Connected) -> None:
        self._drop(replica, "connected, no answer to our Hello yet")
        replica.error = None
        if replica.failures > 1:
            wait = min(BACK_OFF_S, RETRY_S * 2.0**replica.failures)
            wait *= self._random.uniform(0.5, 1.0)
            replica.retry_at = self.clock() + wait
            self.trace.greeted_later(replica, wait)
            return
        replica.send(replica.hello)

    def _welcome(self, replica: Replica, welcome: Welcome) -> None:
        self.agreements[replica.teacher].accept(welcome, replica.address)
        if self.agreed:
            check_together(self.agreements)
        replica.come(welcome)
        self._waited[replica.teacher] = 0.0
        self.absent.discard(replica.teacher)
        self.joins[replica.teacher] += 1
        self.trace.joined(replica, welcome)
        if self.handler:
            self.handler.joined(replica)

    def _refused(self, replica: Replica, refused: Refused) -> None:
        if refused.request is None:
            self._refused_hello(replica, refused)
        elif self.handler:
            self.handler.refused(replica, refused)

    def _refused_hello(self, replica: Replica, refused: Refused) -> None:
        who = f"teacher {replica.teacher!r} at {replica.address}"
        if refused.code == "protocol":
            raise ProtocolError(f"{who} cannot read what this student says: {refused.message}")
        if refused.code == "damaged":
            self._drop(replica, f"the way damaged a message: {refused.message}", crashed=True)
            replica.retry_at = self.clock() + RETRY_S
            return
        error = refused_hello(replica.teacher, replica.address, refused)
        if error is not None:
            raise error
        self.postpone(replica, f"{refused.code}: {refused.message}")

    def _goodbye(self, replica: Replica, goodbye: Goodbye) -> None:
        self._drop(replica, f"it said goodbye: {goodbye.reason or 'no reason given'}")

    def _lost(self, replica: Replica, lost: Lost) -> None:
        self._drop(replica, lost.reason, crashed=True)
        replica.retry_at, replica.error = None, lost.error
        if lost.error is None:
            return
        others = [r for r in self.replicas if r.teacher == replica.teacher]
        if isinstance(lost.error, MismatchError) or all(r.error for r in others):
            raise _named(lost.error, replica)
        self.trace.missing(replica, lost.reason)

    def postpone(self, replica: Replica, reason: str) -> None:
        """Leave a replica alone for a moment, then say Hello again."""
        self._drop(replica, reason)
        replica.retry_at = self.clock() + RETRY_S * self._random.uniform(0.5, 1.5)

    def _drop(self, replica: Replica, reason: str, *, crashed: bool = False) -> None:
        replica.down = reason
        if not replica.up:
            return
        replica.welcome = None
        replica.failures += crashed
        self.losses[replica.teacher] += 1
        replica.losses += 1
        self.trace.left(replica, reason)
        if self.handler:
            self.handler.left(replica, crashed=crashed)

    def close(self) -> None:
        """Leave all replicas, without waiting for anything. Safe to call twice."""
        self.closed = True
        _open.discard(self)
        for discovery in self._discoveries:
            discovery.close()
        for replica in self.replicas:
            replica.connection.close()


def _named(error: Exception, replica: Replica) -> Exception:
    if not isinstance(error, PantheonError):
        return error
    return type(error)(f"teacher {replica.teacher!r} at {replica.address}: {error}")


_open: weakref.WeakSet[Fleet] = weakref.WeakSet()


def any_open() -> bool:
    """Whether this process has connections to teachers, which a forked child must not inherit."""
    return bool(_open)
