"""A student, its ledger and its teachers under everything that may happen to them."""

import sys
from typing import ClassVar

import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from pantheon.delivery.ledger import Assignment, Ledger
from pantheon.sampling.order import Order
from tests.unit.ledger_model import WatchedLedger

TERM = 10.0
SILENCE = 3.0
ROW_BYTES = {"bert": 3.0, "roberta": 5.0, "ragged": 2.0}
GLOBAL_BATCH = 12
WORLDS = [1, 2, 3, 4]
PICK = st.integers(0, 99)
NAMES = st.sampled_from(["x", "y", "z"])


class LedgerMachine(RuleBasedStateMachine):
    """One rank of a run; subclasses put another ledger or order in and are expected to fail.

    The wire is a list of assignments whose replies may still come: in any order, twice, or never.
    Whatever happens, the ids that all ranks see, step by step and over crashes of the student, are
    those of one rank alone that nothing happened to.
    """

    ledger_type: ClassVar[type[Ledger]] = Ledger
    order_type: ClassVar[type[Order]] = Order

    @initialize(
        size=st.integers(1, 60),
        teachers=st.integers(1, 3),
        request=st.integers(1, 14),
        ramp=st.sampled_from([None, 1, 2, 5]),
        window=st.sampled_from([0, 60, 150, 400]),
        most=st.integers(1, 4),
        attempts=st.integers(1, 3),
        world=st.sampled_from(WORLDS),
        shuffle=st.booleans(),
        names=st.lists(NAMES, min_size=1, max_size=3, unique=True),
    )
    def start(self, size, teachers, request, ramp, window, most, attempts, world, shuffle, names):
        self.size, self.shuffle = size, shuffle
        self.request, self.ramp = request, ramp if ramp and ramp < request else None
        self.row_bytes = dict(list(ROW_BYTES.items())[:teachers])
        self.window, self.most, self.attempts = window, most, attempts
        self.now, self.next_lease = 0.0, 0
        self.world, self.epoch = world, 0
        self._start_epoch({t: {f"{t}-{name}" for name in names} for t in self.row_bytes})
        self.dispatch()

    def _start_epoch(self, replicas: dict[str, set[str]]) -> None:
        alone = Order(self.size, GLOBAL_BATCH, seed=4, shuffle=self.shuffle)
        self.sequence = alone.positions(self.epoch, 0, self.size)[0].tolist()
        self.steps = 0
        self.restart(self.world, 0, replicas)

    def restart(self, world: int, head: int, replicas: dict[str, set[str]]) -> None:
        """A fresh ledger, an empty wire, and the replicas that live join again."""
        self.world, self.batch = world, GLOBAL_BATCH // world
        self.rank = self.steps % world
        self.wire: list[Assignment] = []
        ledger = self.ledger_type(
            rows=self.order(self.rank).rows,
            batch=self.batch,
            request=self.request,
            row_bytes=self.row_bytes,
            window_bytes=self.window,
            max_requests=self.most,
            lease=TERM,
            attempts=self.attempts,
            head=head,
            first_lease=self.next_lease,
            ramp=self.ramp,
        )
        self.watched = WatchedLedger(
            ledger,
            batch=self.batch,
            request=self.request,
            row_bytes=self.row_bytes,
            window=self.window,
            most=self.most,
            term=TERM,
            attempts=self.attempts,
            ramp=self.ramp,
        )
        for teacher, names in replicas.items():
            for name in sorted(names):
                self.watched.join(teacher, name)

    def order(self, rank: int) -> Order:
        return self.order_type(
            self.size, self.batch, seed=4, shuffle=self.shuffle, rank=rank, world=self.world
        )

    @property
    def ledger(self) -> Ledger:
        return self.watched.ledger

    def pick(self, number: int) -> Assignment:
        return self.wire[number % len(self.wire)]

    def teacher(self, number: int) -> str:
        return list(self.row_bytes)[number % len(self.row_bytes)]

    # ---- replicas

    @rule(teacher=PICK, name=NAMES)
    def join(self, teacher, name):
        self.watched.join(self.teacher(teacher), f"{self.teacher(teacher)}-{name}")
        self.dispatch()

    @rule(teacher=PICK, name=NAMES, how=st.sampled_from(["killed", "cut off", "goodbye"]))
    def leave(self, teacher, name, how):
        crashed, in_transit = how != "goodbye", how != "killed"
        self._leave(self.teacher(teacher), name, crashed, in_transit)

    def _leave(self, teacher: str, name: str, crashed: bool, in_transit: bool) -> None:
        self.watched.leave(teacher, f"{teacher}-{name}", crashed)
        if not in_transit:
            self.wire = [a for a in self.wire if a.replica != f"{teacher}-{name}"]
        self._start_again_if_poisoned()
        self.dispatch()

    # ---- messages

    @rule()
    def dispatch(self):
        given = self.watched.dispatch(self.now)
        self.wire += given
        self.next_lease = max([self.next_lease, *(a.lease + 1 for a in given)])

    @precondition(lambda self: self.wire)
    @rule(number=PICK, again=st.booleans(), larger=st.integers(0, 40))
    def reply(self, number, again, larger):
        a = self.pick(number)
        if not again:
            self.wire.remove(a)
        self._deliver(a, larger if a.teacher == "ragged" else 0)

    @precondition(lambda self: self.wire)
    @rule()
    def reply_to_all(self):
        wire, self.wire = self.wire, []
        for a in wire:
            self._deliver(a, 0)

    def _deliver(self, a: Assignment, larger: int) -> None:
        nbytes = int(ROW_BYTES[a.teacher]) * (a.stop - a.start) + larger
        self.watched.accept(a, nbytes)

    @precondition(lambda self: self.wire)
    @rule(number=PICK)
    def lose(self, number):
        self.wire.remove(self.pick(number))

    @precondition(lambda self: self.wire)
    @rule(number=PICK, final=st.integers(0, 9).map(lambda n: n == 0))
    def refuse(self, number, final):
        a = self.pick(number)
        self.wire.remove(a)
        self.watched.refuse(a, self.now, final)
        self._start_again_if_poisoned()

    @precondition(lambda self: self.wire)
    @rule(number=PICK, seconds=st.sampled_from([0.0, 0.5, 4.0]))
    def heartbeat(self, number, seconds):
        self.now += seconds
        replica = self.pick(number).replica
        self.watched.renew([a.lease for a in self.wire if a.replica == replica], self.now)
        self.watched.expire(self.now)

    @rule(seconds=st.sampled_from([0.5, 4.0, TERM, TERM + 5]))
    def time_passes(self, seconds):
        self.now += seconds
        self.watched.expire(self.now)
        self.dispatch()

    @rule(teacher=PICK, name=NAMES)
    def retire(self, teacher, name):
        self.watched.retire(self.teacher(teacher), f"{self.teacher(teacher)}-{name}")
        self.dispatch()

    @rule(teacher=PICK, name=NAMES, seconds=st.sampled_from([0.0, 0.5]))
    def hear(self, teacher, name, seconds):
        self.now += seconds
        self.watched.hear(self.teacher(teacher), f"{self.teacher(teacher)}-{name}", self.now)

    @rule(seconds=st.sampled_from([0.5, SILENCE]))
    def suspect(self, seconds):
        self.now += seconds
        self.watched.suspect(self.now, SILENCE)
        self.dispatch()

    # ---- the student

    @rule(batches=st.integers(1, 4))
    def train(self, batches):
        for _ in range(batches):
            if self.ledger.head < self.ledger.ready():
                self._yield_batch()
        if self.ledger.done:
            self._check_epoch()
            self.epoch += 1
            self._start_epoch(self.watched.replicas)
        self.dispatch()

    def _check_epoch(self) -> None:
        assert self.steps == -(-self.size // GLOBAL_BATCH), "every step was yielded once"

    def _yield_batch(self) -> None:
        head = self.ledger.head
        stop = min(head + self.batch, self.ledger.rows)
        assert stop <= self.ledger.ready(), "whole batches become ready"
        self.watched.advance(stop)
        expected = self.sequence[self.steps * GLOBAL_BATCH : (self.steps + 1) * GLOBAL_BATCH]
        seen = [i for rank in range(self.world) for i in self._real_ids(rank, head)]
        assert seen == expected, f"step {self.steps} of all ranks has the ids of one rank alone"
        self.steps += 1

    def _real_ids(self, rank: int, start: int) -> list[int]:
        order = self.order(rank)
        positions, real = order.positions(self.epoch, start, min(start + self.batch, order.rows))
        return (positions if real is None else positions[real]).tolist()

    @rule(world=st.sampled_from(WORLDS), crash=st.booleans())
    def interrupt(self, world, crash):
        if crash:
            self._start_again(world)
        else:
            self.watched.cancel_all()
        self.dispatch()

    def _start_again_if_poisoned(self) -> None:
        if self.ledger.poisoned:
            self._start_again(self.world)

    def _start_again(self, world: int) -> None:
        """Save the state, start a process with it and let the replicas that live join it."""
        steps = -(-self.ledger.state() // self.batch)
        assert steps == self.steps, "a state counts what was yielded, not what merely arrived"
        self.batch, self.world = GLOBAL_BATCH // world, world
        head = min(steps * self.batch, self.order(0).rows)
        self.restart(world, head, self.watched.replicas)

    def teardown(self):
        if sys.exc_info()[0] is None and hasattr(self, "watched"):
            self._finish()

    def _finish(self) -> None:
        """From any state, with one replica of each teacher alive, the epoch comes to its end."""
        for teacher in self.row_bytes:
            if f"{teacher}-x" in self.watched.retired:
                self.watched.leave(teacher, f"{teacher}-x", crashed=False)
            self.watched.join(teacher, f"{teacher}-x")
        epoch = self.epoch
        for _ in range(20 + 4 * self.watched.count):
            self.dispatch()
            self.reply_to_all()
            self.train(100)
            if self.epoch > epoch:
                return
            if not self.wire:
                self.time_passes(TERM)
        raise AssertionError("a run with live replicas comes to its end")
