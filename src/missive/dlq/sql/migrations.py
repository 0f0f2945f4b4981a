"""Creation and migration of the schema, in the transaction that opens a store."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from missive.dlq.sql.dialects import encoding_fault, schema_lock
from missive.dlq.sql.group_counts import recount
from missive.dlq.sql.schema import SCHEMA_VERSION, arrival, metadata, records, replays, schema
from missive.errors import StoreRefused, UsageError

_AT_ONCE = 500


def migrate(engine: Engine, write: Callable[[], AbstractContextManager[Connection]], url: str, *, create: bool) -> None:
    """Create the tables, or migrate them to the schema of this Missive. One process at a time does so.

    Raises `StoreRefused` for the schema of a newer Missive. Without `create`, raises `UsageError` if no store exists.
    """
    if not create and not sa.inspect(engine).has_table(schema.name):
        raise UsageError(f"there is no dead letter store {url}")
    # The lock outlasts the transaction: the next process sees the committed version.
    with schema_lock(engine, url), write() as connection:
        schema.create(connection, checkfirst=True)
        version = connection.execute(sa.select(schema.c.version)).scalar()
        if version is not None and version > SCHEMA_VERSION:
            raise StoreRefused(
                f"the dead letter store {url} has schema {version}, and this Missive knows {SCHEMA_VERSION}:"
                " upgrade Missive"
            )
        if version is None:
            metadata.create_all(connection)
            connection.execute(schema.insert().values(version=SCHEMA_VERSION))
        elif version < SCHEMA_VERSION:
            _migrate(connection)
            connection.execute(schema.update().values(version=SCHEMA_VERSION))
        if (fault := encoding_fault(connection, metadata.tables)) is not None:
            raise StoreRefused(f"the dead letter store {url} cannot be used: {fault}")


def _migrate(connection: Connection) -> None:
    """Add tables, columns and indexes that an older schema lacks. Existing columns never change."""
    for table in (records, replays):
        if sa.inspect(connection).has_table(table.name):
            _add_columns(connection, table)
    metadata.create_all(connection)
    there = {index["name"] for index in sa.inspect(connection).get_indexes(records.name)}
    for name in sorted(there - {index.name for index in records.indexes}, key=str):
        connection.exec_driver_sql(f"DROP INDEX {name}" + _of_table(connection))
    _fill(connection)
    for index in sorted(records.indexes, key=lambda index: str(index.name)):
        if index.name in there:  # its columns may have changed
            connection.exec_driver_sql(f"DROP INDEX {index.name}" + _of_table(connection))
        index.create(connection)
    recount(connection)


def _add_columns(connection: Connection, table: sa.Table) -> None:
    there = {column["name"] for column in sa.inspect(connection).get_columns(table.name)}
    for column in table.columns:
        if column.name not in there:
            made = sa.schema.CreateColumn(column).compile(dialect=connection.dialect)
            connection.exec_driver_sql(f"ALTER TABLE {table.name} ADD COLUMN {made}")


def _of_table(connection: Connection) -> str:
    return f" ON {records.name}" if connection.dialect.name in {"mysql", "mariadb"} else ""


def _fill(connection: Connection) -> None:
    """Compute the columns that an older schema did not have."""
    c = records.c
    ready = sa.func.coalesce(c.due, 0.0)
    until = sa.func.coalesce(c.leased_until, 0.0)
    connection.execute(records.update().values(ready=sa.case((ready > until, ready), else_=until)))
    connection.execute(records.update().where(c.status.not_in(("parked", "queued"))).values(lane=None))
    newest = sa.select(sa.func.max(c.id), c.service, c.identity).where(c.identity.is_not(None))
    rows = connection.execute(newest.group_by(c.service, c.identity)).all()
    for start in range(0, len(rows), _AT_ONCE):
        some = [{"of": one, "is": arrival(service, identity)} for one, service, identity in rows[start:][:_AT_ONCE]]
        connection.execute(records.update().where(c.id == sa.bindparam("of")).values(arrival=sa.bindparam("is")), some)
