"""Requests and answers of one epoch: what counts, what is asked again, what cannot be answered."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pantheon.delivery.ledger import Assignment, Ledger
from pantheon.sampling.itinerary import Itinerary, Stretch
from pantheon.wire.buffers import to_raw
from pantheon.wire.messages import Heartbeat, RawTensor, Refused, Scored
from student_client.assemble import Piece
from student_client.cache import Caches
from student_client.check import check_scored, intact
from student_client.fleet import RETRY_S, Fleet
from student_client.known import KnownTeacher
from student_client.outbox import Asked, Outbox
from student_client.plan import MergePlan, Wanted
from student_client.refusals import LATER, final_error, poison_error
from student_client.replica import Replica
from student_client.requests import Held, Request
from student_client.stats import Totals
from student_client.verifying import NEVER, Verifier, Verify
from student_client.vigil import CACHE, NOBODY, Vigil

logger = logging.getLogger(__name__)

NO_ROWS = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class Pace:
    """How much is asked for ahead, and how long answers may take.

    Args:
        request_rows: local rows of a request.
        first_rows: local rows of the first request, which the next ones double; None for none less.
        window_bytes: coded bytes asked for past the batch that is next.
        max_requests: requests in flight for each replica.
        lease: seconds a replica may be silent about a request.
        attempts: refusals after which a request is given up; a crash counts half.
        verify: how replicas are checked against each other.
    """

    request_rows: int
    first_rows: int | None
    window_bytes: int
    max_requests: int
    lease: float
    attempts: int = 3
    verify: Verify = NEVER


class Delivery:
    """The answers to one epoch's requests, from some row on; the fleet's `Handler` for that time.

    Args:
        fleet: the replicas.
        teachers: what is known of each.
        plan: who is asked for which rows.
        itinerary: the ids of the rows.
        weights: coded bytes of a row of each teacher, as far as known.
        epoch: which one.
        head: local rows that were yielded before.
        totals: where things are counted, and the next number a request may have on the wire.
        caches: what online teachers have said before.

    Attributes:
        closed: it is over or abandoned.
    """

    def __init__(
        self,
        fleet: Fleet,
        teachers: Mapping[str, KnownTeacher],
        plan: MergePlan,
        itinerary: Itinerary,
        pace: Pace,
        weights: Mapping[str, int],
        *,
        epoch: int,
        head: int,
        totals: Totals,
        caches: Caches,
    ) -> None:
        self.fleet, self.teachers, self.plan, self.itinerary = (
            fleet,
            dict(teachers),
            plan,
            itinerary,
        )
        self.pace, self.epoch, self.totals, self.caches = pace, epoch, totals, caches
        self.closed = False
        self.ledger = Ledger(
            rows=itinerary.order.rows,
            batch=itinerary.order.batch_size,
            request=pace.request_rows,
            row_bytes=weights,
            window_bytes=pace.window_bytes,
            max_requests=pace.max_requests,
            lease=pace.lease,
            attempts=pace.attempts,
            head=head,
            first_lease=totals.next_lease,
            ramp=pace.first_rows,
            counters=totals.counters,
        )
        self.outbox = Outbox(fleet, plan, itinerary, epoch)
        self.verifier = Verifier(fleet, pace.verify, epoch)
        self._pieces: dict[int, dict[str, Piece]] = {}
        self._owed: dict[int, tuple[Assignment, Request]] = {}
        self.vigil = Vigil(fleet, self.teachers, self.ledger, self.outbox, caches, pace.lease)
        fleet.handler = self
        caches.taker = self._fetched
        for replica in fleet.replicas:
            if replica.up:
                self.ledger.join(replica.teacher, replica.address, replica.speed)
        for teacher in fleet.absent:
            self.ledger.join(teacher, NOBODY)
        try:
            self._dispatch()
        except BaseException:
            self.close()
            raise

    def numbers(self, start: int, stop: int) -> range:
        """The requests that cover local rows ``[start, stop)``."""
        return range(self.ledger.holding(start), self.ledger.holding(stop - 1) + 1)

    def pieces(self, start: int, stop: int) -> dict[str, Sequence[Piece]]:
        """Every teacher's answers that cover some rows, all of which are ready."""
        found = [self._pieces[n] for n in self.numbers(start, stop)]
        return {t: [pieces[t] for pieces in found] for t in self.teachers}

    def rows(self, start: int, stop: int) -> Stretch:
        """The ids of some rows that were asked for."""
        return self.outbox.rows(self.numbers(start, stop), start, stop)

    def wait_past(self, head: int) -> int:
        """Wait until rows past `head` are answered by all teachers; answers up to which.

        Raises:
            PantheonError: what any teacher, or the way to it, is not able to do.
        """
        if self.fleet.absent:
            # Nothing may be waited for, and who is back is still to be asked again.
            self.fleet.pump(self.fleet.clock())
            self._dispatch()
        if (ready := self._ready(head)) <= head:
            with self.totals.waiting(self.fleet.clock):
                while (ready := self._ready(head)) <= head:
                    self._wait()
        return ready

    def _ready(self, head: int) -> int:
        """The row up to which all have answered, or are gone on without for the next batch."""
        stop = head + self.itinerary.order.batch_size
        due = [lease for lease, (assignment, _) in self._owed.items() if assignment.start < stop]
        for lease in due:
            self._do_without(*self._owed.pop(lease))
        return self.ledger.ready()

    def release(self, head: int) -> None:
        """Let go of what is yielded wholly, and ask for more in its place."""
        yielded = self.ledger.advance(head)
        for number in yielded:
            del self._pieces[number]
        self.outbox.release(yielded)
        self._dispatch()

    def _wait(self) -> None:
        """Wait for events, and only then look who has been silent for too long."""
        late = [self.teachers[t] for t in self.ledger.waiting_for()]
        before = self.fleet.clock()
        self.fleet.pump(self.vigil.begin(before))
        waited = self.fleet.clock() - before
        self.totals.wait += waited
        for teacher in late:
            teacher.wait += waited
        self.vigil.look(before + waited)
        self._dispatch()

    def _dispatch(self) -> None:
        now = self.fleet.clock()
        while assignments := self.ledger.dispatch(now):
            for assignment in assignments:
                teacher = self.teachers[assignment.teacher]
                request = self.outbox.request(assignment)
                if assignment.replica == NOBODY:
                    self._owed[assignment.lease] = assignment, request
                elif not len(request.ids_for(teacher.name)):
                    self._accept(assignment, request, ())
                elif (some := self.caches.find(teacher, request)) is not None:
                    diverted = self.ledger.divert(assignment.lease, CACHE)
                    self.caches.fetch(teacher, diverted, some)
                else:
                    self.outbox.ask(assignment, request, teacher)
        self.totals.next_lease = self.ledger.next_lease

    def scored(self, replica: Replica, message: Scored) -> None:
        """Take an answer in; one that nobody waits for is counted and dropped."""
        teacher = self.teachers[replica.teacher]
        self.vigil.hear(replica)
        if (again := self.verifier.asked(message.request, replica)) is not None:
            self._compare(teacher, replica, message, again)
            return
        asked = self.outbox.take(message.request, replica)
        if asked is None:
            # The ledger is not asked: it would take a late answer for a lease it still knows.
            self._drop(teacher, replica, message.request)
            return
        check_scored(teacher, replica, message, len(asked.request.ids_for(replica.teacher)))
        if (wrong := intact(replica, message)) is not None:
            teacher.corrupt += 1
            self.fleet.trace.corrupt(replica, message.request, wrong)
            self._again(asked, "checksum", wrong)
            return
        assignment, request, parts = asked.assignment, asked.request, message.parts
        whole = request.completed(teacher.name, teacher.welcome.schema, parts)
        if not self._accept(assignment, request, whole):
            self._drop(teacher, replica, message.request)
        else:
            self._count(teacher, asked, message)
            self.caches.keep(teacher, request, parts)
            if self.verifier.consider(assignment, request, teacher, parts, self.ledger.next_lease):
                self.ledger.next_lease += 1

    def _fetched(self, assignment: Assignment, held: Held | None) -> None:
        """Take in what was read from a cache; the teacher is asked for what is not in it."""
        teacher, now = self.teachers[assignment.teacher], self.fleet.clock()
        request = self.outbox.requests.get(assignment.request)
        if request is None or held is None:
            self.ledger.decline(assignment.lease, now)
            return
        parts = tuple(map(to_raw, held.parts))
        if len(held.rows) == len(request.ids_wanted(teacher.name)):
            if not self._accept(assignment, request, parts):
                teacher.late += 1
                return
        else:
            # Another object: an older question for all of it may still be answered.
            self.outbox.requests[assignment.request] = request.holding(teacher.name, held)
            self.ledger.decline(assignment.lease, now)
        teacher.cached += len(held.rows)
        teacher.cached_bytes += _nbytes(parts)

    def _accept(
        self, assignment: Assignment, request: Request, parts: tuple[RawTensor, ...]
    ) -> bool:
        teacher = self.teachers[assignment.teacher]
        nbytes = _nbytes(parts)
        if not self.ledger.accept(assignment.lease, nbytes, self.fleet.clock()):
            return False
        self._keep(assignment, teacher, request.wanted.get(teacher.name), parts)
        teacher.bytes += nbytes
        teacher.samples += len(request.ids_wanted(teacher.name))
        return True

    def _count(self, teacher: KnownTeacher, asked: Asked, message: Scored) -> None:
        """A replica was the first to answer."""
        seconds = self.fleet.clock() - asked.at
        asked.replica.answers += 1
        teacher.answered(message.rows, seconds)
        self.fleet.trace.answered(asked.replica, message, seconds)

    def _drop(self, teacher: KnownTeacher, replica: Replica, request: int) -> None:
        """Nobody waits for an answer."""
        teacher.late += 1
        self.fleet.trace.duplicate(replica, request)

    def _compare(
        self, teacher: KnownTeacher, replica: Replica, message: Scored, request: Request
    ) -> None:
        """Take a second answer in, which is compared with the first and goes no further."""
        check_scored(teacher, replica, message, len(request.ids_for(teacher.name)))
        if intact(replica, message) is None:
            self.verifier.compare(message, teacher)
        else:
            teacher.corrupt += 1
            self.verifier.drop(replica, message.request)

    def _do_without(self, assignment: Assignment, request: Request) -> None:
        """Go on without a teacher that is gone."""
        teacher = self.teachers[assignment.teacher]
        if self.ledger.accept(assignment.lease, 0, self.fleet.clock()):
            teacher.missed += len(request.ids_wanted(teacher.name))
            self._keep(assignment, teacher, NO_ROWS, ())

    def _keep(
        self,
        assignment: Assignment,
        teacher: KnownTeacher,
        rows: Wanted,
        parts: tuple[RawTensor, ...],
    ) -> None:
        piece = Piece(assignment.start, assignment.stop, rows, teacher.codec, parts)
        self._pieces.setdefault(assignment.request, {})[teacher.name] = piece

    def refused(self, replica: Replica, message: Refused) -> None:
        """Ask again elsewhere or later, or raise when that cannot help."""
        if message.code != "busy":
            # Who is busy for longer than the patience is as good as silent.
            self.vigil.hear(replica)
        self.verifier.drop(replica, message.request or -1)
        asked = self.outbox.take(message.request, replica)
        if asked is None:
            return
        self.teachers[replica.teacher].refuse(message.code)
        self.fleet.trace.refused(replica, message)
        if message.code == "busy" and len(self.fleet.up(replica.teacher)) > 1:
            now = self.fleet.clock()
            self.ledger.decline(asked.assignment.lease, now)
            self.ledger.spare(replica.teacher, replica.address, now + RETRY_S)
        elif message.code == "busy":
            self.outbox.busy(asked)
        elif message.code == "draining":
            # It finishes what it holds, then says goodbye.
            self.ledger.retire(replica.teacher, replica.address)
            self.ledger.decline(asked.assignment.lease, self.fleet.clock())
        elif message.code in LATER:
            self.fleet.postpone(replica, f"{message.code}: {message.message}")
        else:
            ids = asked.request.ids_for(replica.teacher)
            where, why = replica.address, message.message
            error = final_error(replica.teacher, where, message.code, why, ids)
            if error is not None:
                raise error
            self._again(asked, message.code, why)

    def _again(self, asked: Asked, code: str, reason: str) -> None:
        self.ledger.refuse(asked.assignment.lease, reason, self.fleet.clock())
        self._raise_poisoned(code)

    def _raise_poisoned(self, code: str) -> None:
        """Raise when a request has failed too often."""
        found = self.ledger.poisoned
        if found is not None:
            self.fleet.trace.poisoned(found, code)
            ids = self.outbox.requests[found.request].ids_for(found.teacher)
            raise poison_error(found.teacher, code, found.attempts, found.reasons[-1], ids)

    def working(self, replica: Replica, message: Heartbeat) -> None:
        """Give a replica more time for what it works on."""
        self.vigil.hear(replica)
        self.ledger.renew(message.requests, self.fleet.clock())

    def joined(self, replica: Replica) -> None:
        """A replica may be asked."""
        if replica.survived:
            self.ledger.forgive(replica.teacher, replica.address)
        self.ledger.leave(replica.teacher, NOBODY, crashed=False)
        self._owed = {n: o for n, o in self._owed.items() if o[0].teacher != replica.teacher}
        self.ledger.join(replica.teacher, replica.address, replica.speed)

    def gone(self, teacher: str) -> bool:
        """Whether the merges can do without a teacher; it is then gone on without."""
        if self.plan.needed({*self.fleet.absent, teacher}):
            return False
        self.fleet.absent.add(teacher)
        self.ledger.join(teacher, NOBODY)
        return True

    def left(self, replica: Replica, *, crashed: bool) -> None:
        """What a replica was asked goes to others at once."""
        self.outbox.forget(replica)
        self.verifier.drop(replica)
        again = self.ledger.leave(replica.teacher, replica.address, crashed=crashed)
        logger.info("%d requests of teacher %r are put back", len(again), replica.teacher)
        self._raise_poisoned("lost")

    def close(self) -> None:
        """Tell the replicas that nobody waits any more, and let go of everything."""
        self.closed = True
        # No number is ever given out twice, as an answer to the first may still come.
        self.totals.next_lease = max(self.totals.next_lease, self.ledger.next_lease)
        if self.fleet.handler is self:
            self.fleet.handler = None
            self.caches.taker = None
            self.caches.flush()
        if not self.fleet.closed:
            self.verifier.close()
            self.outbox.cancel()
        self._pieces.clear()
        self._owed.clear()


def _nbytes(parts: tuple[RawTensor, ...]) -> int:
    return sum([memoryview(p.data).nbytes for p in parts])
