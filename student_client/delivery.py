"""Requests and answers of one epoch: who is asked for what, what counts, what is asked again."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pantheon.errors import PantheonError
from pantheon.ledger import Assignment, Ledger, Poisoned
from pantheon.messages import Cancel, Heartbeat, RawTensor, Refused, Scored
from student_client.assemble import Piece
from student_client.check import check_scored, intact
from student_client.fleet import RETRY_S, Fleet
from student_client.itinerary import Itinerary, Stretch, joined
from student_client.known import KnownTeacher
from student_client.plan import MergePlan
from student_client.refusals import LATER, final_error
from student_client.replica import Replica
from student_client.requests import Request
from student_client.stats import Totals

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pace:
    """How much is asked for ahead, and how long answers may take.

    Args:
        request_rows: local rows of a request.
        window_bytes: coded bytes asked for past the batch that is next.
        max_requests: requests in flight for each replica.
        lease: seconds a replica may be silent about a request.
        attempts: how often a request is tried.
    """

    request_rows: int
    window_bytes: int
    max_requests: int
    lease: float
    attempts: int = 3


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
        totals: where waiting is counted, and the last number a request had on the wire.
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
    ) -> None:
        order = itinerary.order
        self.fleet, self.teachers, self.plan, self.itinerary = fleet, teachers, plan, itinerary
        self.pace, self.epoch = pace, epoch
        self.totals = totals
        self.ledger = Ledger(
            rows=order.rows,
            batch=order.batch_size,
            request=pace.request_rows,
            row_bytes=weights,
            window_bytes=pace.window_bytes,
            max_requests=pace.max_requests,
            lease=pace.lease,
            attempts=pace.attempts,
            head=head,
            first_lease=totals.next_lease,
        )
        self._requests: dict[int, Request] = {}
        self._pieces: dict[int, dict[str, Piece]] = {}
        self._asked: dict[int, tuple[Assignment, Replica]] = {}
        self._later: deque[tuple[float, int]] = deque()
        self._replicas = {(r.teacher, r.address): r for r in fleet.replicas}
        for teacher in teachers.values():
            teacher.rows = head
        fleet.handler = self
        for replica in fleet.replicas:
            if replica.up:
                self.ledger.join(replica.teacher, replica.address)
        self._dispatch()

    def numbers(self, start: int, stop: int) -> range:
        """The requests that cover local rows ``[start, stop)``."""
        size = self.pace.request_rows
        return range(start // size, (stop - 1) // size + 1)

    def pieces(self, start: int, stop: int) -> dict[str, Sequence[Piece]]:
        """Every teacher's answers that cover some rows, all of which are ready."""
        found = [self._pieces[n] for n in self.numbers(start, stop)]
        return {t: [pieces[t] for pieces in found] for t in self.teachers}

    def rows(self, start: int, stop: int) -> Stretch:
        """The ids of some rows that were asked for."""
        return joined([self._requests[n].rows for n in self.numbers(start, stop)], start, stop)

    def wait_past(self, head: int) -> int:
        """Wait until rows past `head` are answered by all teachers; answers up to which."""
        while (ready := self.ledger.ready()) <= head:
            self._wait()
        return ready

    def release(self, head: int) -> None:
        """Let go of what is yielded wholly, and ask for more in its place."""
        for number in self.ledger.advance(head):
            self._pieces.pop(number, None)
            self._requests.pop(number, None)
        self._dispatch()

    def _wait(self) -> None:
        """Wait for events, then for those who let their leases run out."""
        clock = self.fleet.clock
        before = clock()
        times = [self.ledger.deadline(), self._later[0][0] if self._later else None]
        self.fleet.pump(min((t for t in times if t is not None), default=None))
        now = clock()
        self.totals.wait += now - before
        deadline = self.ledger.deadline()
        if deadline is not None and now >= deadline:
            self._expire(now)
        while self._later and self._later[0][0] <= now:
            self._resend(self._later.popleft()[1], now)
        self._dispatch()

    def _resend(self, lease: int, now: float) -> None:
        """Ask a replica that was busy once more, unless its lease went to another meanwhile."""
        if lease in self._asked:
            assignment, replica = self._asked[lease]
            self.ledger.renew([lease], now)
            self._send(assignment, replica)

    def _expire(self, now: float) -> None:
        safe = [n for n, (_, replica) in self._asked.items() if not replica.supervised]
        self.ledger.renew(safe, now)
        for assignment in self.ledger.expire(now):
            self._asked.pop(assignment.lease, None)
            logger.warning(
                "teacher %r at %s was silent for %g s about rows %d to %d; asking again",
                assignment.teacher,
                assignment.replica,
                self.pace.lease,
                assignment.start,
                assignment.stop - 1,
            )

    def _dispatch(self) -> None:
        now = self.fleet.clock()
        while assignments := self.ledger.dispatch(now):
            for assignment in assignments:
                self._ask(assignment)

    def _ask(self, assignment: Assignment) -> None:
        teacher = self.teachers[assignment.teacher]
        replica = self._replicas[assignment.teacher, assignment.replica]
        if not replica.up:
            return  # left since this round of assignments was made; the ledger knows
        request = self._request(assignment)
        if len(request.ids_for(teacher.name)) == 0:
            self._accept(assignment, teacher, ())
            return
        self._asked[assignment.lease] = assignment, replica
        self._send(assignment, replica)

    def _send(self, assignment: Assignment, replica: Replica) -> None:
        request = self._requests[assignment.request]
        reader = self.teachers[replica.teacher].reader
        if not replica.send(request.score(assignment.lease, replica.teacher, reader)):
            self.fleet.postpone(replica, "it takes no messages")

    def _request(self, assignment: Assignment) -> Request:
        request = self._requests.get(assignment.request)
        if request is None:
            rows = self.itinerary.stretch(self.epoch, assignment.start, assignment.stop)
            view = self.itinerary.view(self.epoch)
            views = np.full(len(rows.ids), view, np.int64) if view else None
            request = Request(rows, self.plan.wanted(rows.ids), views)
            self._requests[assignment.request] = request
        return request

    def scored(self, replica: Replica, message: Scored) -> None:
        """Take an answer in; one that nobody waits for is counted and dropped."""
        teacher = self.teachers[replica.teacher]
        entry = self._asked.pop(message.request, None)
        if entry is None or entry[1] is not replica:
            self.ledger.accept(message.request, 0)
            teacher.late += 1
            return
        assignment = entry[0]
        rows = len(self._requests[assignment.request].ids_for(replica.teacher))
        check_scored(teacher, replica, message, rows)
        if (wrong := intact(replica, message)) is not None:
            teacher.corrupt += 1
            self._again(assignment, replica, "checksum", wrong)
            return
        self._accept(assignment, teacher, message.parts)

    def _accept(
        self, assignment: Assignment, teacher: KnownTeacher, parts: tuple[RawTensor, ...]
    ) -> None:
        nbytes = sum(memoryview(p.data).nbytes for p in parts)
        if not self.ledger.accept(assignment.lease, nbytes):
            teacher.late += 1
            return
        request = self._requests[assignment.request]
        piece = Piece(
            assignment.start,
            assignment.stop,
            request.wanted.get(teacher.name),
            teacher.codec,
            parts,
        )
        self._pieces.setdefault(assignment.request, {})[teacher.name] = piece
        teacher.bytes += nbytes
        teacher.rows = max(teacher.rows, assignment.stop)

    def refused(self, replica: Replica, message: Refused) -> None:
        """Ask again elsewhere or later, or raise when that cannot help."""
        entry = self._asked.pop(message.request or 0, None)
        if entry is None or entry[1] is not replica:
            return
        assignment = entry[0]
        self.teachers[replica.teacher].refused += 1
        if message.code == "busy":
            self._asked[assignment.lease] = entry
            self._later.append((self.fleet.clock() + RETRY_S, assignment.lease))
            return
        if message.code in LATER:
            self._asked[assignment.lease] = entry
            self.fleet.postpone(replica, f"{message.code}: {message.message}")
            return
        ids = self._requests[assignment.request].ids_for(replica.teacher)
        error = final_error(replica.teacher, replica.address, message.code, message.message, ids)
        if error is not None:
            raise error
        self._again(assignment, replica, message.code, message.message)

    def _again(self, assignment: Assignment, replica: Replica, code: str, reason: str) -> None:
        self._asked.pop(assignment.lease, None)
        reason = f"{replica.address}: {reason}"
        poisoned = self.ledger.refuse(assignment.lease, reason, self.fleet.clock())
        logger.warning("teacher %r, rows %d on: %s", replica.teacher, assignment.start, reason)
        if poisoned is not None:
            raise self._poisoned(poisoned, code)

    def _poisoned(self, poisoned: Poisoned, code: str) -> PantheonError:
        raise NotImplementedError

    def working(self, replica: Replica, message: Heartbeat) -> None:
        """Give a replica more time for what it works on."""
        mine = [n for n in message.requests if n in self._asked]
        self.ledger.renew(mine, self.fleet.clock())

    def joined(self, replica: Replica) -> None:
        """A replica may be asked."""
        self.ledger.join(replica.teacher, replica.address)

    def left(self, replica: Replica) -> None:
        """What a replica was asked goes to others at once."""
        for lease in [n for n, (_, r) in self._asked.items() if r is replica]:
            del self._asked[lease]
        again = self.ledger.leave(replica.teacher, replica.address)
        logger.info("%d requests of teacher %r are put back", len(again), replica.teacher)

    def in_flight(self, teacher: str) -> int:
        """Requests that a teacher was asked and has not answered."""
        return sum(a.teacher == teacher for a, _ in self._asked.values())

    def close(self) -> None:
        """Tell the replicas that nobody waits any more, and let go of everything."""
        wanted: dict[Replica, list[int]] = {}
        for lease, (_, replica) in self._asked.items():
            wanted.setdefault(replica, []).append(lease)
        for replica, leases in wanted.items():
            replica.send(Cancel(tuple(leases)))
        self.ledger.cancel_all()
        for held in (self._asked, self._pieces, self._requests):
            held.clear()
