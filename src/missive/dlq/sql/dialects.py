"""What differs between the databases: types that hold the same everywhere, connecting, locks, and words for errors."""

from __future__ import annotations

import json
import sqlite3
from contextlib import suppress
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import Connection, Dialect, Engine

from missive._sqlite import enable_wal
from missive.errors import UsageError

BUSY_SECONDS = 5
_CACHE_KIB = 32768
"""What SQLite may keep of a file in memory: with its own 2 MiB, changes to many records read most pages again."""
_LOCK = 0x4D495353
"""The number, and for MySQL the name, of the lock under which a schema is made or migrated."""
_LOCK_SECONDS = 60
_DRIVERS = {
    "postgresql": ("postgresql+psycopg", "psycopg", "postgres"),
    "mysql": ("mysql+pymysql", "pymysql", "mysql"),
    "mariadb": ("mysql+pymysql", "pymysql", "mysql"),
}
_DEADLOCKS = frozenset({"40P01", "40001", "23505", 1213, 1062})
"""What PostgreSQL and MySQL say of a transaction that may be tried again at once.

The last of each: another one was first to insert the same row, which is found there the next time."""
_UNREACHABLE = frozenset({1044, 1045, 1049, 2003})

LongText = sa.Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")
Bytes = sa.LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")

table_options: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
}


class Text(sa.types.TypeDecorator[str]):
    """Text that each database takes: in other signs where it cannot: half a surrogate, NUL.

    With a length, what is longer is cut.
    """

    impl = sa.Text
    cache_ok = True

    def __init__(self, length: int | None = None) -> None:
        super().__init__()
        self.length = length

    def load_dialect_impl(self, dialect: Dialect) -> sa.types.TypeEngine[Any]:
        """Return a type of the database's own."""
        return dialect.type_descriptor(LongText if self.length is None else sa.String(self.length))

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Return text as it is written, and looked for."""
        if value is None:
            return None
        value = value[: self.length]
        if dialect.name == "postgresql" and "\0" in value:
            value = value.replace("\0", "\N{SYMBOL FOR NULL}")
        return value if value.isascii() else value.encode(errors="backslashreplace").decode()[: self.length]


class JSON(sa.types.TypeDecorator[Any]):
    """JSON in ASCII, in a column of text: no database has an opinion on what is in it."""

    impl = LongText
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:  # noqa: ARG002 - SQLAlchemy's signature
        """Return JSON."""
        return None if value is None else json.dumps(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:  # noqa: ARG002 - SQLAlchemy's signature
        """Return what it says."""
        return None if value is None else json.loads(value)


def connected(url: sa.URL) -> Engine:
    """Return an engine for a database. Raises `UsageError` where its client library is missing."""
    # Parameters stay out of exceptions and logs: they are the messages.
    if url.get_backend_name() == "sqlite":
        engine = sa.create_engine(url, hide_parameters=True, connect_args={"timeout": BUSY_SECONDS})
        sa.event.listen(engine, "connect", _configure_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
        return engine
    driver, library, extra = _DRIVERS[url.get_backend_name()]
    try:
        engine = sa.create_engine(
            url.set(drivername=driver),
            hide_parameters=True,
            connect_args={"connect_timeout": BUSY_SECONDS},
            isolation_level="READ COMMITTED",
            pool_pre_ping=True,  # a server that was started again is no error
        )
    except ModuleNotFoundError:
        missing = f"{url.get_backend_name()} needs {library}: pip install 'missive[{extra}]'"
    else:
        if library == "psycopg":
            sa.event.listen(engine, "connect", _configure_postgresql)
        return engine
    raise UsageError(missing)


def is_known(url: sa.URL) -> bool:
    """Tell whether dead letters can be kept in a database of this kind."""
    return url.get_backend_name() in {"sqlite", *_DRIVERS}


def sort_nothing(connection: Connection) -> None:
    """Have what is asked in an index's order walk that index, from here to the end of the transaction.

    PostgreSQL sorts where it expects few rows, and of what changed within the last minute its statistics tell nothing:
    of two hundred thousand records that a replay queued it expects one.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("SET LOCAL enable_sort = off"))


def lock_schema(connection: Connection) -> None:
    """Keep other processes from making or migrating the schema, until `unlock_schema` and the transaction's end."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
    elif connection.dialect.name in {"mysql", "mariadb"}:
        connection.execute(sa.select(sa.func.get_lock(str(_LOCK), _LOCK_SECONDS)))


def unlock_schema(connection: Connection) -> None:
    """End `lock_schema`, where that is not done by the end of the transaction."""
    if connection.dialect.name in {"mysql", "mariadb"}:
        with suppress(sa.exc.SQLAlchemyError):  # the lock ends with the connection
            connection.execute(sa.select(sa.func.release_lock(str(_LOCK))))


def nulls_first(column: sa.ColumnElement[Any], dialect: Dialect) -> sa.ColumnElement[Any]:
    """Order by a column, what has no value first."""
    return column.nulls_first() if dialect.name == "postgresql" else column.asc()


def is_deadlock(error: sa.exc.DBAPIError) -> bool:
    """Tell whether a transaction that failed may be tried again at once."""
    codes = getattr(error.orig, "sqlstate", None), next(iter(getattr(error.orig, "args", ())), None)
    return not _DEADLOCKS.isdisjoint(codes)


def in_words(error: sa.exc.SQLAlchemyError) -> str:
    """Say what a database raised, without a value: servers quote those in their messages."""
    original = getattr(error, "orig", None)
    if isinstance(original, sqlite3.Error):
        # It names the trouble and never a value, but for a text that is no UTF-8, as in a damaged file.
        return str(original).partition(" with text ")[0]
    if original is None:
        return type(error).__name__
    code = next(iter(getattr(original, "args", ())), None)
    if not isinstance(code, int):  # MySQL's own, which tell more
        code = getattr(original, "sqlstate", None)
    if code in _UNREACHABLE or (isinstance(error, sa.exc.OperationalError) and not _is_code(code)):
        return "it cannot be reached, or refuses the user, the password or the database"
    return f"the server says {code}" if _is_code(code) else type(original).__name__


def _is_code(code: object) -> bool:
    return isinstance(code, int) or (isinstance(code, str) and len(code) == len("40001") and code.isalnum())


def _configure_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # transactions are begun below, and not by the driver's guess
    enable_wal(connection, BUSY_SECONDS)
    for pragma in ("foreign_keys=ON", f"cache_size=-{_CACHE_KIB}"):
        connection.execute(f"PRAGMA {pragma}")


def _configure_postgresql(connection: Any, _record: object) -> None:
    # A plan that was made while a table was empty reads all of it, and is kept for as long as the connection is.
    with connection.cursor() as cursor:
        cursor.execute("SET plan_cache_mode = force_custom_plan")
    connection.commit()


def _begin_sqlite(connection: Connection) -> None:
    # A write that starts as a read can be refused at its first write, whatever the busy timeout.
    write = connection.get_execution_options().get("missive_write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
