"""Databases: run the statements of the transactional form on the connection of a handler, whatever its library."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Generator, Sequence
from typing import Any, Final, Literal, NamedTuple, TypeAlias, TypeVar

from missive.errors import UsageError

Dialect: TypeAlias = Literal["sqlite", "postgresql", "mysql"]

T = TypeVar("T")


class Statement(NamedTuple):
    """An SQL statement, with `?` for its values."""

    statement: str
    values: Sequence[object] = ()
    wants_row: bool = False
    """Whether the result is the first row instead of the number of changed rows."""


Statements: TypeAlias = Generator[Statement, Any, T]
"""Statements to execute one after another. The generator receives the result of each."""

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
"""libpq's transaction status of a connection outside of a transaction."""
_IN_TRANSACTION: Final = 1
"""The flag in MySQL's server status of a connection inside a transaction."""


def run(connection: Any, steps: Callable[[Dialect], Statements[T]]) -> T:
    """Execute statements in the transaction of a connection, and return the result of the generator.

    Raise `UsageError` for an asynchronous connection, for a connection of an unsupported library, for one that was
    closed, and for one that commits each statement.
    """
    if _is_sqlalchemy(connection):
        if _is_async(connection):
            raise UsageError(f"a {type(connection).__name__} is asynchronous. Use await context.aclaim(connection)")
        return _run_sqlalchemy(connection, steps)
    driver = _driver(connection)
    if _is_async(connection):
        raise UsageError(f"this connection of {driver} is asynchronous. Use await context.aclaim(connection)")
    _refuse_closed(connection, driver)
    _refuse_autocommit(connection, driver)
    placeholder = _placeholder(driver)
    cursor = connection.cursor()
    try:
        return _drive(steps(_DRIVERS[driver]), lambda step: _execute(cursor, step, placeholder))
    finally:
        cursor.close()


async def run_async(connection: Any, steps: Callable[[Dialect], Statements[T]]) -> T:
    """Execute statements in the transaction of an asynchronous connection, of SQLAlchemy or psycopg; else as `run`."""
    if _is_sqlalchemy(connection):
        if not _is_async(connection):
            raise UsageError(f"a {type(connection).__name__} is not asynchronous. Use context.claim(connection)")
        return await connection.run_sync(lambda sync: _run_sqlalchemy(sync, steps))  # type: ignore[no-any-return]
    driver = _driver(connection)
    if not _is_async(connection):
        raise UsageError(f"this connection of {driver} is not asynchronous. Use context.claim(connection)")
    _refuse_closed(connection, driver)
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


# SQLAlchemy. This module does not import it: a connection of SQLAlchemy proves that it is imported


def _run_sqlalchemy(given: Any, steps: Callable[[Dialect], Statements[T]]) -> T:
    connection = given if hasattr(given, "exec_driver_sql") else _of_session(given)
    dialect = _SQLALCHEMY.get(connection.dialect.name)
    if dialect is None:
        raise UsageError(
            f"effects can be claimed in SQLite, PostgreSQL, MySQL and MariaDB, not in {connection.dialect.name}"
        )
    if not connection.in_transaction():
        connection.begin()  # as its first statement would, so that autocommit can be detected
    raw = connection.connection.driver_connection
    driver = _driver_of(raw)
    if driver is not None:
        _refuse_autocommit(raw, driver)
    return _drive(steps(dialect), lambda step: _execute_sqlalchemy(connection, step))


def _of_session(given: Any) -> Any:
    if not hasattr(given, "get_bind"):
        raise UsageError(
            f"a {type(given).__name__} of SQLAlchemy has no transaction. Claim with a Connection or a Session"
        )
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
        raise UsageError(f"effects can be claimed with {_KNOWN}, not with a {type(connection).__name__}")
    return driver


def _driver_of(connection: object) -> str | None:
    """Return the name of the DB-API module of a connection, or None for another object."""
    for cls in type(connection).__mro__:
        driver = cls.__module__.partition(".")[0]
        if driver in _DRIVERS and hasattr(connection, "cursor"):
            return driver
    return None


def _placeholder(driver: str) -> str:
    return "?" if sys.modules[driver].paramstyle == "qmark" else "%s"


def _refuse_closed(connection: Any, driver: str) -> None:
    """Raise `UsageError` for a connection that its application has closed. A lost connection raises its own error."""
    if _IS_CLOSED.get(driver, lambda _: False)(connection):
        raise UsageError(
            f"this connection of {driver} is closed. `with connection:` closes it at its end; use"
            f" {_TRANSACTION[driver]} instead"
        )


def _refuse_autocommit(connection: Any, driver: str) -> None:
    """Raise `UsageError` for a connection that commits each statement.

    The claim would be durable before its effect, and after a crash the effect would never happen.
    """
    if _COMMITS_EACH_STATEMENT[driver](connection):
        raise UsageError(
            f"this connection of {driver} commits each statement, and would commit the claim before its effect. Begin a"
            " transaction first, or turn autocommit off"
        )


def _sqlite_commits(connection: Any) -> bool:
    if connection.in_transaction:
        return False
    autocommit = getattr(connection, "autocommit", -1)  # -1 means the behaviour before Python 3.12
    return connection.isolation_level is None if autocommit == -1 else bool(autocommit)


def _libpq_commits(connection: Any) -> bool:
    return bool(connection.autocommit) and connection.info.transaction_status == _IDLE


def _pymysql_commits(connection: Any) -> bool:
    return bool(connection.get_autocommit()) and not connection.server_status & _IN_TRANSACTION


def _mysqlclient_commits(connection: Any) -> bool:
    return bool(connection.get_autocommit())  # the library does not report an explicit transaction


_COMMITS_EACH_STATEMENT: Final[dict[str, Callable[[Any], bool]]] = {
    "sqlite3": _sqlite_commits,
    "psycopg": _libpq_commits,
    "psycopg2": _libpq_commits,
    "pymysql": _pymysql_commits,
    "MySQLdb": _mysqlclient_commits,
}
_IS_CLOSED: Final[dict[str, Callable[[Any], bool]]] = {
    "psycopg": lambda connection: connection.closed and not connection.broken,
    "pymysql": lambda connection: connection._closed,  # noqa: SLF001 - `open` is also false for a lost connection
}
_TRANSACTION: Final = {
    "psycopg": "`with connection.transaction():`",
    "pymysql": "connection.commit() and connection.rollback()",
}
"""A transaction that leaves its connection open."""
