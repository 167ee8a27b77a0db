"""A database that is away: asked again as long as patience lasts, and told once."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from optuna.exceptions import StorageInternalError
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, ProgrammingError

from pantheon.compress.search.address import address_of
from pantheon.compress.search.patient import PatientStorage, behind, is_passing
from pantheon.compress.search.storage import known_experimental
from pantheon.errors import StoreError


def told(code: str) -> DBAPIError:
    """An error as pg8000 tells it."""
    return ProgrammingError("SELECT 1", {}, Exception({"C": code, "M": "what happened"}))


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[PatientStorage]:
    address = address_of(f"sqlite:///{tmp_path}/search.db")
    with known_experimental(), closing(
        PatientStorage(address.url, 0.3, heartbeat_interval=1, grace_period=2)
    ) as made:  # fmt: skip
        yield made


def failing(times: int, error: Exception) -> Callable[[], str]:
    """Something to ask that is answered after some errors."""
    left = [error] * times

    def ask() -> str:
        if left:
            raise left.pop()
        return "answer"

    return ask


@pytest.mark.parametrize("code", ["57P01", "57P03", "08006", "40P01", "40001", "53300", "25P03"])
def test_what_passes_is_asked_again(storage: PatientStorage, code: str) -> None:
    assert is_passing(told(code))
    assert storage.asked(failing(3, told(code))) == "answer"
    wrapped = StorageInternalError()
    wrapped.__cause__ = InterfaceError("", {}, Exception("network error"))
    assert storage.asked(failing(2, wrapped)) == "answer"
    assert storage.asked(failing(2, ConnectionResetError())) == "answer"


@pytest.mark.parametrize("code", ["42P01", "53100", "25006", "28P01"])
def test_what_does_not_pass_is_told_at_once(storage: PatientStorage, code: str) -> None:
    with pytest.raises(StoreError, match="cannot do what is asked: what happened"):
        storage.asked(failing(1, told(code)))


def test_an_outage_is_logged_once_and_ends_patience_once(
    storage: PatientStorage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    assert storage.asked(failing(3, told("57P01"))) == "answer"
    assert [r.message.split(" is ")[1].split(" ")[0] for r in caplog.records] == ["away,", "back"]
    away = failing(1000, told("57P01"))
    for _ in range(2):  # The second time, patience is at its end already.
        with pytest.raises(StoreError, match=r"was not back after 0\.3 s: what happened; is the"):
            storage.asked(away)


def test_a_file_does_not_come_back(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/search.db"
    with closing(PatientStorage(url, 0.0)) as storage:
        locked = OperationalError("", {}, Exception("database is locked"))
        with pytest.raises(StoreError, match="cannot do what is asked: database is locked"):
            storage.asked(failing(1, locked))


def test_nobody_is_dead_who_could_give_no_sign_of_life(storage: PatientStorage) -> None:
    study = storage.create_new_study([])
    trial = storage.create_new_trial(study)
    storage.record_heartbeat(trial)
    with storage.engine.begin() as connection:
        connection.execute(text("UPDATE trial_heartbeats SET heartbeat = '2000-01-01 00:00:00'"))
    assert storage._get_stale_trial_ids(study) == [trial]
    assert storage._get_stale_trial_ids(study) == []  # It was looked at just now.
    time.sleep(1.1)
    assert storage.asked(failing(1, told("57P01"))) == "answer"
    assert storage._get_stale_trial_ids(study) == []
    time.sleep(2.1)  # Longer than workers may be silent.
    assert storage._get_stale_trial_ids(study) == [trial]


def test_the_error_of_a_database_is_found_behind_those_it_leads_to() -> None:
    lost = StoreError("lost")
    with pytest.raises(NameError) as found:  # noqa: PT012
        try:
            raise lost
        finally:
            unbound  # type: ignore[name-defined]  # noqa: B018, F821
    assert behind(found.value, StoreError) is lost
    assert behind(ValueError("other"), StoreError) is None
