"""Where a study is kept: a database that any number of workers share."""

from __future__ import annotations

import random
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError

from pantheon.compress.search.address import DRIVER, Address, address_of, masked
from pantheon.compress.search.lean import LeanStorage
from pantheon.compress.search.patient import POOL, PatientStorage, said_by
from pantheon.errors import ConfigError, MismatchError, StoreError
from pantheon.quote import quoted

VERSION = 1
"""Of what a study's trials mean; raised when older ones would be read wrongly."""

ABOUT = "pantheon.search"
"""The attribute of a study that says what it is about."""

LIMITS = "pantheon.limits"
"""The attribute of a study that has the largest allowed costs, none of them in percent."""

ORIGIN = "pantheon.instead_of"
"""The attribute of a trial that makes up for a lost one: that one's number."""

PATIENCE = 300.0
"""Seconds for which a worker waits for a server that went away."""


def storage_at(
    url: str, heartbeat: float, grace: float, patience: float = PATIENCE
) -> PatientStorage:
    """A database by its address, whose workers give signs of life.

    Args:
        url: of SQLAlchemy, such as ``sqlite:///search.db`` or ``postgresql://user:word@host/db``.
        heartbeat: seconds between signs of life; whole ones.
        grace: seconds without one after which a worker is taken for dead.
        patience: seconds for which a server may be away once it was reached.

    Raises:
        StoreError: it cannot be reached; also later, of whatever is asked.
        ConfigError: no such kind of database, or its driver is not installed.
    """
    address = address_of(url)
    for left in reversed(range(ATTEMPTS)):
        try:
            return _opened(address, heartbeat, grace, patience)
        except DBAPIError as error:
            # Workers that begin at the same time make the same tables.
            if not left or not any(said in str(error).lower() for said in OTHERS):
                raise _refused(address, error) from error
            time.sleep(random.uniform(0.1, 0.5))
        except ImportError as error:
            raise _driverless(address, error) from error
        except Exception as error:  # SQLAlchemy's and the driver's own
            raise _refused(address, error) from error
    raise AssertionError


ATTEMPTS = 20
"""How often tables are made where others make them too."""

OTHERS = ("already exist", "unique", "duplicate", "locked", "deadlock", "concurrently")
"""What databases say then."""


def _refused(address: Address, error: Exception) -> Exception:
    """What to tell of a storage that does not open."""
    told = said_by(error)
    if isinstance(error, AttributeError) and ":***@" not in masked(address.url):
        told = "the server asks for a password, and the address has none"
    kind = ConfigError if isinstance(error, ValueError) else StoreError
    advice = (
        "is it a file that SQLite made, in a folder that is there and may be written to?"
        if address.lite
        else "is the server up, and are the address, the user and the password right?"
    )
    verb = "opened" if address.lite else "reached"
    return kind(f"the storage {masked(address.url)} cannot be {verb}: {told}; {advice}")


def _driverless(address: Address, error: ImportError) -> ConfigError:
    own = address.url.startswith(DRIVER)
    return ConfigError(
        f"the storage {masked(address.url)} needs {error.name or 'a driver'}, which is not "
        f"installed; {'pip install pantheon-kd[postgresql]' if own else 'install it'}"
    )


CONNECTIONS = {
    "pool_size": 2,
    "max_overflow": 1,
    "pool_use_lifo": True,
    "pool_recycle": 600,
    "pool_logging_name": POOL,
}
"""Of a worker to a server: one, another for signs of life, both often enough new."""


def _opened(address: Address, heartbeat: float, grace: float, patience: float) -> PatientStorage:
    kind = LeanStorage if address.url.startswith("postgresql") else PatientStorage
    arguments = {"connect_args": dict(address.arguments)}
    with known_experimental():
        storage = kind(
            address.url,
            0.0 if address.lite else patience,
            engine_kwargs=arguments if address.lite else arguments | CONNECTIONS,
            heartbeat_interval=max(1, round(heartbeat)),
            grace_period=max(2, round(grace)),
            heartbeat_stale_trial_callback=take_over,
        )
    if address.lite:
        _hasten(storage)
    return storage


def _hasten(storage: PatientStorage) -> None:
    """Have SQLite write ahead and wait for the disk less often, and workers take turns.

    A killed worker loses nothing. A transaction has the file to itself from its beginning on:
    else two workers that read at the same time that a trial is waiting would both take it.
    """

    def connected(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # We say when a transaction begins.
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    def begun(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    event.listen(storage.engine, "connect", connected)
    event.listen(storage.engine, "begin", begun)
    storage.engine.dispose()


@contextmanager
def known_experimental() -> Iterator[None]:
    """Without warnings that Optuna may change what we use of it: its version is bounded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


def take_over(study: Study, trial: FrozenTrial) -> None:
    """Have somebody else do what a dead worker was at, once."""
    if ORIGIN not in trial.user_attrs and trial.params:
        study.enqueue_trial(dict(trial.params), user_attrs={ORIGIN: trial.number})


def study_in(
    storage: BaseStorage,
    name: str,
    about: Mapping[str, Any],
    directions: Sequence[StudyDirection],
    sampler: BaseSampler,
    pruner: optuna.pruners.BasePruner | None = None,
) -> Study:
    """The study of a name, made if it is not there.

    Args:
        about: what it is about, as JSON; all workers say the same.
        directions: of its objectives.

    Raises:
        MismatchError: there is one by this name that is about something else.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # Workers tell of trials themselves.
    study = optuna.create_study(
        storage=storage,
        study_name=name,
        directions=list(directions),
        sampler=sampler,
        pruner=pruner or optuna.pruners.NopPruner(),
        load_if_exists=True,
    )
    if study.directions != list(directions):
        held, wanted = (
            ", ".join(each.name.lower() for each in some) for some in (study.directions, directions)
        )
        raise MismatchError(
            f"the study {name!r} is to {held}, and this search to {wanted}; give this search "
            "another name"
        )
    asked = {"version": VERSION, **about}
    found = study.user_attrs.get(ABOUT)
    if found is None and not study.get_trials(deepcopy=False):
        study.set_user_attr(ABOUT, asked)
        found = study.user_attrs[ABOUT]
    if found != asked:
        _refuse(name, found, asked)
    return study


def _refuse(name: str, held: Any, asked: Mapping[str, Any]) -> None:
    if not isinstance(held, Mapping):
        raise MismatchError(
            f"the study {name!r} was not made by this command; give this search another name"
        )
    for key in sorted({*held, *asked}):
        if held.get(key) != asked.get(key):
            raise MismatchError(
                f"the study {name!r} has {key} {quoted(held.get(key))}, and this search "
                f"{quoted(asked.get(key))}; put it back, or give this search another name"
            )


def study_named(url: str, name: str) -> Study:
    """A study that is there, to look at.

    Raises:
        ConfigError: it is not.
        StoreError: its storage cannot be reached.
    """
    path = url.removeprefix("sqlite:///")
    if path == url or Path(path).exists():  # One that is not there would be made.
        try:
            return optuna.load_study(study_name=name, storage=storage_at(url, 20, 60))
        except KeyError:
            pass
    raise ConfigError(
        f"there is no study {name!r} in {masked(url)}; is it the storage of this search, and has a "
        "worker begun?"
    )
