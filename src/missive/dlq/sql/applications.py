"""The applications of a store in an SQL database, and the move of one service's data to another."""

from __future__ import annotations

import functools
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from missive.dlq.sql.changes import Changes
from missive.dlq.sql.database import AT_ONCE, STEP, portions, translated
from missive.dlq.sql.group_counts import NAMES, GroupCounts
from missive.dlq.sql.schema import applications as applications_table
from missive.dlq.sql.schema import arrival, attempts, checkpoints, claims
from missive.dlq.sql.schema import records as records_table


class Applications(Changes):
    """The part of the store that knows which applications have opened it."""

    @translated("read")
    def applications(self) -> dict[str, str | None]:
        """Return the applications and their targets."""
        with self._read() as connection:
            return _registered(connection)

    @translated("written")
    def register(self, service: str, target: str | None) -> dict[str, str | None]:
        """Note an application, and return the others."""
        known = self.applications()
        if known.get(service, "") == target and (target is None or len(known) == 1):
            return {name: other for name, other in known.items() if name != service}

        row = {"service": service, "target": target}

        def register(connection: Connection) -> dict[str, str | None]:
            c = applications_table.c
            known = _registered(connection)
            others = {name: other for name, other in known.items() if (name, other) != (service, target)}
            if target is None:
                others.pop(service, None)
            if target is None or not others:
                write = applications_table.update().where(c.service == service)
                connection.execute((write if service in known else applications_table.insert()).values(row))
            return others

        return self._tried(register)

    @translated("written")
    def adopt(self, old: str, new: str) -> int:
        """Move the data of a service, in several transactions, so that others can write in between."""
        count = 0
        while moved := self._changing(lambda connection, counts: _move_records(connection, counts, old, new)):
            count += moved
        for table, larger in ((attempts, "attempt"), (checkpoints, None), (claims, "done")):
            while self._tried(functools.partial(_move, table=table, larger=larger, old=old, new=new)):
                pass
        forget = applications_table.delete().where(applications_table.c.service == old)
        self._tried(lambda connection: connection.execute(forget))
        return count


def _registered(connection: Connection) -> dict[str, str | None]:
    c = applications_table.c
    return {row.service: row.target for row in connection.execute(sa.select(c.service, c.target))}


def _move_records(connection: Connection, counts: GroupCounts, old: str, new: str) -> int:
    """Move some records to another service; return their number."""
    c = records_table.c
    chosen = sa.select(c.id, c.identity, c.arrival, *NAMES).where(c.service == old).order_by(c.id).limit(STEP)
    rows = connection.execute(chosen.with_for_update()).all()
    arrivals = {row.id: arrival(new, row.identity) for row in rows if row.arrival is not None}
    taken: set[str] = set()
    for some in portions(sorted(arrivals.values())):
        taken.update(connection.execute(sa.select(c.arrival).where(c.arrival.in_(some))).scalars())
    update = (
        records_table.update()
        .where(c.id == sa.bindparam("of"))
        .values(service=new, arrival=sa.bindparam("is"), version=c.version + 1)
    )
    for some in portions(rows):
        of = [{"of": row.id, "is": None if (one := arrivals.get(row.id)) in taken else one} for row in some]
        connection.execute(update, of)
    counts.rename(rows, new)
    return len(rows)


def _move(connection: Connection, *, table: sa.Table, larger: str | None, old: str, new: str) -> int:
    """Move some rows to another service; return their number. Where both have one, `larger` decides, or `new`."""
    c = table.c
    key = [column for column in table.primary_key if column.name != "service"]
    values = [c[larger]] if larger else []
    rows = connection.execute(
        sa.select(*key, *values).where(c.service == old).order_by(*key).limit(AT_ONCE).with_for_update()
    ).all()
    for row in rows:
        same = [column == getattr(row, column.name) for column in key]
        there = connection.execute(sa.select(*(values or key)).where(c.service == new, *same)).first()
        mine: list[Any] = [c.service == old, *same]
        if there is not None and not (larger and getattr(row, larger) > getattr(there, larger)):
            connection.execute(table.delete().where(*mine))
            continue
        if there is not None:
            connection.execute(table.delete().where(c.service == new, *same))
        connection.execute(table.update().where(*mine).values(service=new))
    return len(rows)
