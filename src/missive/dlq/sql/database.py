"""The database of a dead letter store: opening, transactions, and translated errors."""

from __future__ import annotations

import contextlib
import logging
import random
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from missive._sqlite import create_private, erase_log, network_filesystem, readable_by_others
from missive.dlq.contract import Sink
from missive.dlq.retention import Retention
from missive.dlq.sql.addresses import database_url, is_elsewhere
from missive.dlq.sql.deadlines import Deadlines
from missive.dlq.sql.dialects import connected, is_deadlock, is_rejection, reason
from missive.dlq.sql.migrations import migrate
from missive.dlq.times import AheadCheck, wall
from missive.dlq.translation import Translation
from missive.errors import RecordRejected, StoreError, StoreRefused, UsageError
from missive.privacy import redact_url
from missive.urls import parse_url

AT_ONCE = 500
"""Largest number of rows or values in one statement."""
STEP = 2000
"""Largest number of records that one transaction changes. Other writers wait for its end."""
_TRIES = 20
_PAUSE = 0.01

T = TypeVar("T")

logger = logging.getLogger("missive")


def _describe(error: Exception) -> tuple[type[StoreError], str]:
    if isinstance(error, sa.exc.SQLAlchemyError):
        why = reason(error)
        if is_rejection(error):
            return RecordRejected, why
        if "malformed" in why:
            return StoreRefused, f"{why}; keep the file and recover its contents: sqlite3 FILE .recover"
        return (StoreRefused if "not a database" in why else StoreError), why
    if isinstance(error, OSError):
        return StoreError, error.strerror or type(error).__name__
    return RecordRejected, "a text or a number is out of range"  # from a driver, before it sends the statement


translated = Translation((sa.exc.SQLAlchemyError, OSError, UnicodeEncodeError, OverflowError), _describe)


class Database:
    """The base of the parts of the store: one database."""

    patience = Sink.patience
    """See `Sink`."""

    def __init__(self, url: str, *, create: bool = True, clock: Callable[[], float] = wall) -> None:
        self.url = redact_url(url)
        self._clock = clock
        self._ahead = AheadCheck()
        parts = parse_url(url)
        self.retention, others = Retention.parse(parts.parameters)
        self._cleartext = parts.parameters.get("tls") == "off" and is_elsewhere(parts)
        self._open(database_url(parts, others, self.url), create=create)

    @translated("opened")
    def _open(self, parsed: sa.URL, *, create: bool) -> None:
        self.on_server = parsed.get_backend_name() != "sqlite"
        if not self.on_server:
            path = Path(str(parsed.database))
            if (disk := network_filesystem(path)) is not None:
                raise StoreRefused(
                    f"{self.url} is on a network disk ({disk}), where SQLite loses data: use a local disk"
                )
            if create:
                create_private(path)
            elif not path.exists():
                raise UsageError(f"there is no dead letter store {self.url}")
        self._engine: Engine = connected(parsed, Deadlines(lambda: self.patience))
        try:
            migrate(self._engine, self._write, self.url, create=create)
        except BaseException:
            self._engine.dispose()
            raise
        for risk in self.diagnose():
            logger.warning("the dead letter store can be read: %s", risk)

    def diagnose(self) -> list[str]:
        """Describe a file that other users can read, and a connection that may be in clear text."""
        if self._cleartext:
            return [f"{self.url} may be in clear text (tls=off)"]
        path = self._engine.url.database
        risk = None if self.on_server or path is None else readable_by_others(Path(path))
        return [] if risk is None else [risk]

    def _erase(self) -> None:
        """Remove deleted content from the write-ahead log of a file."""
        if not self.on_server:
            with contextlib.closing(self._engine.raw_connection()) as connection:
                erase_log(connection.driver_connection)  # type: ignore[arg-type]

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    def _read(self) -> Connection:
        return self._engine.connect()

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        """Begin a transaction for writing, and commit it at the end."""
        with self._engine.connect() as connection:
            connection = connection.execution_options(missive_write=True)  # noqa: PLW2901 - it is the same connection
            with connection.begin():
                yield connection

    def _tried(self, work: Callable[[Connection], T]) -> T:
        """Call `work` in a transaction. Retry if the database aborts it to end a deadlock."""
        for tried in range(_TRIES):
            try:
                with self._write() as connection:
                    return work(connection)
            except sa.exc.DBAPIError as error:
                if not is_deadlock(error):
                    raise
            time.sleep(random.random() * _PAUSE * tried)  # noqa: S311 - so that the same transactions do not collide again
        with self._write() as connection:
            return work(connection)


def in_steps(ids: Collection[str]) -> Iterator[Sequence[str]]:
    """Yield sorted portions of ids for one transaction each; an empty portion if there are no ids."""
    every = sorted(set(ids))
    for start in range(0, len(every) or 1, STEP):
        yield every[start : start + STEP]


def portions(things: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Yield portions that fit into one statement."""
    for start in range(0, len(things), AT_ONCE):
        yield things[start : start + AT_ONCE]
