"""The table behind `context.claim`: one row for each effect, inserted in the transaction of the effect."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from missive.errors import OnceConflict, StoreError
from missive.once.databases import Dialect, Statement, Statements, run, run_async

_TABLE: Final = """CREATE TABLE IF NOT EXISTS missive_once (
    service VARCHAR(255) NOT NULL,
    handler VARCHAR(255) NOT NULL,
    digest CHAR(64) NOT NULL,
    body CHAR(64) NOT NULL,
    claimed_at DOUBLE PRECISION NOT NULL,
    expires_at DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (service, handler, digest)"""
SCHEMAS: Final[dict[Dialect, tuple[str, ...]]] = {
    "sqlite": (f"{_TABLE}\n)", "CREATE INDEX IF NOT EXISTS missive_once_expires ON missive_once (expires_at)"),
    "mysql": (
        f"""{_TABLE},
    INDEX missive_once_expires (expires_at)
) ENGINE=InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin""",
    ),
}
"""The statements that create the table, by database."""
SCHEMAS["postgresql"] = SCHEMAS["sqlite"]

_CREATED: Final = "SELECT to_regclass('missive_once_expires') IS NOT NULL"
_LOCK: Final = "SELECT pg_advisory_xact_lock(1296651092)"
"""PostgreSQL's CREATE … IF NOT EXISTS fails when another transaction is creating the same table."""

_INSERT: Final = "INTO missive_once (service, handler, digest, body, claimed_at, expires_at) VALUES (?, ?, ?, ?, ?, ?)"
_ROW: Final = "WHERE service = ? AND handler = ? AND digest = ?"
_TRIES: Final = 10


class Effect(NamedTuple):
    """An effect: the digest of its key, and the body that causes it. `ttl` is in seconds."""

    service: str
    handler: str
    digest: str
    body: bytes
    ttl: float


def claim(connection: Any, effect: Effect, clock: Callable[[], float] = time.time) -> bool:
    """Insert an effect in the transaction of a connection. Return False when the effect has already happened.

    A concurrent claim of the same effect waits until this transaction ends. Raise `OnceConflict` when the effect has
    happened for another body, `UsageError` for a connection of an unsupported library and for one that commits each
    statement, and the errors of the database.
    """
    return run(connection, lambda dialect: _claim(dialect, effect, clock()))


async def aclaim(connection: Any, effect: Effect) -> bool:
    """Insert an effect in the transaction of an asynchronous connection; else as `claim`."""
    return await run_async(connection, lambda dialect: _claim(dialect, effect, time.time()))


def _claim(dialect: Dialect, effect: Effect, now: float) -> Statements[bool]:
    row = (effect.service, effect.handler, effect.digest)
    body = hashlib.sha256(effect.body).hexdigest()
    # An existing row must not fail the statement, because that would abort PostgreSQL's transaction.
    if dialect == "mysql":
        insert = f"INSERT IGNORE {_INSERT}"
    else:
        insert = f"INSERT {_INSERT} ON CONFLICT (service, handler, digest) DO NOTHING"
    # A plain SELECT reads MySQL's snapshot, which misses a row that another transaction has just committed.
    share = " LOCK IN SHARE MODE" if dialect == "mysql" else ""
    select = f"SELECT body, expires_at FROM missive_once {_ROW}{share}"  # noqa: S608 - contains no value
    # An expired row counts as missing.
    renew = f"UPDATE missive_once SET body = ?, claimed_at = ?, expires_at = ? {_ROW} AND expires_at <= ?"  # noqa: S608
    for _ in range(_TRIES):
        if (yield Statement(insert, (*row, body, now, now + effect.ttl))) == 1:
            return True
        there = yield Statement(select, row, wants_row=True)
        if there is None:  # purged in the meantime
            continue
        known, expires_at = there
        if expires_at > now:
            if known != body:
                raise OnceConflict
            return False
        if (yield Statement(renew, (body, now, now + effect.ttl, *row, now))) == 1:
            return True
    raise StoreError(f"the table missive_once changed in each of {_TRIES} attempts to claim an effect. Retry later")


def create_table(connection: Any) -> None:
    """Create the table `missive_once` if it does not exist. On MySQL and MariaDB, this ends the transaction.

    Several processes may call the function at the same time. On PostgreSQL, the others wait until the transaction of
    the first one ends.

    `connection` is a connection that `context.claim` accepts. Raise `UsageError` as `claim` does, and the errors of the
    database.
    """
    run(connection, _create)


def _create(dialect: Dialect) -> Statements[None]:
    if dialect == "postgresql":
        if (yield Statement(_CREATED, wants_row=True))[0]:
            return
        yield Statement(_LOCK, wants_row=True)
    for statement in SCHEMAS[dialect]:
        yield Statement(statement)


def purge(connection: Any, *, limit: int = 10_000, clock: Callable[[], float] = time.time) -> int:
    """Delete at most `limit` effects whose ttl has passed, and return their number.

    The caller commits, and calls again until it returns 0.
    """
    return run(connection, lambda dialect: _purge(dialect, int(limit), clock()))


def _purge(dialect: Dialect, limit: int, now: float) -> Statements[int]:
    if dialect == "mysql":
        deleted: int = yield Statement(f"DELETE FROM missive_once WHERE expires_at <= ? LIMIT {limit}", (now,))  # noqa: S608
        return deleted
    key = "service, handler, digest"
    some = f"SELECT {key} FROM missive_once WHERE expires_at <= ? LIMIT {limit}"  # noqa: S608 - contains only an int
    deleted = yield Statement(f"DELETE FROM missive_once WHERE ({key}) IN ({some})", (now,))  # noqa: S608 - as above
    return deleted
