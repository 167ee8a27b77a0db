"""What a student's log says of each request; session and number name it at the teacher's too.

One line for each request and step at DEBUG, for what happens to replicas at INFO, and at WARNING
for what costs time or may be wrong.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from pantheon.delivery.ledger import Assignment, Poisoned
from pantheon.wire.messages import Refused, Scored, Welcome
from student_client.refusals import LATER
from student_client.replica import Replica

logger = logging.getLogger(__name__)


class Trace:
    """The log of one session.

    Args:
        session: its name, as in `pantheon.wire.messages.Hello`.
    """

    def __init__(self, session: str) -> None:
        self.session = session

    def about(self, teacher: str, address: str, **more: object) -> dict[str, object]:
        """What a line says besides its message."""
        return {"session": self.session, "teacher": teacher, "address": address, **more}

    def _step(self, replica: Replica, request: int, what: str, **more: object) -> None:
        """One step of one request."""
        if logger.isEnabledFor(logging.DEBUG):
            extra = self.about(replica.teacher, replica.address, request=request, **more)
            logger.debug(
                "request %d to teacher %r at %s: %s",
                request,
                replica.teacher,
                replica.address,
                what,
                extra=extra,
            )

    # Requests.

    def sent(self, replica: Replica, request: int, rows: int, **more: int) -> None:
        """A replica is asked."""
        self._step(replica, request, "sent", rows=rows, **more)

    def asked_twice(self, replica: Replica, request: int, assignment: Assignment) -> None:
        """Another replica is asked what was answered, to compare the two."""
        more = {"start": assignment.start, "first": assignment.lease}
        self._step(replica, request, "sent, to compare the answers", **more)

    def answered(self, replica: Replica, answer: Scored, seconds: float) -> None:
        """The first answer to a request came."""
        if logger.isEnabledFor(logging.DEBUG):
            nbytes = sum(memoryview(p.data).nbytes for p in answer.parts)
            more = {"rows": answer.rows, "bytes": nbytes, "seconds": round(seconds, 6)}
            self._step(replica, answer.request, "answered", **more)

    def duplicate(self, replica: Replica, request: int) -> None:
        """An answer came that nobody waits for."""
        self._step(replica, request, "a duplicate is dropped")

    def refused(self, replica: Replica, refused: Refused) -> None:
        """A replica did not answer a request; what follows is said by others."""
        level = logging.DEBUG if refused.code in LATER else logging.WARNING
        if logger.isEnabledFor(level):
            logger.log(
                level,
                "request %d to teacher %r at %s: refused: %s: %s",
                refused.request or 0,
                replica.teacher,
                replica.address,
                refused.code,
                refused.message,
                extra=self.about(
                    replica.teacher, replica.address, request=refused.request, code=refused.code
                ),
            )

    def corrupt(self, replica: Replica, request: int, wrong: str) -> None:
        """An answer was damaged on its way."""
        logger.warning(
            "request %d to teacher %r at %s: %s",
            request,
            replica.teacher,
            replica.address,
            wrong,
            extra=self.about(replica.teacher, replica.address, request=request, code="checksum"),
        )

    def lost(self, replica: Replica, requests: Iterable[int]) -> None:
        """A replica left, and will not answer these."""
        for request in requests:
            self._step(replica, request, "its replica left")

    def expired(self, assignment: Assignment, seconds: float) -> None:
        """A lease ran out."""
        logger.warning(
            "request %d to teacher %r at %s: nothing was said of it for %g s; asking again",
            assignment.lease,
            assignment.teacher,
            assignment.replica,
            seconds,
            extra=self.about(
                assignment.teacher,
                assignment.replica,
                request=assignment.lease,
                start=assignment.start,
                rows=assignment.stop - assignment.start,
                seconds=seconds,
            ),
        )

    def suspected(self, teacher: str, address: str, taken: Sequence[int], seconds: float) -> None:
        """A replica is late, and what it holds is given to others."""
        logger.warning(
            "teacher %r at %s has not answered for %.3g s; others are asked instead",
            teacher,
            address,
            seconds,
            extra=self.about(teacher, address, requests=taken, seconds=seconds),
        )

    def stalled(self, teacher: str, where: Sequence[str], row: int, seconds: float) -> None:
        """What the student waits for is worked on, and not answered."""
        if where:
            logger.warning(
                "waiting for teacher %r, for row %d, for %.3g s, though it is there (%s): see "
                "whether a forward of it hangs",
                teacher,
                row,
                seconds,
                ", ".join(where),
                extra={
                    "session": self.session,
                    "teacher": teacher,
                    "start": row,
                    "seconds": seconds,
                },
            )

    def poisoned(self, found: Poisoned, code: str) -> None:
        """A request is given up."""
        logger.error(
            "teacher %r failed %d times on rows %d to %d: %s",
            found.teacher,
            found.attempts,
            found.start,
            found.stop - 1,
            found.reasons[-1],
            extra={
                "session": self.session,
                "teacher": found.teacher,
                "requests": found.leases,
                "start": found.start,
                "rows": found.stop - found.start,
                "code": code,
            },
        )

    def disagreed(
        self, asked: tuple[Replica, int], before: tuple[Replica, int], size: float, what: str
    ) -> None:
        """Two replicas answered differently, by these numbers of the request."""
        (second, request), (first, number) = asked, before
        more = {"request": request, "first": number, "other": first.address, "difference": size}
        logger.warning("%s", what, extra=self.about(second.teacher, second.address, **more))

    # Replicas.

    def joined(self, replica: Replica, welcome: Welcome) -> None:
        """A replica may be asked from now on."""
        logger.info(
            "teacher %r at %s: %s",
            replica.teacher,
            replica.address,
            welcome.revision,
            extra=self.about(
                replica.teacher, replica.address, model=welcome.model, revision=welcome.revision
            ),
        )

    def left(self, replica: Replica, reason: str) -> None:
        """A replica may not be asked any more."""
        logger.warning(
            "lost teacher %r at %s: %s",
            replica.teacher,
            replica.address,
            reason,
            extra=self.about(replica.teacher, replica.address),
        )

    def missing(self, replica: Replica, reason: str) -> None:
        """A replica cannot be reached; there are others."""
        logger.warning(
            "teacher %r at %s cannot be reached: %s; going on with its other replicas",
            replica.teacher,
            replica.address,
            reason,
            extra=self.about(replica.teacher, replica.address),
        )

    def greeted_later(self, replica: Replica, seconds: float) -> None:
        """A replica that was lost again and again is left alone for a while."""
        logger.warning(
            "teacher %r at %s was lost %d times in a row; greeting it again in %.1f s",
            replica.teacher,
            replica.address,
            replica.failures,
            seconds,
            extra=self.about(replica.teacher, replica.address, seconds=round(seconds, 3)),
        )
