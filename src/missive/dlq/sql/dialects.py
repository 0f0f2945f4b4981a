"""The differences between databases: column types, connections, locks and errors."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import Connection, Dialect, Engine

from missive._sqlite import enable_wal
from missive.dlq.sql.causes import connection_cause, is_connection_code
from missive.dlq.sql.deadlines import Deadlines, silence_of
from missive.errors import StoreError, UsageError, how_to_install

BUSY_SECONDS = 5
"""Timeout for a lock of SQLite, and for a connection to a server, in seconds."""
_CACHE_KIB = 32768
"""Size of SQLite's page cache, in KiB. With the default of 2 MiB, large changes read most pages again."""
_LOCK = 0x4D495353
"""Number (on MySQL the start of the name) of the lock that creation and migration of the schema hold."""
_LOCK_SECONDS = 60
_LIBPQ = 160000
"""The oldest libpq that knows `sslrootcert=system` and `require_auth`."""
_DRIVERS = {
    "postgresql": ("postgresql+psycopg", "psycopg", "postgres"),
    "mysql": ("mysql+pymysql", "pymysql", "mysql"),
    "mariadb": ("mysql+pymysql", "pymysql", "mysql"),
}
_LOGGERS = ("sqlalchemy.pool", "psycopg")
"""Loggers of the libraries that quote exceptions of the driver."""
_DEADLOCKS = frozenset({"40P01", "40001", "23505", 1213, 1062})
"""Error codes of PostgreSQL and MySQL after which a transaction can be tried again at once.

23505 and 1062 mean that another transaction has inserted the same row. The next try finds the row."""
_REJECTED = frozenset({1153, 1264, 1300, 1366, 1406, 1644, 3819, 3988, 4025})
"""Numbers with which MySQL and MariaDB reject data: a statement that is larger than max_allowed_packet, a value that is
too long or out of range, a text that the character set lacks, a check, a trigger."""
_LOST = frozenset({2006, 2013})
_POSTGRESQL_SESSION = "SET plan_cache_mode = force_custom_plan; SET idle_in_transaction_session_timeout = '60s'"
_MYSQL_SESSION = "SET SESSION wait_timeout = 120, SESSION innodb_lock_wait_timeout = 10"
"""Settings of a session. With custom plans, PostgreSQL caches no plan that it made for an empty table, which reads the
whole table. The times end the transactions, with their locks, of clients that the server cannot reach any more."""
_ANY_TEXT = frozenset({"UTF8", "SQL_ASCII"})
"""Encodings of PostgreSQL that hold any text. SQL_ASCII stores the bytes of the client, which are UTF-8."""

LongText = sa.Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")
Bytes = sa.LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")

table_options: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
}


