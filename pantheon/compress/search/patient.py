"""A database that may go away for a while: what is asked of it is asked again until it is back."""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError

from pantheon.compress.search.address import masked
from pantheon.errors import StoreError

logger = logging.getLogger(__name__)

FROZEN = 20
"""Seconds in the middle of a change after which the server gives a worker up, and its locks."""

TURNS = ("40001", "40P01")
"""What PostgreSQL says where two workers are in each other's way, and one has to begin again."""

GONE = ("08", "57P01", "57P02", "57P03", "53300", "25P03")
"""How its codes begin where a connection is over or cannot be had, and later one can."""

ASKED = (
    "create_new_study", "set_study_user_attr", "set_study_system_attr", "get_study_id_from_name",
    "get_study_name_from_id", "get_study_directions", "get_study_user_attrs",
    "get_study_system_attrs", "get_all_studies", "_create_new_trial", "_set_trial_param",
    "set_trial_state_values", "set_trial_intermediate_value", "set_trial_user_attr",
    "set_trial_system_attr", "get_trial_id_from_study_id_trial_number", "get_trial", "_get_trials",
    "_get_best_trial_id",
)  # fmt: skip
"""What may be asked twice. A trial that was made although nobody was told of it has no sign of
life, and is given up; all others change the same thing to the same value."""

POOL = "pantheon"
"""The name of the pool of connections in logs."""

T = TypeVar("T")


def code_of(error: DBAPIError) -> str:
    """The five characters by which PostgreSQL says what happened; none for other databases."""
    original: Any = error.orig
    told = original.args[0] if getattr(original, "args", ()) else None
    if isinstance(told, dict):  # pg8000
        return str(told.get("C", ""))
    return str(getattr(original, "sqlstate", None) or getattr(original, "pgcode", None) or "")


def is_passing(error: BaseException | None) -> bool:
    """Whether the same may be answered if it is asked again."""
    if not isinstance(error, DBAPIError):
        return isinstance(error, OSError)  # pg8000's, while it connects
    code = code_of(error)
    if code:
        return code in TURNS or code.startswith(GONE)
    return error.connection_invalidated or isinstance(error, InterfaceError | OperationalError)


def said_by(error: BaseException | None) -> str:
    """What a database said, in one line."""
    if isinstance(error, StorageInternalError):
        error = error.__cause__
    original: Any = error.orig if isinstance(error, DBAPIError) else error
    told = original.args[0] if getattr(original, "args", ()) else original
    text = told.get("M", told) if isinstance(told, dict) else told
    return masked(" ".join(str(text).split()))[:300]


