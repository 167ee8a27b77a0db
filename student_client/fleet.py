"""All replicas of all teachers: one poller, the handshakes, patience with those that are down."""

from __future__ import annotations

import logging
import math
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import zmq

from pantheon.errors import MismatchError, PantheonError, ProtocolError, TeacherUnavailable
from pantheon.messages import Goodbye, Heartbeat, Refused, Scored, Welcome
from pantheon.transport import Connected, Event, Lost
from student_client.handshake import Agreement, check_together, refused_hello
from student_client.replica import Replica

logger = logging.getLogger(__name__)

LOOK_S = 0.1
"""Seconds between two looks at a replica that is down: its connection keeps its timers by them."""

RETRY_S = 0.5
"""Seconds until a replica that asked to come later is greeted again."""


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


class Fleet:
    """The replicas of some teachers, driven by one thread inside `pump`.

    Args:
        replicas: all of them.
        agreements: per teacher, what its replicas have to agree on.
        patience: seconds of waiting without any replica of a teacher after which it is given up.
        clock: seconds.

    Attributes:
        losses: per teacher, how often a replica that was up went away.
    """

    def __init__(
        self,
        replicas: Iterable[Replica],
        agreements: Mapping[str, Agreement],
        patience: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.replicas = tuple(replicas)
        self.agreements = dict(agreements)
        self.patience, self.clock = patience, clock
        self.handler: Handler | None = None
        self.closed = False
        self.losses: Counter[str] = Counter()
        self._waited = dict.fromkeys(agreements, 0.0)
        self._poller = zmq.Poller()
        self._owner: dict[Any, Replica] = {}
        for replica in self.replicas:
            for pollable in replica.connection.pollables:
                self._poller.register(pollable, zmq.POLLIN)
                self._owner[pollable] = replica
        self._read: dict[type, Callable[[Replica, Any], None]] = {
            Scored: self._scored,
            Heartbeat: self._working,
            Refused: self._refused,
            Welcome: self._welcome,
            Connected: self._connected,
            Lost: self._lost,
            Goodbye: self._goodbye,
        }
        self._extra: dict[Any, Callable[[], None]] = {}
        _open.add(self)

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
        down = [r for r in self.replicas if r.welcome is None]
        for pollable, _ in self._poller.poll(self._timeout(before, until, down)):
            if pollable in self._extra:
                self._extra[pollable]()
            else:
                self._drain(self._owner[pollable])
        if down:
            now = self.clock()
            self._look_after(down, now)
            self._lose_patience(now - before)

    def _timeout(self, now: float, until: float | None, down: list[Replica]) -> int | None:
        limits = [] if until is None else [until - now]
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
            if self._waited[teacher] >= self.patience:
                seconds, self._waited[teacher] = self._waited[teacher], 0.0
                raise self._given_up(teacher, seconds)

    def _given_up(self, teacher: str, seconds: float) -> TeacherUnavailable:
        replicas = [r for r in self.replicas if r.teacher == teacher]
        where = "; ".join(f"{r.address}: {r.down}" for r in replicas)
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
        while (event := connection.receive()) is not None:
            self._handle(replica, event)

    def _handle(self, replica: Replica, event: Event | None) -> None:
        read = self._read.get(type(event))
        if read is not None:
            read(replica, event)

    def _scored(self, replica: Replica, message: Scored) -> None:
        if self.handler:
            self.handler.scored(replica, message)

    def _working(self, replica: Replica, message: Heartbeat) -> None:
        if self.handler:
            self.handler.working(replica, message)

    def _connected(self, replica: Replica, _: Connected) -> None:
        self._drop(replica, "connected, no answer to our Hello yet")
        replica.error = None
        replica.send(replica.hello)

    def _welcome(self, replica: Replica, welcome: Welcome) -> None:
        self.agreements[replica.teacher].accept(welcome, replica.address)
        if self.agreed:
            check_together(self.agreements)
        replica.welcome = welcome
        self._waited[replica.teacher] = 0.0
        logger.info("teacher %r at %s: %s", replica.teacher, replica.address, welcome.revision)
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

    def postpone(self, replica: Replica, reason: str) -> None:
        """Leave a replica alone for a moment, then say Hello again."""
        self._drop(replica, reason)
        replica.retry_at = self.clock() + RETRY_S

    def _drop(self, replica: Replica, reason: str, *, crashed: bool = False) -> None:
        replica.down = reason
        if not replica.up:
            return
        replica.welcome = None
        self.losses[replica.teacher] += 1
        logger.warning("lost teacher %r at %s: %s", replica.teacher, replica.address, reason)
        if self.handler:
            self.handler.left(replica, crashed=crashed)

    def close(self) -> None:
        """Leave all replicas, without waiting for anything. Safe to call twice."""
        self.closed = True
        _open.discard(self)
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
