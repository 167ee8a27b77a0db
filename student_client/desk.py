"""Queries of any inputs to one teacher: queued, sent to the least busy replica, answered."""

from __future__ import annotations

import logging
import queue
from collections import Counter, deque
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

import numpy as np
from torch import Tensor

from pantheon.delivery.lease import Ask
from pantheon.delivery.poison import count_attempt, failed_too_often, forgive_crash
from pantheon.errors import PantheonError, TeacherUnavailable, TransportError
from pantheon.knowledge import Knowledge
from pantheon.schema import KnowledgeSchema
from pantheon.transport.wake import Wake
from pantheon.wire.buffers import from_raw
from pantheon.wire.messages import Cancel, Heartbeat, Refused, Score, Scored
from student_client.check import check_scored, intact
from student_client.fleet import Fleet
from student_client.known import KnownTeacher
from student_client.refusals import LATER, final_error, name_ids, poison_error
from student_client.replica import Replica
from student_client.turns import Turns

logger = logging.getLogger(__name__)

UNANSWERED = ("busy", "timeout")
"""Why a query goes on waiting through nobody's fault; it ends with the patience."""


@dataclass(slots=True, eq=False)
class Query:
    """Something to ask.

    Args:
        score: the message, without its number.
        ids, views: what the answer is labelled with, int64 ``[n]``.
        ask: what replicas are blamed for.
        tries: how often each replica did not answer it, blamed or not.
        since: when it was first sent, or last known to be worked on.
    """

    score: Score
    ids: Tensor
    views: Tensor | None
    future: Future[Knowledge] = field(default_factory=Future)
    ask: Ask = field(default_factory=lambda: Ask("", 0, 0))
    tries: Counter[str] = field(default_factory=Counter)
    since: float | None = None

    def fail(self, error: BaseException) -> None:
        """Give up."""
        if not self.future.done():
            self.future.set_exception(error)


@dataclass(slots=True)
class _Sent:
    query: Query
    replica: Replica
    at: float
    until: float


