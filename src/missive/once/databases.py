"""Databases: what the transactional form asks of the connection that a handler has, whichever library made it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Generator, Sequence
from typing import Any, Final, Literal, NamedTuple, TypeAlias, TypeVar

from missive.errors import UsageError

Dialect: TypeAlias = Literal["sqlite", "postgresql", "mysql"]

T = TypeVar("T")


class Statement(NamedTuple):
    """One statement, with `?` for its values."""

    statement: str
    values: Sequence[object] = ()
    wants_row: bool = False
    """Whether its first row is the answer, and not how many rows it changed."""


Statements: TypeAlias = Generator[Statement, Any, T]
"""Statements that are executed one after the other; each is sent its answer."""

_DRIVERS: Final[dict[str, Dialect]] = {
    "sqlite3": "sqlite",
    "psycopg": "postgresql",
    "psycopg2": "postgresql",
    "pymysql": "mysql",
    "MySQLdb": "mysql",
}
_SQLALCHEMY: Final[dict[str, Dialect]] = {
    "sqlite": "sqlite",
    "postgresql": "postgresql",
    "mysql": "mysql",
    "mariadb": "mysql",
}
_KNOWN: Final = (
    "SQLAlchemy's Connection and Session, and connections of sqlite3, psycopg, psycopg2, pymysql and mysqlclient"
)
_IDLE: Final = 0
"""libpq's status of a connection that is in no transaction."""
_IN_TRANSACTION: Final = 1
"""The flag of MySQL's server status for a connection that is in one."""


def run(connection: Any, steps: Callable[[Dialect], Statements[T]]) -> T:
    """Execute steps in a connection's transaction. Raises `UsageError` for no connection that can, or none at all."""
    if _is_sqlalchemy(connection):
        if _is_async(connection):
            raise UsageError(f"a {_kind(connection)} is asynchronous: await context.aclaim(connection)")
        return _run_sqlalchemy(connection, steps)
    driver = _driver(connection)
    if _is_async(connection):
        raise UsageError(f"an asynchronous connection of {driver} was given: await context.aclaim(connection)")
    _refuse_autocommit(connection, driver)
    placeholder = _placeholder(driver)
    cursor = connection.cursor()
    try:
        return _drive(steps(_DRIVERS[driver]), lambda step: _execute(cursor, step, placeholder))
    finally:
        cursor.close()


async def run_async(connection: Any, steps: Callable[[Dialect], Statements[T]]) -> T:
    """Execute steps in the transaction of an asynchronous connection: SQLAlchemy's, or psycopg's."""
    if _is_sqlalchemy(connection):
        if not _is_async(connection):
            raise UsageError(f"a {_kind(connection)} is not asynchronous: context.claim(connection)")
        return await connection.run_sync(lambda sync: _run_sqlalchemy(sync, steps))  # type: ignore[no-any-return]
    driver = _driver(connection)
    if not _is_async(connection):
        raise UsageError(f"a connection of {driver} is not asynchronous: context.claim(connection)")
    _refuse_autocommit(connection, driver)
    placeholder = _placeholder(driver)
    running = steps(_DRIVERS[driver])
    async with connection.cursor() as cursor:
        try:
            step = next(running)
            while True:
                await cursor.execute(step.statement.replace("?", placeholder), step.values)
                step = running.send(await cursor.fetchone() if step.wants_row else cursor.rowcount)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


def _drive(running: Statements[T], execute: Callable[[Statement], Any]) -> T:
    try:
        step = next(running)
        while True:
            step = running.send(execute(step))
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]


def _execute(cursor: Any, step: Statement, placeholder: str) -> Any:
    cursor.execute(step.statement.replace("?", placeholder), tuple(step.values))
    return cursor.fetchone() if step.wants_row else cursor.rowcount


# SQLAlchemy, which is not imported for this: whoever has a connection of its has imported it