class PatientStorage(RDBStorage):
    """A database, asked again while it is away.

    A server that was away for long has no sign of life of any worker. So for as long as workers
    may be silent, nobody is taken for dead after it has come back.

    Args:
        url: with the driver's name, as in `address_of`.
        patience: seconds for which it may be away; 0 for a file, which does not come back.
        more: as of `RDBStorage`.

    Raises:
        StoreError: of whatever is asked: it was away for longer, or cannot do it.
    """

    def __init__(self, url: str, patience: float, **more: Any) -> None:
        # It tells with a traceback of each connection that breaks, of which we tell in a line.
        logging.getLogger(f"sqlalchemy.pool.impl.QueuePool.{POOL}").setLevel(logging.CRITICAL)
        self.patience = patience
        self._lock, self._pulse = threading.Lock(), threading.Lock()
        self._away: float | None = None
        self._fresh: float | None = None
        self._beating: tuple[int | None, float] = None, 0.0
        self._looked = -math.inf
        try:
            super().__init__(url, **more)
        except BaseException:
            self.close()
            raise
        if self.engine.dialect.name == "postgresql":
            event.listen(self.engine, "connect", self._connected)
            event.listen(self.engine, "handle_error", _tell_gone)
            self.engine.dispose()

    def close(self) -> None:
        """Give the connections up; they are made again if anything more is asked."""
        if hasattr(self, "engine"):  # Its address may not have been one.
            self.engine.dispose()

    def asked(self, ask: Callable[[], T]) -> T:
        """An answer, waited for while the database is away."""
        wait = 0.0
        while True:
            try:
                answer = ask()
            except (SQLAlchemyError, OSError) as error:
                self._missed(error)
            except StorageInternalError as error:
                self._missed(error.__cause__)
            else:
                self._answered()
                return answer
            time.sleep(wait * random.uniform(0.5, 1))
            wait = min(max(0.05, 2 * wait), 2)

    def record_heartbeat(self, trial_id: int) -> None:
        """Give a sign of life: the first of a trial for certain, others if they can be.

        There is none soon after another.
        """
        with self._pulse:
            beating, at = self._beating
            if beating != trial_id:
                self.asked(lambda: self._beat(trial_id))
                self._beating = trial_id, time.monotonic()
                return
            if time.monotonic() - at < (self.heartbeat_interval or 0) / 2:
                return
            try:
                self._beat(trial_id)
                self._beating = trial_id, time.monotonic()
            except (SQLAlchemyError, OSError, StorageInternalError) as error:
                logger.warning(
                    "no sign of life could be given, the next one may: %s", said_by(error)
                )
                self._fresh = time.monotonic()

    def _beat(self, trial_id: int) -> None:
        super().record_heartbeat(trial_id)

    def _get_stale_trial_ids(self, study_id: int) -> list[int]:
        now, interval = time.monotonic(), self.heartbeat_interval or 0
        if now - self._looked < interval:
            return []  # Nobody can have fallen silent for long since then.
        self._looked = now
        stale = self.asked(lambda: super(PatientStorage, self)._get_stale_trial_ids(study_id))
        silent = self.grace_period or 0
        if self._fresh is not None and now - self._fresh < silent:
            return []
        return stale

    def _missed(self, error: BaseException | None) -> None:
        """Note that there was no answer.

        Raises:
            StoreError: there will be none.
        """
        if not is_passing(error) or not self.patience:
            raise StoreError(
                f"the storage {masked(self.url)} cannot do what is asked: {said_by(error)}"
            ) from error
        if isinstance(error, DBAPIError) and code_of(error) in TURNS:
            return
        with self._lock:
            now = time.monotonic()
            self._fresh = now
            if self._away is None:
                self._away = now
                logger.warning(
                    "the storage %s is away, and is asked again for %g s: %s",
                    masked(self.url),
                    self.patience,
                    said_by(error),
                )
            if now - self._away > self.patience:
                raise StoreError(
                    f"the storage {masked(self.url)} went away, and was not back after "
                    f"{self.patience:g} s: {said_by(error)}; is the server up? What was told is "
                    "kept. Start this worker again when the server answers; what it was at is "
                    "given to another"
                ) from error

    def _answered(self) -> None:
        if self._away is not None:
            with self._lock:
                away, self._away = self._away, None
            if away is not None:
                logger.warning(
                    "the storage %s is back after %.1f s",
                    masked(self.url),
                    time.monotonic() - away,
                )

    def _connected(self, connection: Any, _: Any) -> None:
        """Have the server free what a frozen worker locks, and note how long it has been up."""
        cursor = connection.cursor()
        cursor.execute("SET SESSION TIME ZONE 'UTC'")  # Which knows no summer.
        cursor.execute(f"SET SESSION idle_in_transaction_session_timeout = '{FROZEN}s'")
        cursor.execute("SELECT extract(epoch FROM clock_timestamp() - pg_postmaster_start_time())")
        up = time.monotonic() - float(cursor.fetchone()[0])
        cursor.close()
        connection.commit()
        self._fresh = up if self._fresh is None else max(self._fresh, up)


def _tell_gone(context: Any) -> None:
    """Have SQLAlchemy give up connections whose end the server told, rather than the network."""
    error = context.sqlalchemy_exception
    if isinstance(error, DBAPIError) and code_of(error).startswith(GONE):
        context.is_disconnect = True


def _patient(name: str) -> Callable[..., Any]:
    method = getattr(RDBStorage, name)

    @wraps(method)
    def again(self: PatientStorage, *args: Any, **kwargs: Any) -> Any:
        return self.asked(lambda: method(self, *args, **kwargs))

    return again


for _name in ASKED:
    setattr(PatientStorage, _name, _patient(_name))


E = TypeVar("E", bound=BaseException)


def behind(error: BaseException, kind: type[E]) -> E | None:
    """The error of a kind that led to another one, if one did.

    Optuna asks the database what became of a trial while it handles an error of the database, and
    so hides it.
    """
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, kind):
        seen = seen.__cause__ or seen.__context__
    return seen
