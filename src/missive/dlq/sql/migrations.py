"""From one schema of the store to the next, in the transaction in which it is opened."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from missive.dlq.sql.dialects import lock_schema, unlock_schema
from missive.dlq.sql.group_counts import recount
from missive.dlq.sql.schema import SCHEMA_VERSION, arrival, metadata, records, replays, schema
from missive.errors import StoreRefused, UsageError

_AT_ONCE = 500


def migrate(engine: Engine, write: Callable[[], AbstractContextManager[Connection]], url: str, *, create: bool) -> None:
    """Make the tables, or bring them to the schema of this Missive; one process at a time.

    Raises `StoreRefused` for a schema of a newer one, and without `create` `UsageError` where there is none.
    """
    if not create and not sa.inspect(engine).has_table(schema.name):
        raise UsageError(f"there is no dead letter store {url}")
    with write() as connection:
        lock_schema(connection)
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
            _bring_up(connection)
            connection.execute(schema.update().values(version=SCHEMA_VERSION))
        unlock_schema(connection)


def _bring_up(connection: Connection) -> None:
    """Add what an older schema lacks; what it has is the same in all."""
    for table in (records, replays):
        if sa.inspect(connection).has_table(table.name):
            _add_columns(connection, table)
    metadata.create_all(connection)
    there = {index["name"] for index in sa.inspect(connection).get_indexes(records.name)}
    for name in sorted(there - {index.name for index in records.indexes}, key=str):
        connection.exec_driver_sql(f"DROP INDEX {name}" + _of_table(connection))
    _fill(connection)
    for index in sorted(records.indexes, key=lambda index: str(index.name)):
        if index.name in there:  # of other columns, perhaps
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
    """Give records what an older schema did not have."""
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