def _run_sqlalchemy(given: Any, steps: Callable[[Dialect], Statements[T]]) -> T:
    connection = given if hasattr(given, "exec_driver_sql") else _of_session(given)
    dialect = _SQLALCHEMY.get(connection.dialect.name)
    if dialect is None:
        raise UsageError(
            f"effects are claimed in SQLite, PostgreSQL, MySQL and MariaDB, not in {connection.dialect.name}"
        )
    if not connection.in_transaction():
        connection.begin()  # as its first statement would; what commits by itself can be told then
    raw = connection.connection.driver_connection
    driver = _driver_of(raw)
    if driver is not None:
        _refuse_autocommit(raw, driver)
    return _drive(steps(dialect), lambda step: _execute_sqlalchemy(connection, step))


def _of_session(given: Any) -> Any:
    if not hasattr(given, "get_bind"):
        raise UsageError(f"a {_kind(given)} of SQLAlchemy has no transaction: claim with a Connection or a Session")
    return given.connection()


def _execute_sqlalchemy(connection: Any, step: Statement) -> Any:
    import sqlalchemy  # noqa: PLC0415 - see above

    head, *tail = step.statement.split("?")
    named = head + "".join(f":v{place}{part}" for place, part in enumerate(tail))
    values = {f"v{place}": value for place, value in enumerate(step.values)}
    result = connection.execute(sqlalchemy.text(named), values)
    return result.first() if step.wants_row else result.rowcount


def _is_sqlalchemy(connection: object) -> bool:
    return any(cls.__module__.startswith("sqlalchemy.") for cls in type(connection).__mro__)


def _is_async(connection: object) -> bool:
    if any(cls.__module__.startswith("sqlalchemy.ext.asyncio") for cls in type(connection).__mro__):
        return True
    return inspect.iscoroutinefunction(getattr(connection, "commit", None))


# Drivers


def _driver(connection: object) -> str:
    driver = _driver_of(connection)
    if driver is None:
        raise UsageError(f"effects are claimed with {_KNOWN}, and not with a {_kind(connection)}")
    return driver


def _driver_of(connection: object) -> str | None:
    """Return the name of the DB-API module of which something is a connection, or None."""
    for cls in type(connection).__mro__:
        driver = cls.__module__.partition(".")[0]
        if driver in _DRIVERS and hasattr(connection, "cursor"):
            return driver
    return None


def _placeholder(driver: str) -> str:
    return "?" if sys.modules[driver].paramstyle == "qmark" else "%s"


def _refuse_autocommit(connection: Any, driver: str) -> None:
    """Refuse a connection that would commit the claim by itself: after a crash the effect would never happen."""
    if _COMMITS_BY_ITSELF[driver](connection):
        raise UsageError(
            f"this connection of {driver} commits each statement by itself, and so the claim before its effect: begin a"
            " transaction first, or turn autocommit off"
        )


def _sqlite_commits(connection: Any) -> bool:
    if connection.in_transaction:
        return False
    autocommit = getattr(connection, "autocommit", -1)  # from Python 3.12 on; -1 is what was always
    return connection.isolation_level is None if autocommit == -1 else bool(autocommit)


def _libpq_commits(connection: Any) -> bool:
    return bool(connection.autocommit) and connection.info.transaction_status == _IDLE


def _pymysql_commits(connection: Any) -> bool:
    return bool(connection.get_autocommit()) and not connection.server_status & _IN_TRANSACTION


def _mysqlclient_commits(connection: Any) -> bool:
    return bool(connection.get_autocommit())  # it does not tell whether one was begun all the same


_COMMITS_BY_ITSELF: Final[dict[str, Callable[[Any], bool]]] = {
    "sqlite3": _sqlite_commits,
    "psycopg": _libpq_commits,
    "psycopg2": _libpq_commits,
    "pymysql": _pymysql_commits,
    "MySQLdb": _mysqlclient_commits,
}


def _kind(thing: object) -> str:
    return type(thing).__name__