class Text(sa.types.TypeDecorator[str]):
    """Text that every database can store: lone surrogates and, on PostgreSQL, NUL characters are replaced.

    Text above `length` is truncated.
    """

    impl = sa.Text
    cache_ok = True

    def __init__(self, length: int | None = None) -> None:
        super().__init__()
        self.length = length

    def load_dialect_impl(self, dialect: Dialect) -> sa.types.TypeEngine[Any]:
        """Return the type for a database."""
        return dialect.type_descriptor(LongText if self.length is None else sa.String(self.length))

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Return the text to write or to compare."""
        if value is None:
            return None
        value = value[: self.length]
        if dialect.name == "postgresql" and "\0" in value:
            value = value.replace("\0", "\N{SYMBOL FOR NULL}")
        return value if value.isascii() else value.encode(errors="backslashreplace").decode()[: self.length]


class JSON(sa.types.TypeDecorator[Any]):
    """JSON in ASCII, in a column of text, so that no database interprets it."""

    impl = LongText
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:  # noqa: ARG002 - SQLAlchemy's signature
        """Return the value as JSON."""
        return None if value is None else json.dumps(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:  # noqa: ARG002 - SQLAlchemy's signature
        """Return the value of the JSON."""
        return None if value is None else json.loads(value)


def connected(url: sa.URL, deadlines: Deadlines) -> Engine:
    """Return an engine for a database. Raises `UsageError` if the client library is missing."""
    _silence_libraries()
    # Keep parameters out of exceptions and logs, because they contain messages.
    if url.get_backend_name() == "sqlite":
        engine = sa.create_engine(url, hide_parameters=True, connect_args={"timeout": BUSY_SECONDS})
        sa.event.listen(engine, "connect", _configure_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
        return engine
    driver, library, extra = _DRIVERS[url.get_backend_name()]
    if library == "psycopg":
        _check_libpq()
    options: dict[str, Any] = {"connect_args": {"connect_timeout": BUSY_SECONDS}}
    if library == "psycopg":
        options["connect_args"]["client_encoding"] = "UTF8"
        options["use_native_hstore"] = False  # looking for it is a request without a deadline
    else:
        options["connect_args"] |= {"charset": "utf8mb4", "init_command": _MYSQL_SESSION}
        # For the requests of the library itself, which begin a connection.
        options["connect_args"] |= {"read_timeout": BUSY_SECONDS, "write_timeout": BUSY_SECONDS}
    try:
        engine = sa.create_engine(
            url.set(drivername=driver),
            hide_parameters=True,
            isolation_level="READ COMMITTED",
            pool_pre_ping=True,  # a restart of the server is not an error
            **options,
        )
    except ModuleNotFoundError:
        missing = f"{url.get_backend_name()} needs {library}: {how_to_install(extra)}"
    else:
        deadlines.guard(engine)
        configure = _configure_postgresql if library == "psycopg" else _configure_mysql
        sa.event.listen(engine, "connect", functools.partial(configure, deadlines))
        return engine
    raise UsageError(missing)


def _silence_libraries() -> None:
    """Drop the lines of the libraries by default: they have tracebacks, and the store reports the same failures."""
    for logger in map(logging.getLogger, _LOGGERS):
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.CRITICAL)


def _check_libpq() -> None:
    """Raise `UsageError` for a libpq that is missing, or that cannot verify servers with the system's certificates."""
    try:
        from psycopg import pq  # noqa: PLC0415 - an extra
    except ImportError:
        version = 0
    else:
        version = pq.version()
    if version < _LIBPQ:
        found = f"libpq is version {version // 10000}" if version else "psycopg or libpq is missing"
        raise UsageError(f"postgresql needs psycopg with libpq 16 or newer, and {found}: {how_to_install('postgres')}")


