"""Who is blamed after a student was stopped, by a clock that the test moves."""

from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from pantheon.delivery.ledger import Ledger
from student_client.outbox import Outbox
from student_client.vigil import SETTLE_S, Vigil

LEASE = 1.0
STOP = 4.0


@pytest.fixture
def ledger() -> Ledger:
    """One replica, asked at second 0 for all there is."""
    made = Ledger(rows=4, batch=4, request=4, row_bytes={"t": 4}, window_bytes=1 << 20, lease=LEASE)
    made.join("t", "a")
    assert len(made.dispatch(0.0)) == 1
    return made


@pytest.fixture
def vigil(ledger: Ledger) -> Vigil:
    known = SimpleNamespace(welcome=SimpleNamespace(heartbeat=1.0))
    fleet = Mock(clock=lambda: 0.0, patience=60.0)
    fleet.up.return_value = [SimpleNamespace(address="a", supervised=True, teacher="t")]
    outbox = Outbox(fleet, Mock(), Mock(), 0)
    return Vigil(fleet, {"t": known}, ledger, outbox, Mock(), LEASE)


def test_a_lease_runs_out_in_a_wait(vigil: Vigil, ledger: Ledger) -> None:
    assert vigil.begin(0.0) == LEASE
    vigil.look(LEASE)
    assert ledger.counters.expired == 1


def test_after_a_stop_in_a_wait_there_is_time_to_read_what_came(
    vigil: Vigil, ledger: Ledger
) -> None:
    now = vigil.begin(0.0) + STOP
    vigil.look(now)  # woken before the thread that reads the sockets
    assert ledger.counters.expired == 0
    assert vigil.begin(now) == pytest.approx(now + SETTLE_S)
    vigil.look(now + SETTLE_S)
    assert ledger.counters.expired == 1


def test_after_a_stop_in_a_step_there_is_time_to_read_what_came(
    vigil: Vigil, ledger: Ledger
) -> None:
    vigil.begin(0.0)
    vigil.look(0.9)
    assert vigil.begin(0.9 + STOP) == pytest.approx(0.9 + STOP + 0.1 + SETTLE_S)
    assert ledger.counters.expired == 0


def test_one_who_is_stopped_in_every_wait_gives_up_too(vigil: Vigil, ledger: Ledger) -> None:
    now = 0.0
    for _ in range(3):
        now = vigil.begin(now) + STOP
        vigil.look(now)
    assert ledger.counters.expired == 1
