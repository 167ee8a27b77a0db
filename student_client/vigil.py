"""Who has been silent for too long in one epoch: replicas, leases, and whole teachers."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from pantheon.delivery.ledger import Ledger
from pantheon.errors import TeacherUnavailable
from student_client.cache import Caches
from student_client.fleet import Fleet
from student_client.known import KnownTeacher
from student_client.outbox import Outbox
from student_client.replica import Replica

logger = logging.getLogger(__name__)

LOOK_S = 1.0
"""Seconds between two looks whether somebody has been silent for too long."""

SILENT_BEATS = 3
"""Heartbeats a replica may miss until what it holds is given to others."""

SHORT_S = 0.02
"""Waits up to this many seconds are business as usual and count as nobody's silence."""

SETTLE_S = 0.5
"""Seconds in which this process, after it was stopped, takes in what was sent to it meanwhile."""

NOBODY = ""
"""Who is asked for the rows of a teacher that is gone, where the merges can do without it. It owes
the answer until the rows are needed, as the teacher may be back before."""

CACHE = "cache"
"""Who answers what is read from a teacher's cache."""


class Vigil:
    """Watches over one epoch while its student waits.

    Args:
        fleet: the replicas.
        teachers: what is known of each.
        ledger: what was asked, and is to be asked again.
        outbox: the messages of it.
        caches: what reads from a cache take longer than a lease.
        lease: seconds a replica may be silent about a request.
    """

    def __init__(
        self,
        fleet: Fleet,
        teachers: Mapping[str, KnownTeacher],
        ledger: Ledger,
        outbox: Outbox,
        caches: Caches,
        lease: float,
    ) -> None:
        self.fleet, self.teachers, self.ledger = fleet, teachers, ledger
        self.outbox, self.caches, self.lease = outbox, caches, lease
        self._silence = dict.fromkeys(teachers, 0.0)
        self._since = self._until = self._left = fleet.clock()
        self._stopped = False
        self._stalled, self._tell_at = 0.0, fleet.patience
        self._answered: dict[str, int] = {}
        self._alert = {
            t: SILENT_BEATS * known.welcome.heartbeat
            for t, known in teachers.items()
            if all(r.supervised for r in fleet.up(t)) and known.welcome.heartbeat > 0
        }

    def begin(self, now: float) -> float:
        """A wait begins; when it has to be interrupted for `look`."""
        if now - self._left > SHORT_S:
            self._away(now - self._left, now)
        self._since = now
        times = (
            now + LOOK_S,
            self.ledger.deadline(),
            self.ledger.next_suspicion(self._alert),
            self.outbox.next_resend,
        )
        self._until = max(now, min(t for t in times if t is not None))
        return self._until

    def hear(self, replica: Replica) -> None:
        """A sign of life; what is left of the wait at hand counts as silence."""
        now = self.fleet.clock()
        self._silence[replica.teacher] = self._since - now
        self.ledger.hear(replica.teacher, replica.address, now)

    def look(self, now: float) -> None:
        """A wait is over and what came was read: see what did not come.

        A wait that took much longer than it should have says nothing about the teachers: this
        process was stopped, or had other work.

        Raises:
            TeacherUnavailable: a teacher has said nothing for longer than its patience.
        """
        missed = max(0.0, now - self._until)
        if missed > LOOK_S:
            self._away(missed, now)
        else:
            missed, self._stopped = 0.0, False
        waited = now - self._since - missed
        self._suspect(now)
        self._expire(now)
        if self.outbox.next_resend is not None:
            self.ledger.renew(self.outbox.resend(now, self.teachers), now)
        if waited > SHORT_S:
            self._lose_patience(waited)
        self._tell(waited)
        self._left = now

    def _away(self, seconds: float, now: float) -> None:
        """Count these seconds as nobody's silence.

        After a stop this thread may run before the one that reads the sockets, so there is time
        for that too; but only once, as one who is stopped in every wait has to lose patience some
        day.
        """
        stopped = seconds > LOOK_S
        settle = SETTLE_S if stopped and not self._stopped else 0.0
        self.ledger.away(seconds + settle, now)
        self._stopped = self._stopped or stopped

    def _tell(self, waited: float) -> None:
        """Log, less and less often, that those who say that they work do not get done."""
        answered = {t: self.ledger.answered(t) for t in self.ledger.waiting_for()}
        if answered != self._answered:
            self._stalled, self._tell_at, self._answered = 0.0, self.fleet.patience, answered
            return
        self._stalled += waited
        if self._stalled >= self._tell_at:
            self._tell_at *= 2
            for teacher, row in answered.items():
                where = [r.address for r in self.fleet.up(teacher)]
                self.fleet.trace.stalled(teacher, where, row, self._stalled)

    def _suspect(self, now: float) -> None:
        """Give what silent and late replicas hold to others."""
        taken = self.ledger.suspect(now, self._alert)
        for assignment in taken:
            self.outbox.overdue(assignment.lease)
        for who in sorted({(a.teacher, a.replica) for a in taken}):
            held = [a.lease for a in taken if (a.teacher, a.replica) == who]
            asked = [self.outbox.asked[n].at for n in held if n in self.outbox.asked]
            self.fleet.trace.suspected(*who, held, now - min(asked, default=now))

    def _expire(self, now: float) -> None:
        deadline = self.ledger.deadline()
        if deadline is None or now < deadline:
            return
        self.ledger.renew(self.outbox.unsupervised(), now)
        for overdue in self.ledger.expire(now):
            if overdue.replica == CACHE:
                self.caches.stuck(self.teachers[overdue.teacher], self.lease)
            elif overdue.replica != NOBODY:
                self.outbox.overdue(overdue.lease)
                self.fleet.trace.expired(overdue, self.lease)

    def _patience(self, teacher: str) -> float:
        """Seconds a teacher may be silent: no less than three heartbeats."""
        return max(self.fleet.patience, SILENT_BEATS * self.teachers[teacher].welcome.heartbeat)

    def _lose_patience(self, waited: float) -> None:
        for teacher in self.ledger.waiting_for():
            replicas = self.fleet.up(teacher)
            if not replicas or not replicas[0].supervised:
                continue
            self._silence[teacher] += waited
            if self._silence[teacher] >= self._patience(teacher):
                self._silence[teacher] = 0.0
                where = ", ".join(r.address for r in replicas)
                error = TeacherUnavailable(
                    f"teacher {teacher!r} is connected at {where} but has said nothing for "
                    f"{self._patience(teacher):g} s, or only that it is busy, while rows "
                    f"{self.ledger.head} on are waited for; see whether it hangs, or wait longer "
                    "with patience="
                )
                if self.fleet.handler is None or not self.fleet.handler.gone(teacher):
                    raise error
                for replica in replicas:
                    self.fleet.postpone(replica, "it is silent")
                logger.error("going on without teacher %r: %s", teacher, error)