def sort_nothing(connection: Connection) -> None:
    """Make queries in the order of an index walk that index, until the end of the transaction.

    PostgreSQL prefers to sort when it expects few rows, and its statistics lag by up to a minute. After a replay has
    queued 200,000 records, PostgreSQL still expects one row.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("SET LOCAL enable_sort = off"))


@contextmanager
def schema_lock(engine: Engine, url: str) -> Iterator[None]:
    """Block creation and migration of the schema by other processes. Raises `StoreError` after a minute.

    SQLite needs no lock: its write transaction is one.
    """
    if engine.dialect.name == "sqlite":
        yield
        return
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
            yield
            return
        name = f"{_LOCK}-{hashlib.sha256(str(engine.url.database).encode()).hexdigest()[:16]}"
        if connection.execute(sa.select(sa.func.get_lock(name, _LOCK_SECONDS))).scalar() != 1:
            raise StoreError(
                f"the dead letter store {url} cannot be opened: another process has been changing its schema for"
                f" {_LOCK_SECONDS} s; try again later"
            )
        try:
            yield
        finally:
            with suppress(sa.exc.SQLAlchemyError):  # the lock also ends with the connection
                connection.execute(sa.select(sa.func.release_lock(name)))


def is_rejection(error: sa.exc.SQLAlchemyError) -> bool:
    """Return whether the database rejects the data of a statement, and would take others."""
    if isinstance(error, (sa.exc.DataError, sa.exc.IntegrityError)):
        return True
    return next(iter(getattr(getattr(error, "orig", None), "args", ())), None) in _REJECTED


def is_deadlock(error: sa.exc.DBAPIError) -> bool:
    """Return whether a failed transaction can be tried again at once."""
    codes = getattr(error.orig, "sqlstate", None), next(iter(getattr(error.orig, "args", ())), None)
    return not _DEADLOCKS.isdisjoint(codes)


def reason(error: sa.exc.SQLAlchemyError) -> str:
    """Describe an exception of a database without values, which servers quote in their messages."""
    original = getattr(error, "orig", None)
    if isinstance(original, sqlite3.Error):
        # SQLite's message contains no value, except after "with text" when a damaged file has invalid UTF-8.
        return str(original).partition(" with text ")[0]
    if original is None:
        return type(error).__name__
    code = next(iter(getattr(original, "args", ())), None)
    if not isinstance(code, int):  # MySQL's numbers are more precise than its SQLSTATE
        code = getattr(original, "sqlstate", None)
    if (deadline := _silence_of(original)) is not None:
        return f"it does not answer ({deadline:g} s)"
    if is_connection_code(code) or (isinstance(error, sa.exc.OperationalError) and not _is_code(code)):
        return connection_cause(original, code)
    if code in _LOST:
        return "the server closed the connection"
    return f"the server answered {code}" if _is_code(code) else type(original).__name__


def _silence_of(original: BaseException) -> float | None:
    """Return the seconds without an answer after which a library or a deadline gave up; None for another exception."""
    timed_out = type(original).__name__ == "ConnectionTimeout"  # of psycopg, while it connects
    # pymysql keeps the exception of the socket in its text, or as an attribute.
    timed_out |= isinstance(getattr(original, "original_exception", None), TimeoutError)
    timed_out |= "(timed out)" in str(getattr(original, "args", ("", ""))[1:2])
    return silence_of(original) or (BUSY_SECONDS if timed_out else None)


def encoding_fault(connection: Connection, tables: Collection[str]) -> str | None:
    """Return why a database cannot hold any text in Missive's tables, with the way out; None when it can."""
    if connection.dialect.name == "postgresql":
        encoding = connection.execute(sa.text("SHOW server_encoding")).scalar()
        if encoding not in _ANY_TEXT:
            return f"its encoding is {encoding}, which cannot hold every text: create the database with ENCODING 'UTF8'"
    elif connection.dialect.name in {"mysql", "mariadb"}:
        columns = sa.text(
            "SELECT table_name, character_set_name FROM information_schema.columns WHERE table_schema = DATABASE()"
            " AND table_name IN :tables AND character_set_name <> 'utf8mb4' ORDER BY table_name LIMIT 1"
        )
        wanted = columns.bindparams(sa.bindparam("tables", sorted(tables), expanding=True))
        for table, encoding in connection.execute(wanted):
            return (
                f"its table {table} has the character set {encoding}, which cannot hold every text: ALTER TABLE {table}"
                " CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
            )
    return None


def _is_code(code: object) -> bool:
    return isinstance(code, int) or (isinstance(code, str) and len(code) == len("40001") and code.isalnum())


def _configure_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # _begin_sqlite begins transactions, not the driver
    enable_wal(connection, BUSY_SECONDS)
    for pragma in ("foreign_keys=ON", "secure_delete=ON", f"cache_size=-{_CACHE_KIB}"):
        connection.execute(f"PRAGMA {pragma}")


def _configure_postgresql(deadlines: Deadlines, connection: Any, _record: object) -> None:
    with deadlines.request(connection), connection.cursor() as cursor:
        cursor.execute(_POSTGRESQL_SESSION)
        connection.commit()


def _configure_mysql(_deadlines: Deadlines, connection: Any, _record: object) -> None:
    connection._read_timeout = connection._write_timeout = None  # noqa: SLF001 - requests have deadlines from now on


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that starts with a read can fail at its first write, regardless of the busy timeout.
    write = connection.get_execution_options().get("missive_write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
