"""What was asked of whom in one epoch: requests and their messages, sent and sent again."""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from pantheon.delivery.ledger import Assignment
from pantheon.sampling.itinerary import Itinerary, Stretch, joined
from pantheon.wire.messages import Cancel
from student_client.answering import score_rows
from student_client.fleet import RETRY_S, Fleet
from student_client.known import KnownTeacher
from student_client.plan import MergePlan
from student_client.replica import Replica
from student_client.requests import Request


class Asked(NamedTuple):
    """Who was asked for which request, and when, on the fleet's clock."""

    assignment: Assignment
    replica: Replica
    request: Request
    at: float


class Outbox:
    """The requests of one epoch that are not yielded yet, and who was asked for them.

    Args:
        fleet: the replicas.
        plan: who is asked for which rows.
        itinerary: the ids of the rows.
        epoch: which one.

    Attributes:
        requests: by number.
        asked: by lease, who was asked; kept after the lease has run out, for a late answer.
    """

    def __init__(self, fleet: Fleet, plan: MergePlan, itinerary: Itinerary, epoch: int) -> None:
        self.fleet, self.plan, self.itinerary, self.epoch = fleet, plan, itinerary, epoch
        self.requests: dict[int, Request] = {}
        self.asked: dict[int, Asked] = {}
        self._overdue: list[int] = []
        self._later: list[tuple[float, int]] = []
        self._random = random.Random()

    @property
    def next_resend(self) -> float | None:
        """When something is to be sent again, on the fleet's clock."""
        return self._later[0][0] if self._later else None

    def request(self, assignment: Assignment) -> Request:
        """The request of an assignment."""
        request = self.requests.get(assignment.request)
        if request is None:
            rows = self.itinerary.stretch(self.epoch, assignment.start, assignment.stop)
            view = self.itinerary.view(self.epoch)
            views = np.full(len(rows.ids), view, np.int64) if view else None
            request = Request(rows, self.plan.wanted(rows.ids), views)
            self.requests[assignment.request] = request
        return request

    def ask(self, assignment: Assignment, request: Request, teacher: KnownTeacher) -> None:
        """Send an assignment, unless its replica has left since it was made."""
        replica = self.fleet.find(assignment.teacher, assignment.replica)
        if replica is not None and replica.up:
            asked = Asked(assignment, replica, request, self.fleet.clock())
            self.asked[assignment.lease] = asked
            self._send(asked, teacher)

    def _send(self, asked: Asked, teacher: KnownTeacher) -> None:
        score = asked.request.score(asked.assignment.lease, teacher.name, teacher.reader)
        if asked.replica.send(score):
            teacher.asked += 1
            start, rows = asked.assignment.start, score_rows(score)
            self.fleet.trace.sent(asked.replica, score.request, rows, start=start)
        else:
            self.fleet.postpone(asked.replica, "it takes no messages")

    def take(self, lease: int | None, replica: Replica) -> Asked | None:
        """What an answer answers; None when nobody waits for it."""
        asked = self.asked.get(lease if lease is not None else -1)
        if asked is None or asked.replica is not replica:
            return None
        del self.asked[asked.assignment.lease]
        return asked if asked.assignment.request in self.requests else None

    def busy(self, asked: Asked) -> None:
        """Ask the same replica once more a little later."""
        self.asked[asked.assignment.lease] = asked
        at = self.fleet.clock() + RETRY_S * self._random.uniform(0.5, 1.5)
        heapq.heappush(self._later, (at, asked.assignment.lease))

    def resend(self, now: float, teachers: Mapping[str, KnownTeacher]) -> list[int]:
        """Send again what was put off until now; answers the leases."""
        sent = []
        while self._later and self._later[0][0] <= now:
            lease = heapq.heappop(self._later)[1]
            if lease in self.asked:
                asked = self.asked[lease]
                self._send(asked, teachers[asked.replica.teacher])
                sent.append(lease)
        return sent

    def forget(self, replica: Replica) -> None:
        """A replica left: it answers nothing any more."""
        gone = [lease for lease, asked in self.asked.items() if asked.replica is replica]
        self.fleet.trace.lost(replica, gone)
        for lease in gone:
            del self.asked[lease]

    def overdue(self, lease: int) -> None:
        """A lease has run out."""
        self._overdue.append(lease)

    def release(self, numbers: Iterable[int]) -> None:
        """Let go of requests that are yielded."""
        for number in numbers:
            del self.requests[number]
        if self._overdue:
            self._overdue = [n for n in self._overdue if self._still_wanted(n)]

    def _still_wanted(self, lease: int) -> bool:
        asked = self.asked.get(lease)
        if asked is not None and asked.assignment.request not in self.requests:
            # Another replica was faster; this one need not begin with it any more.
            asked.replica.send(Cancel((lease,)))
            del self.asked[lease]
        return lease in self.asked

    def rows(self, numbers: Iterable[int], start: int, stop: int) -> Stretch:
        """The ids of local rows ``[start, stop)``, which these requests cover."""
        return joined([self.requests[n].rows for n in numbers], start, stop)

    def unsupervised(self) -> list[int]:
        """Leases of work inside this process, which cannot get lost."""
        return [n for n, asked in self.asked.items() if not asked.replica.supervised]

    def in_flight(self, teacher: str) -> int:
        """Requests that a teacher was asked and has not answered."""
        return sum(asked.replica.teacher == teacher for asked in self.asked.values())

    def cancel(self) -> None:
        """Tell the replicas that nobody waits any more."""
        wanted: dict[Replica, list[int]] = {}
        for lease, asked in self.asked.items():
            wanted.setdefault(asked.replica, []).append(lease)
        for replica, leases in wanted.items():
            replica.send(Cancel(tuple(leases)))
        self.asked.clear()
        self.requests.clear()
        self._later.clear()
