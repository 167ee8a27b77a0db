"""The ledger keeps its promises whatever happens, and broken ledgers are caught."""

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from pantheon.delivery.ledger import Ledger
from pantheon.sampling.order import Order
from tests.unit.ledger_machine import LedgerMachine

SETTINGS = settings(
    max_examples=250,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
HUNT = settings(SETTINGS, max_examples=150, phases=[Phase.generate], report_multiple_bugs=False)


def test_every_row_of_every_teacher_is_yielded_once_whatever_happens():
    run_state_machine_as_test(LedgerMachine, settings=SETTINGS)


class NoDeduplication(Ledger):
    def accept(self, lease, nbytes, now=None):
        super().accept(lease, nbytes, now)
        return True


class NoExpiry(Ledger):
    def expire(self, now):
        return []


class NoSuspicion(Ledger):
    def suspect(self, now, after):
        return []


class HastySuspicion(Ledger):
    def suspect(self, now, after):
        return super().suspect(now, dict.fromkeys(after, 0.5))


class AsksTheRetired(Ledger):
    def retire(self, teacher, replica):
        pass


class NoWindow(Ledger):
    def __init__(self, *, window_bytes, **options):
        super().__init__(window_bytes=window_bytes + (1 << 40), **options)


class NoHeadAllowance(Ledger):
    def __init__(self, **options):
        super().__init__(**options)
        window, admit = self._window, self._window.admit

        def strict(request):
            start, stop = window.span(request)
            fits = window.nbytes + window._cost(stop - start)[1] <= window.limit
            return request < window.end or (fits and admit(request))

        window.admit = strict


class NotWaitingForAllTeachers(Ledger):
    def _answered_by_all(self):
        return max(teacher.low for teacher in self._teachers.values())


class ResumesWhatArrived(Ledger):
    def state(self):
        return self.ready()


class LosesWhatTheDeadHeld(Ledger):
    def leave(self, teacher, replica, *, crashed=True):
        self._teachers[teacher].roster.leave(replica)
        return ()


class ForgetsLateReplies(Ledger):
    def expire(self, now):
        gone = super().expire(now)
        self._leases.forget([a.lease for a in gone])
        return gone


class NoCredit(Ledger):
    def __init__(self, *, max_requests, **options):
        super().__init__(max_requests=max_requests + 1, **options)


class KeepsBytes(Ledger):
    def advance(self, stop):
        before = self._window.nbytes
        gone = super().advance(stop)
        self._window.nbytes = before
        return gone


class NeverPoisons(Ledger):
    def _failed_too_often(self, ask):
        return False


class PoisonsEarly(Ledger):
    def _failed_too_often(self, ask):
        return sum(ask.blame.values()) >= self.attempts


class BlamesEverythingHeld(Ledger):
    def _put_back(self, lease):
        lease.ask.blame[lease.replica.name] = lease.ask.blame.get(lease.replica.name, 0) + 1
        return super()._put_back(lease)


class GivesBackToTheOneThatFailed(Ledger):
    def _put_back(self, lease):
        found = super()._put_back(lease)
        lease.ask.blame = {n: c for n, c in lease.ask.blame.items() if c}
        return found


class NeverRenews(Ledger):
    def renew(self, leases, now):
        self._tick(now)


class ReusesLeases(Ledger):
    def __init__(self, *, first_lease, **options):
        super().__init__(first_lease=first_lease, **options)

    def dispatch(self, now):
        given = super().dispatch(now)
        self.next_lease -= len(given) > 1
        return given


class DependsOnRank(Order):
    def positions(self, epoch, start, stop):
        other = Order(
            self.size,
            self.batch_size,
            self.seed + self.rank,
            self.shuffle,
            self.rank,
            self.world,
            self.drop_last,
        )
        return other.positions(epoch, start, stop)


class PadsWithRealRows(Order):
    def positions(self, epoch, start, stop):
        return super().positions(epoch, start, stop)[0], None


BROKEN = [
    (NoDeduplication, "the first reply wins and only the first"),
    (NoExpiry, "what has run out, and only that, is put back"),
    (NoSuspicion, "what silent replicas hold goes on"),
    (HastySuspicion, "what silent replicas hold goes on"),
    (AsksTheRetired, "a replica that is about to stop is not asked"),
    (NoWindow, "nothing beyond the window"),
    (NoHeadAllowance, "the head is asked for whatever the budget"),
    (NotWaitingForAllTeachers, "nothing is ready before all teachers answered"),
    (ResumesWhatArrived, "a state counts what was yielded"),
    (LosesWhatTheDeadHeld, "what a dead replica held is put back"),
    (ForgetsLateReplies, "the first reply wins"),
    (NoCredit, "no replica has more than its share"),
    (KeepsBytes, "the bytes counted"),
    (NeverPoisons, "what fails again and again is given up"),
    (PoisonsEarly, "poisoned too early"),
    (BlamesEverythingHeld, "every attempt counted is named|poisoned too early"),
    (GivesBackToTheOneThatFailed, "a replica that did not fail it"),
    (NeverRenews, "the next deadline is known"),
    (ReusesLeases, "leases are unique and increase"),
]


@pytest.mark.parametrize(("broken", "promise"), BROKEN, ids=lambda x: getattr(x, "__name__", None))
def test_a_broken_ledger_is_caught(broken, promise):
    machine = type("Broken", (LedgerMachine,), {"ledger_type": broken})
    with pytest.raises(AssertionError, match=promise):
        run_state_machine_as_test(machine, settings=HUNT)


@pytest.mark.parametrize("broken", [DependsOnRank, PadsWithRealRows])
def test_a_broken_order_is_caught(broken):
    machine = type("Broken", (LedgerMachine,), {"order_type": broken})
    with pytest.raises(AssertionError, match="has the ids of one rank alone"):
        run_state_machine_as_test(machine, settings=HUNT)