class Desk:
    """Works off queries in a thread of its own (`run`); the other methods are for any thread.

    Args:
        fleet: the replicas of the one teacher; owned from now on.
        lease: seconds a replica may be silent about a query.
        attempts: refusals after which a query is given up; a crash counts half.
    """

    def __init__(self, fleet: Fleet, lease: float, attempts: int) -> None:
        self._fleet, self._lease, self._attempts = fleet, lease, attempts
        self._name = next(iter(fleet.agreements))
        self._new: queue.SimpleQueue[Query | Future[KnowledgeSchema]] = queue.SimpleQueue()
        self._waiting: deque[Query] = deque()
        self._curious: list[Future[KnowledgeSchema]] = []
        self._sent: dict[int, _Sent] = {}
        self._number = 0
        self._crashes: dict[str, tuple[Query, str]] = {}
        self._turns = Turns()
        self._teacher: KnownTeacher | None = None
        self._stopping = False
        self._over: BaseException | None = None
        self._wake = Wake()
        fleet.handler = self
        fleet.watch(self._wake.fd, self._wake.clear)

    def put(self, query: Query) -> None:
        """Queue a query."""
        self._queue(query)

    def described(self) -> Future[KnowledgeSchema]:
        """The teacher's fields, once it has been reached."""
        future: Future[KnowledgeSchema] = Future()
        self._queue(future)
        return future

    def _queue(self, new: Query | Future[KnowledgeSchema]) -> None:
        self._new.put(new)
        self._wake.set()
        if self._over is not None:
            # `run` may have looked for the last time before this came.
            self._refuse_new(self._over)

    def _refuse_new(self, error: BaseException) -> None:
        while True:
            try:
                new = self._new.get_nowait()
            except queue.Empty:
                return
            future = new.future if isinstance(new, Query) else new
            future.set_exception(error)

    def stop(self) -> None:
        """Have `run` end soon."""
        self._stopping = True
        self._wake.set()

    def run(self) -> None:
        """Work until `stop`, or until something is wrong that waiting cannot mend."""
        over: BaseException = TransportError(
            "the TeacherClient was closed before this was answered"
        )
        while not self._stopping:
            try:
                self._turn()
            except TeacherUnavailable as error:
                self._fail_all(error)
            except BaseException as error:  # noqa: BLE001  # every future raises it
                over = error
                break
        self._fail_all(over)
        self._over = over
        self._refuse_new(over)
        self._fleet.close()
        self._wake.close()

    def _turn(self) -> None:
        self._take_new()
        self._send_waiting()
        now = self._fleet.clock()
        times = [s.until for s in self._sent.values()]
        if self._waiting and (rested := self._turns.next_end(now)) is not None:
            times.append(rested)
        self._fleet.pump(min(times, default=None))
        now = self._fleet.clock()
        for number in [n for n, s in self._sent.items() if s.until <= now]:
            self._turns.silent(self._sent[number].replica.address, now + self._lease)
            silence = f"no sign of life for {self._lease:g} s"
            self._again(number, "timeout", silence, blame=False)

    def _take_new(self) -> None:
        while not self._new.empty():
            new = self._new.get()
            if isinstance(new, Query):
                if new.future.set_running_or_notify_cancel():
                    self._waiting.append(new)
            else:
                self._curious.append(new)
        self._tell()

    def _tell(self) -> None:
        if self._teacher is not None:
            for future in self._curious:
                future.set_result(self._teacher.welcome.schema)
            self._curious.clear()

    def _fail_all(self, error: BaseException) -> None:
        self._cancel(self._sent)
        for query in [*self._waiting, *(s.query for s in self._sent.values())]:
            query.fail(error)
        for future in self._curious:
            future.set_exception(error)
        self._waiting.clear()
        self._sent.clear()
        self._curious.clear()

    def _cancel(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self._sent[number].replica.send(Cancel((number,)))

    def _send_waiting(self) -> None:
        now, load = self._fleet.clock(), self._load()
        passed: list[Query] = []
        while self._waiting and any(self._turns.open(r, n, now) for r, n in load.items()):
            query = self._waiting.popleft()
            replica = self._turns.choose(query.tries, load, now)
            if replica is None:
                passed.append(query)
            elif self._send(query, replica, now):
                load[replica] += 1
            else:
                del load[replica]
        self._waiting.extendleft(reversed(passed))

    def _send(self, query: Query, replica: Replica, now: float) -> bool:
        self._number += 1
        query.since = now if query.since is None else query.since
        self._sent[self._number] = _Sent(query, replica, now, now + self._lease)
        if not replica.send(replace(query.score, request=self._number)):
            self._fleet.postpone(replica, "it takes no messages")
            return False
        self._fleet.trace.sent(replica, self._number, len(query.ids))
        return True

    def _load(self) -> dict[Replica, int]:
        """The replicas that are up, and how many queries each has."""
        load = dict.fromkeys(self._fleet.up(self._name), 0)
        for sent in self._sent.values():
            if sent.replica in load:
                load[sent.replica] += 1
        return load

    def joined(self, replica: Replica) -> None:
        """The teacher has been reached."""
        if self._teacher is None and replica.welcome is not None:
            self._teacher = KnownTeacher.of(self._name, replica.welcome, None)
        blamed = self._crashes.pop(replica.address, None)
        if replica.survived and blamed is not None:
            query, reason = blamed
            forgive_crash(query.ask, replica.address, reason)
        self._tell()

    def gone(self, teacher: str) -> bool:
        """A query has no other teacher to ask."""
        return False

    def left(self, replica: Replica, *, crashed: bool) -> None:
        """Ask again what a replica took with it; the oldest is blamed for a crash."""
        lost = [n for n, s in self._sent.items() if s.replica is replica]
        if crashed and lost:
            self._crashes[replica.address] = self._sent[lost[0]].query, replica.down
        for number in lost:
            self._again(number, "lost", replica.down, blame=crashed and number == lost[0])

    def working(self, replica: Replica, message: Heartbeat) -> None:
        """Give a replica more time for what it works on."""
        now = self._fleet.clock()
        self._turns.heard(replica.address)
        for number in message.requests:
            if (sent := self._sent.get(number)) is not None:
                sent.until, sent.query.since = now + self._lease, now

    def scored(self, replica: Replica, message: Scored) -> None:
        """Answer a query."""
        self._turns.answered(replica.address)
        sent = self._sent.get(message.request)
        if sent is None or sent.replica is not replica or self._teacher is None:
            self._fleet.trace.duplicate(replica, message.request)
            return
        try:
            check_scored(self._teacher, replica, message, len(sent.query.ids))
            if (wrong := intact(replica, message)) is not None:
                self._fleet.trace.corrupt(replica, message.request, wrong)
                self._again(message.request, "checksum", wrong)
                return
            fields = self._teacher.codec.decode([from_raw(p) for p in message.parts])
            answer = Knowledge(sent.query.ids, fields, sent.query.views)
        except PantheonError as error:
            sent.query.fail(error)
        else:
            self._fleet.trace.answered(replica, message, self._fleet.clock() - sent.at)
            sent.query.future.set_result(answer)
        del self._sent[message.request]

    def refused(self, replica: Replica, message: Refused) -> None:
        """Fail a query, or ask again."""
        sent = self._sent.get(message.request or 0)
        if sent is None or sent.replica is not replica:
            return
        self._fleet.trace.refused(replica, message)
        self._turns.heard(replica.address)
        if message.code == "busy":
            self._turns.busy(replica.address, self._fleet.clock())
            self._again(message.request or 0, "busy", message.message, blame=False)
            return
        if message.code in LATER:
            self._fleet.postpone(replica, f"{message.code}: {message.message}")
            return
        ids = np.asarray(sent.query.ids)
        error = final_error(self._name, replica.address, message.code, message.message, ids)
        if error is None:
            self._again(message.request or 0, message.code, message.message)
            return
        del self._sent[message.request or 0]
        sent.query.fail(error)

    def _again(self, number: int, code: str, reason: str, *, blame: bool = True) -> None:
        sent = self._sent.pop(number)
        query, where = sent.query, sent.replica.address
        query.tries[where] += 1
        if blame:
            count_attempt(query.ask, where, reason, crash=code == "lost")
        live = [r.address for r in self._fleet.up(self._name)]
        ids = np.asarray(query.ids)
        if failed_too_often(query.ask, live, self._attempts):
            attempts, last = sum(query.ask.blame.values()), query.ask.reasons[-1]
            query.fail(poison_error(self._name, code, attempts, last, ids))
        elif code in UNANSWERED and (waited := self._in_vain(query, live)):
            query.fail(
                TeacherUnavailable(
                    f"teacher {self._name!r} has not answered for ids {name_ids(ids)} within "
                    f"{waited:.1f} s ({where}: {reason}); see whether it is overloaded or "
                    f"hangs, or wait longer with patience= (now {self._fleet.patience:g} s)"
                )
            )
        else:
            about = self._fleet.trace.about(self._name, where, request=number, code=code)
            logger.info("query %d to %s: %s; asking again", number, where, reason, extra=about)
            self._waiting.append(query)

    def _in_vain(self, query: Query, live: Iterable[str]) -> float:
        """Seconds for which all have been asked, where they are more than the patience; else 0."""
        waited = self._fleet.clock() - (query.since or 0.0)
        tried = all(query.tries[address] for address in live)
        return waited if tried and waited >= self._fleet.patience else 0.0
