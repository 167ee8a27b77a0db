"""One worker process as the server sees it: given work, watched, started again when it dies."""

from __future__ import annotations

import contextlib
import itertools
import logging
import multiprocessing
import signal
import threading
from collections import deque
from collections.abc import Sequence
from multiprocessing.context import SpawnProcess
from typing import Any

from pantheon import errors
from pantheon.errors import ConfigError, PantheonError, TeacherError
from pantheon.transport import Connected, Connection, Lost, connect
from pantheon.transport.wake import Wake
from pantheon.wire.messages import Hello, Refused, Score, Scored, Welcome
from teacher_server import trace
from teacher_server.child import Work, run
from teacher_server.jobs import Job
from teacher_server.workers import AHEAD, Reply, Worker

logger = logging.getLogger(__name__)

BACK_OFF_S = 0.1
BACK_OFF_MAX_S = 10.0
STEADY_S = 30.0
"""Seconds after which a worker that dies is started again without waiting."""

HOPELESS = 2
"""Failed starts in a row after which nobody is kept waiting for this worker."""

STOP_S = 1.0
"""Seconds a process may take to end before it is killed."""

Wanted = tuple[tuple[str, ...] | None, bool]
"""Fields and integrity of a session: said in the Hello, so each needs a connection of its own."""

GUARD = (
    "several devices mean processes that get model and dataset by pickling: define both in a "
    "module, not in a function or an interactive session, and start the server under "
    "`if __name__ == '__main__':`"
)


class _Link:
    """A connection to the process of some name, for sessions that want the same."""

    def __init__(self, address: str, wanted: Wanted, name: str) -> None:
        self.connection: Connection = connect(address)
        self.name = name
        self.wanted = wanted
        self.jobs: dict[int, Job] = {}
        self.welcome: Welcome | None = None
        self.was_up = False

    def send(self, number: int, job: Job) -> None:
        """Send a request; before the Welcome it is kept, and sent by `flush`."""
        self.jobs[number] = job
        if self.welcome is not None:
            self._score(number, job)

    def greet(self) -> None:
        """Say Hello."""
        self.was_up = True
        fields, integrity = self.wanted
        self.connection.send(Hello("server", fields=fields, integrity=integrity))

    def flush(self, welcome: Welcome) -> None:
        """Send what was kept."""
        self.welcome = welcome
        for number, job in self.jobs.items():
            self._score(number, job)

    def _score(self, number: int, job: Job) -> None:
        trace.given(job, self.name, number)
        self.connection.send(Score(number, job.score.ids, job.score.views, job.score.inputs))


