"""What a teacher's log says of each request; session and number name it at the student's too.

One line for each request and step at DEBUG, for students and what is refused to them at INFO, and
at WARNING where the model is at fault.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from pantheon.wire.messages import Hello, Refused, Scored
from teacher_server.jobs import Job, Session

logger = logging.getLogger(__name__)

ROUTINE = frozenset({"hello", "busy", "draining"})
"""Refusals of a request that say nothing about it."""

FAULTS = frozenset({"error", "finite", "wrong"})
"""Refusals that tell of a fault of the model or its dataset."""


def _about(session: Session, **more: object) -> dict[str, object]:
    return {"session": session.name, "model": session.model, **more}


def _step(job: Job, what: str, **more: object) -> None:
    """One step of one request."""
    if logger.isEnabledFor(logging.DEBUG):
        number, name = job.score.request, job.session.name
        extra = _about(job.session, request=number, rows=job.rows, **more)
        logger.debug("request %d of student %s: %s", number, name, what, extra=extra)


def accepted(job: Job) -> None:
    """A request is going to be answered."""
    _step(job, "accepted")


def given(job: Job, worker: str, number: int) -> None:
    """A worker process has it, under a number of its own."""
    _step(job, "given to a worker process", worker=worker, worker_request=number)


def scored(job: Job, reply: Scored, seconds: float) -> None:
    """A request was answered, so many seconds after it was accepted."""
    if logger.isEnabledFor(logging.DEBUG):
        nbytes = sum(memoryview(p.data).nbytes for p in reply.parts)
        more = {"revision": reply.revision, "bytes": nbytes, "seconds": round(seconds, 6)}
        _step(job, "scored", **more)


def cancelled(job: Job) -> None:
    """Nobody waits for a request any more."""
    _step(job, "cancelled")


def refused(session: Session | None, said: Refused) -> None:
    """A request, or with none a Hello, is not answered.

    Args:
        session: None for somebody who said no Hello.
    """
    level = logging.WARNING if said.code in FAULTS else logging.INFO
    if said.request is not None and said.code in ROUTINE:
        level = logging.DEBUG
    if logger.isEnabledFor(level):
        what = "the Hello" if said.request is None else f"request {said.request}"
        who = "a student" if session is None else f"student {session.name}"
        about = {} if session is None else _about(session)
        extra = {**about, "request": said.request, "code": said.code}
        code, message = said.code, said.message
        logger.log(level, "%s of %s: refused: %s: %s", what, who, code, message, extra=extra)


def hello_refused(hello: Hello, said: Refused) -> None:
    """Somebody who introduced himself is not let in."""
    refused(Session((0, ""), hello.model, name=hello.session), said)


def joined(session: Session, hello: Hello, address: str, revision: str) -> None:
    """A student may ask from now on."""
    logger.info(
        "student %s has joined",
        session.name,
        extra=_about(session, address=address, revision=revision, student_rank=hello.rank),
    )


def left(session: Session, why: str) -> None:
    """A student does not ask any more."""
    more = {"requests": tuple(session.jobs)}
    logger.info("student %s has left: %s", session.name, why, extra=_about(session, **more))


def together(jobs: Sequence[Job]) -> dict[str, object]:
    """What a line about several requests says besides its message; the first of them is named."""
    first = jobs[0]
    return _about(first.session, request=first.score.request, rows=sum(job.rows for job in jobs))
