"""The server's loop: the one thread that owns its listeners and decides who is answered when."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import zmq

from pantheon.transport import Listener, Lost
from pantheon.transport.wake import Wake
from pantheon.wire.messages import (
    Cancel,
    Goodbye,
    Heartbeat,
    Hello,
    Inquiry,
    Message,
    Refused,
    Score,
)
from teacher_server import trace
from teacher_server.host import HEARTBEAT_S, Host
from teacher_server.jobs import Job, PeerKey, Session
from teacher_server.sessions import check_score, rows_of, welcome
from teacher_server.stats import ServerStats, status
from teacher_server.unsent import COUNTED, Unsent
from teacher_server.workers import Reply

logger = logging.getLogger(__name__)

HEARD = 256
HEARD_S = 0.02
"""Messages of one listener that are heard, and seconds in which they are, before the others, the
workers and the clock."""

SESSIONS = 4096
"""Students of one server at once."""

SESSIONS_OF_ONE = 1024
"""Students at once that come with one key or certificate."""

IDLE_S = 5.0
"""Seconds between two looks around when nothing happens."""


class Engine:
    """Sessions, requests and replies of one server.

    Args:
        hosts: the models by name.
        listeners: where students come in.
        wake: set by other threads that left something to do.
        cap: bytes of waiting requests and of unsent replies, each, for the whole server.
    """

    def __init__(
        self, hosts: Mapping[str, Host], listeners: Sequence[Listener], wake: Wake, cap: int
    ) -> None:
        self._hosts = dict(hosts)
        self._listeners = list(listeners)
        self._wake = wake
        self._cap = cap
        self._unsent = Unsent(cap, wake.set, self._client)
        self._sessions: dict[PeerKey, Session] = {}
        self._commands: deque[Callable[[], None]] = deque()
        self._next_beat = 0.0
        self._deadline: float | None = None
        self._refusals: Counter[str] = Counter()
        self._cancelled = 0
        self._started = self._turned = time.monotonic()
        self._poller = zmq.Poller()
        self._owners: dict[Any, int] = {}
        self._watched: tuple[Any, ...] = ()
        self._unheard: set[int] = set()

    # What other threads may call.

    def drain(self, seconds: float) -> None:
        """Refuse new work, finish and send what was accepted within some seconds, and end."""
        self._commands.append(lambda: self._drain(seconds))
        self._wake.set()

    @property
    def borrowed(self) -> bool:
        """Whether the loop is inside a forward of a model, and hears nothing."""
        return any(w.borrowed for h in self._hosts.values() for w in h.workers)

    def leave(self) -> None:
        """Let go of what would keep the process from ending, as the loop never will."""
        for listener in self._listeners:
            listener.leave()

    def stats(self) -> ServerStats:
        """The counters now."""
        now = time.monotonic()
        models = {name: host.stats(now) for name, host in self._hosts.items()}
        each = models.values()
        return ServerStats(
            requests=sum(m.requests for m in each),
            rows=sum(m.rows for m in each),
            bytes=sum(m.bytes for m in each),
            refusals=self._refusals.copy(),
            sessions=len(self._sessions),
            queued=sum(m.queued for m in each),
            scoring=sum(m.scoring for m in each),
            unsent=self._unsent.total,
            cancelled=self._cancelled,
            restarts=sum(m.restarts for m in each),
            malformed=sum(listener.malformed for listener in self._listeners),
            draining=self.draining,
            uptime=now - self._started,
            turned=now - self._turned,
            models=models,
        )

    def revisions(self) -> dict[str, str]:
        """The models' revisions by name."""
        return {name: host.own.revision for name, host in self._hosts.items()}

    @property
    def draining(self) -> bool:
        """Whether it takes no new work, and is about to end."""
        return self._deadline is not None

    # The loop.

    def run(self) -> None:
        """Serve until drained."""
        self._poller.register(self._wake.fd, zmq.POLLIN)
        for number, listener in enumerate(self._listeners):
            for pollable in listener.pollables:
                self._poller.register(pollable, zmq.POLLIN)
                self._owners[pollable] = number
        while not self._over():
            self._watch_workers()
            ready = self._poller.poll(math.ceil(self._patience() * 1000))
            if any(p == self._wake.fd for p, _ in ready):
                self._wake.clear()
            self._turn({self._owners[p] for p, _ in ready if p in self._owners})
        for key in list(self._sessions):
            self._send(key, Goodbye("the teacher stops serving"))

    def _turn(self, listeners: set[int]) -> None:
        """Hear everybody, send what is done, hand out work."""
        self._turned = time.monotonic()  # What is heard now arrived now, not before the wait.
        while self._commands:
            self._commands.popleft()()
        listeners, self._unheard = listeners | self._unheard, set()
        for number in listeners:
            self._listen(number)
        now = self._turned = time.monotonic()
        for host in self._hosts.values():
            for job, reply in host.collect(now):
                self._reply(job, reply)
        self._unsent.waiting = False
        self._unsent.settle()
        for host in self._hosts.values():
            host.dispatch(self._unsent.ready)
        if now >= self._next_beat:
            self._beat(now)

    def _listen(self, number: int) -> None:
        """Hear what came in by one listener; a flood of messages is heard in turns."""
        until = time.monotonic() + HEARD_S
        for _ in range(HEARD):
            if (received := self._listeners[number].receive()) is None:
                return
            self._hear((number, received[0]), received[1])
            if time.monotonic() > until:
                break
        self._unheard.add(number)

    def _watch_workers(self) -> None:
        """Poll what the workers have to poll; it changes when one is started again."""
        watched = tuple(p for h in self._hosts.values() for w in h.workers for p in w.pollables)
        if watched != self._watched:
            for pollable in self._watched:
                self._poller.unregister(pollable)
            for pollable in watched:
                self._poller.register(pollable, zmq.POLLIN)
            self._watched = watched

    def _patience(self) -> float:
        """Seconds until something is due."""
        if self._unheard:
            return 0.0
        now = time.monotonic()
        due = [w.due for h in self._hosts.values() for w in h.workers]
        times = [t for t in (*due, self._deadline) if t is not None]
        if self._sessions:
            times.append(self._next_beat)
        return max(0.0, min([now + IDLE_S, *times]) - now)

    def _over(self) -> bool:
        if self._deadline is None:
            return False
        if time.monotonic() >= self._deadline:
            return True
        # What is queued for a slow student is lost with the sockets.
        busy = any(session.jobs for session in self._sessions.values())
        return not busy and self._unsent.all_sent()

    def _drain(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        self._deadline = end if self._deadline is None else min(self._deadline, end)

    def _beat(self, now: float) -> None:
        self._next_beat = now + HEARTBEAT_S
        for key, session in list(self._sessions.items()):
            if session.jobs:
                self._send(key, Heartbeat(tuple(session.jobs)))

    # Messages.

    def _send(self, key: PeerKey, message: Message) -> bool:
        return self._listeners[key[0]].send(key[1], message)

    def _refuse(self, key: PeerKey, refused: Refused, hello: Hello | None = None) -> None:
        if hello is None:
            trace.refused(self._sessions.get(key), refused)
        else:
            trace.hello_refused(hello, refused)
        self._refusals[refused.code] += 1
        self._send(key, refused)

    def _hear(self, key: PeerKey, message: Message | Lost) -> None:
        match message:
            case Score():
                self._on_score(key, message)
            case Cancel():
                self._on_cancel(key, message)
            case Hello():
                self._on_hello(key, message)
            case Goodbye() | Lost():
                self._forget(key, message.reason or "it said goodbye")
            case Inquiry():
                self._send(key, status(self.stats(), self.revisions()))
            case _:
                logger.warning("ignored a %s from a student", type(message).__name__)

    def _on_hello(self, key: PeerKey, hello: Hello) -> None:
        self._forget(key, "it says Hello again")
        if self._deadline is not None:
            self._refuse(key, Refused(None, "draining", "this teacher is about to stop"), hello)
            return
        client = self._listeners[key[0]].client(key[1])
        if full := self._full(client):
            self._refuse(key, Refused(None, "busy", full), hello)
            return
        answer = welcome(hello, {name: host.own for name, host in self._hosts.items()})
        if isinstance(answer, Refused):
            self._refuse(key, answer, hello)
            return
        session = Session(key, answer.model, hello.fields, hello.integrity, hello.session, client)
        self._sessions[key] = session
        self._send(key, answer)
        trace.joined(session, hello, self._listeners[key[0]].address, answer.revision)

    def _client(self, key: PeerKey) -> Hashable:
        session = self._sessions.get(key)
        return None if session is None else session.client

    def _full(self, client: Hashable) -> str:
        """Why nobody more is let in, or nobody more who is a client; empty where all is well."""
        if len(self._sessions) >= SESSIONS:
            return f"{SESSIONS} students are connected already"
        if client is None:
            return ""
        own = sum(session.client == client for session in self._sessions.values())
        full = f"{SESSIONS_OF_ONE} students with this key or certificate are connected already"
        return full if own >= SESSIONS_OF_ONE else ""

    def _on_score(self, key: PeerKey, score: Score) -> None:
        session = self._sessions.get(key)
        if session is None:
            self._refuse(key, Refused(score.request, "hello", "say Hello before Score"))
            return
        host = self._hosts[session.model]
        job = Job(session, score, rows_of(score), _held_bytes(score), self._turned)
        refused = self._cannot_accept(job) or check_score(score, job.rows, host.own, host.row_bytes)
        if refused is not None:
            self._refuse(key, refused)
            return
        session.jobs[score.request] = job
        host.schedule.add(job)
        trace.accepted(job)

    def _cannot_accept(self, job: Job) -> Refused | None:
        """Why a request is not accepted now."""
        request, session = job.score.request, job.session
        if self._deadline is not None:
            return Refused(request, "draining", "this teacher is about to stop; ask another")
        limits = self._hosts[session.model].own.limits
        if request in session.jobs:
            return Refused(request, "inputs", f"request {request} is being answered already")
        if len(session.jobs) >= limits.max_in_flight:
            return Refused(
                request,
                "busy",
                f"{len(session.jobs)} requests in flight; at most {limits.max_in_flight} are kept",
            )
        waiting = sum(host.schedule.nbytes for host in self._hosts.values())
        if waiting + job.nbytes > self._cap:
            return Refused(request, "busy", f"{waiting} bytes of requests wait already; ask later")
        return None

    def _on_cancel(self, key: PeerKey, cancel: Cancel) -> None:
        session = self._sessions.get(key)
        for request in cancel.requests if session else ():
            job = session.jobs.pop(request, None) if session else None
            if job is not None:
                self._cancel(job)

    def _forget(self, key: PeerKey, why: str) -> None:
        """A student left, or says Hello again: nobody waits for its requests."""
        session = self._sessions.pop(key, None)
        if session is not None:
            trace.left(session, why)
            for job in session.jobs.values():
                self._cancel(job)
            session.jobs.clear()

    def _cancel(self, job: Job) -> None:
        job.cancelled = True
        trace.cancelled(job)
        self._cancelled += 1
        self._hosts[job.session.model].schedule.remove(job)

    def _reply(self, job: Job, reply: Reply) -> None:
        session, request = job.session, job.score.request
        if session.jobs.get(request) is not job:
            return
        del session.jobs[request]
        if isinstance(reply, Refused):
            self._refuse(session.key, reply)
            return
        self._hosts[session.model].counts.count(reply, self._turned - job.since)
        trace.scored(job, reply, self._turned - job.since)
        if self._send(session.key, reply) and (least := self._counts_unsent(session.key)):
            self._unsent.add(session.key, reply, least)

    def _counts_unsent(self, key: PeerKey) -> int | None:
        """Bytes from which a buffer counts as unsent, None where none does."""
        return COUNTED.get(self._listeners[key[0]].address.partition("://")[0])


def _held_bytes(score: Score) -> int:
    """Bytes that a request takes while it waits."""
    arrays = [v.nbytes for v in (score.ids, score.views) if v is not None]
    return sum(arrays) + sum(memoryview(raw.data).nbytes for raw in score.inputs.values())