class ProcessWorker(Worker):
    """A process that runs the model on one device.

    Args:
        work: what it is for.
        number: of the worker.
        folder: where its socket goes.
        wake: set when there is something to collect.

    Attributes:
        welcome: what the process said, once it can answer.
        failure: why it ended before it could ever answer.
        restarts: how often it was started again.
    """

    def __init__(self, work: Work, number: int, folder: str, wake: Wake) -> None:
        self.name = f"worker {number} ({work.device})"
        self.welcome: Welcome | None = None
        self.failure: PantheonError | None = None
        self._work, self._number, self._folder, self._wake = work, number, folder, wake
        self._expected: Welcome | None = None
        self._process: SpawnProcess | None = None
        self._starter: threading.Thread | None = None
        self._start_error: PantheonError | None = None
        self._links: dict[Wanted, _Link] = {}
        self._numbers = itertools.count(1)
        self._starts = itertools.count(1)
        self._batches: deque[set[Job]] = deque()
        self._lost: list[Job] = []
        self._deaths = self._failed_starts = 0
        self._ready_at = 0.0
        self._stopped = False

    # Starting and ending.

    def launch(self) -> None:
        """Begin to start the process; pickling a large model must not hold up the server's loop."""
        self.due = self._start_error = self.welcome = None
        self._address = f"ipc://{self._folder}/{self._number}-{next(self._starts)}.sock"
        context = multiprocessing.get_context("spawn")
        self._errors, theirs = context.Pipe(duplex=False)
        process = context.Process(
            target=run, args=(self._work, self._address, theirs), name=self.name, daemon=True
        )
        self._starter = threading.Thread(
            target=self._start, args=(process, theirs), name=f"pantheon-{self.name}", daemon=True
        )
        self._starter.start()

    def _start(self, process: SpawnProcess, theirs: Any) -> None:
        # The process inherits this thread's mask: Ctrl-C cannot hit it before it ignores it.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            process.start()
            self._process = process
        except Exception as error:
            logger.debug("%s could not be started", self.name, exc_info=True)
            self._start_error = ConfigError(
                f"{self.name} could not be started: {type(error).__name__}: {error}; {GUARD}"
            )
        finally:
            theirs.close()
            self._wake.set()

    def terminate(self) -> None:
        """Ask the process to end, without waiting."""
        self._stopped = True
        if self._starter is not None:
            self._starter.join(STOP_S)
        if self._process is not None:
            self._process.terminate()

    def stop(self) -> None:
        self.terminate()
        self._close_links()
        if self._process is not None:
            self._process.join(STOP_S)
            if self._process.is_alive():
                self._process.kill()
                self._process.join(STOP_S)

    def expect(self, welcome: Welcome) -> None:
        """What the process must say from now on, whenever it is started."""
        self._expected = welcome

    @property
    def hopeless(self) -> bool:
        """Whether it died again and again before it could answer."""
        return self._failed_starts >= HOPELESS

    # Working.

    @property
    def free(self) -> bool:
        suspect = any(job.crashes for batch in self._batches for job in batch)
        return self.welcome is not None and len(self._batches) < AHEAD and not suspect

    def submit(self, jobs: Sequence[Job]) -> None:
        self._batches.append(set(jobs))
        self.rows += sum(job.rows for job in jobs)
        for job in jobs:
            wanted = (job.session.fields, job.session.integrity)
            self._link(wanted).send(next(self._numbers), job)

    def _link(self, wanted: Wanted) -> _Link:
        if wanted not in self._links:
            for other, link in list(self._links.items()):
                if not link.jobs and other != (None, False):
                    link.connection.close()
                    del self._links[other]
            self._links[wanted] = _Link(self._address, wanted, self.name)
        return self._links[wanted]

    def jobs(self) -> list[Job]:
        return [job for link in list(self._links.values()) for job in list(link.jobs.values())]

    def lost(self) -> list[Job]:
        lost, self._lost = self._lost, []
        return lost

    @property
    def pollables(self) -> tuple[Any, ...]:
        found = tuple(p for link in self._links.values() for p in link.connection.pollables)
        return found if self._process is None else (*found, self._process.sentinel)

    def collect(self, now: float) -> list[tuple[Job, Reply]]:
        if self.due is not None:
            if now >= self.due and not self._stopped:
                self.restarts += 1
                self.launch()
            return []
        if self._start_error is not None:
            self._died(str(self._start_error), now)
        if self._process is None:
            return []
        self._link((None, False))
        found = [answer for link in list(self._links.values()) for answer in self._read(link, now)]
        if self._process is not None and not self._process.is_alive():
            self._died(f"{self.name} ended with status {self._process.exitcode}", now)
        return found

    def _read(self, link: _Link, now: float) -> list[tuple[Job, Reply]]:
        """What the process said over one connection."""
        found: list[tuple[Job, Reply]] = []
        while self._process is not None and (event := link.connection.receive()) is not None:
            match event:
                case Connected():
                    link.greet()
                case Welcome():
                    self._welcomed(link, event, now)
                case Scored() | Refused() if event.request in link.jobs:
                    found.append(self._answered(link, event))
                case Refused(request=None):
                    self._died(f"{self.name} refused its server: {event.message}", now)
                case Lost() if link.was_up:
                    self._died(f"{self.name} was lost: {event.reason}", now)
        return found

    def _welcomed(self, link: _Link, welcome: Welcome, now: float) -> None:
        own = self._expected
        if link.wanted == (None, False):
            if own and (own.revision, own.schema) != (welcome.revision, welcome.schema):
                self._died(
                    f"{self.name} came back as revision {welcome.revision!r}, expected "
                    f"{own.revision!r}; do not change the model while it is served",
                    now,
                )
                return
            self.welcome, self._ready_at, self._failed_starts = welcome, now, 0
        link.flush(welcome)

    def _answered(self, link: _Link, reply: Scored | Refused) -> tuple[Job, Reply]:
        job = link.jobs.pop(reply.request or 0)
        self.rows -= job.rows
        for batch in self._batches:
            batch.discard(job)
        while self._batches and not self._batches[0]:
            self._batches.popleft()
        request = job.score.request
        if isinstance(reply, Refused):
            return job, Refused(request, reply.code, reply.message)
        return job, Scored(request, reply.revision, reply.rows, reply.parts, reply.digest)

    # Dying.

    def _died(self, why: str, now: float) -> None:
        """The process is gone or must go: its work is lost, and it is started again later."""
        said = self._said()
        if self._expected is None:
            self.failure = said or self._start_error or TeacherError(f"{why}; {GUARD}")
        self._lost += self.jobs()
        self._close_links()
        self._batches.clear()
        self.rows = 0
        if self._process is not None:
            self._process.kill()
            threading.Thread(target=self._process.join, daemon=True).start()
        self._failed_starts = 0 if self.welcome else self._failed_starts + 1
        self._process, self.welcome, self._start_error = None, None, None
        steady = self._ready_at and now - self._ready_at > STEADY_S
        self._deaths = 1 if steady else self._deaths + 1
        delay = min(BACK_OFF_MAX_S, BACK_OFF_S * 2 ** (self._deaths - 1))
        self.due = now + delay
        if not self._stopped and self.failure is None:
            logger.warning(
                "%s; %d requests go to other workers, it is started again in %.1f s%s",
                why,
                len(self._lost),
                delay,
                f" ({said})" if said else "",
            )

    def _said(self) -> PantheonError | None:
        """The error the process reported before it ended."""
        with contextlib.suppress(EOFError, OSError):
            if self._errors.poll():
                name, _, message = self._errors.recv_bytes(1 << 16).decode().partition(": ")
                kind = getattr(errors, name, TeacherError)
                return kind(message) if issubclass(kind, PantheonError) else TeacherError(message)
        return None

    def _close_links(self) -> None:
        for link in self._links.values():
            link.connection.close()
        self._links.clear()
