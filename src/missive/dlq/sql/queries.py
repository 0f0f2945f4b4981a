"""Queries of a store in an SQL database."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from missive.dlq.contract import DAY, DAYS, Group, Query
from missive.dlq.record import Record, Status
from missive.dlq.rows import from_row
from missive.dlq.sql.conditions import conditions, group_conditions, narrowed
from missive.dlq.sql.database import AT_ONCE, Database, portions, translated
from missive.dlq.sql.schema import days as days_table
from missive.dlq.sql.schema import groups as groups_table
from missive.dlq.sql.schema import records as records_table


class Queries(Database):
    """The part of the store that finds records."""

    @translated("read")
    def get(self, record_id: str) -> Record | None:
        """Return a record, or None."""
        with self._read() as connection:
            row = connection.execute(sa.select(records_table).where(records_table.c.id == record_id)).first()
        return None if row is None else from_row(row)

    def query(self, query: Query, *, limit: int | None = None, offset: int = 0) -> Iterator[Record]:
        """Yield the records of a query, newest failure first. It reads a page at a time."""
        last: Record | None = None
        while limit is None or limit > 0:
            size = AT_ONCE if limit is None else min(limit, AT_ONCE)
            page = self._page(query, size, offset if last is None else 0, last)
            yield from page
            if len(page) < size:
                return
            last, limit = page[-1], None if limit is None else limit - size

    @translated("read")
    def _page(self, query: Query, limit: int, offset: int, after: Record | None) -> list[Record]:
        c = records_table.c
        newest = (c.last_at.desc(), c.id.desc())
        with self._read() as connection:
            chosen = sa.select(c.id).where(*narrowed(connection, query)).order_by(*newest)
            if after is not None:
                # The first condition uses the index, which cannot compare tuples.
                after_it = sa.tuple_(c.last_at, c.id) < (after.last_at, after.id)
                chosen = chosen.where(c.last_at <= after.last_at, after_it)
            # Read whole records of this page only, even if the offset is large.
            page = chosen.limit(limit).offset(offset).subquery()
            statement = sa.select(records_table).join(page, page.c.id == c.id).order_by(*newest)
            return [from_row(row) for row in connection.execute(statement)]

    @translated("read")
    def ids(self, query: Query) -> list[str]:
        """Return the ids of the records of a query, oldest first."""
        statement = sa.select(records_table.c.id).where(*conditions(query)).order_by(records_table.c.id)
        with self._read() as connection:
            return list(connection.execute(statement).scalars())

    @translated("read")
    def ids_like(self, part: str) -> list[str]:
        """Return the ids that begin or end with `part`, at most three."""
        c = records_table.c.id
        begins, ends = c.startswith(part, autoescape=True), c.endswith(part, autoescape=True)
        with self._read() as connection:
            return list(connection.execute(sa.select(c).where(begins | ends).order_by(c).limit(3)).scalars())

    @translated("read")
    def services(self, query: Query) -> list[str]:
        """Return the services that own records of a query."""
        table, where = _table_for(query)
        statement = sa.select(table.c.service).distinct().where(*where).order_by(table.c.service)
        with self._read() as connection:
            return list(connection.execute(statement).scalars())

    @translated("read")
    def count(self, query: Query) -> int:
        """Return the number of records of a query."""
        table, where = _table_for(query)
        count = sa.func.count() if table is records_table else sa.func.sum(table.c["count"])
        with self._read() as connection:
            return int(connection.execute(sa.select(count).select_from(table).where(*where)).scalar() or 0)

    @translated("read")
    def groups(self, query: Query, *, limit: int | None = None, offset: int = 0) -> list[Group]:
        """Return the groups of the records of a query, largest first."""
        table, where = _table_for(query)
        c = table.c
        count = (sa.func.count() if table is records_table else sa.func.sum(c["count"])).label("number")
        counted = (
            sa.select(
                c.fingerprint,
                c.status,
                *(sa.func.max(c[name]).label(name) for name in ("reason", "label", "handler", "error_type")),
                count,
                sa.func.min(c.first_at).label("first_at"),
            )
            .where(*where)
            .group_by(c.fingerprint, c.status)
            .order_by(count.desc(), c.fingerprint)
            .limit(limit)
            .offset(offset)
        )
        with self._read() as connection:
            found = connection.execute(counted).all()
            trends = self._trends(connection, sorted({row.fingerprint for row in found}))
            return [self._group(connection, query, row, trends[row.fingerprint]) for row in found]

    def _group(self, connection: Connection, query: Query, row: Any, trend: tuple[tuple[int, ...], float]) -> Group:
        c = records_table.c
        newest = (
            sa.select(c.id, c.last_at)
            .where(*conditions(query), c.fingerprint == row.fingerprint, c.status == row.status)
            .order_by(c.last_at.desc(), c.id.desc())
            .limit(1)
        )
        # None if the records were purged between the two statements.
        sample = connection.execute(newest).first() or ("", row.first_at)
        days, resolved_at = trend
        return Group(
            row.fingerprint,
            row.reason,
            row.label,
            row.handler,
            row.error_type,
            row.status,
            int(row.number),
            row.first_at,
            sample[1],
            sample[0],
            days,
            row.status == Status.dead and 0 < resolved_at < sample[1],
        )

    def _trends(self, connection: Connection, wanted: Sequence[str]) -> dict[str, tuple[tuple[int, ...], float]]:
        """Return the failures on each of the last days and the latest resolution, by fingerprint."""
        today = int(self._clock() // DAY)
        counts: dict[str, list[int]] = {one: [0] * DAYS for one in wanted}
        resolved = dict.fromkeys(wanted, 0.0)
        d, g = days_table.c, groups_table.c
        for some in portions(wanted):
            recent = sa.select(d.fingerprint, d.day, d["count"]).where(
                d.fingerprint.in_(some), d.day > today - DAYS, d.day <= today
            )
            for fingerprint, day, count in connection.execute(recent):
                counts[fingerprint][day - today - 1] = int(count)
            closed = (
                sa.select(g.fingerprint, sa.func.max(g.closed_at))
                .where(g.fingerprint.in_(some), g.status == Status.resolved, g.closed_at.is_not(None))
                .group_by(g.fingerprint)
            )
            resolved.update({fingerprint: float(at) for fingerprint, at in connection.execute(closed)})
        return {one: (tuple(counts[one]), resolved[one]) for one in wanted}

    @translated("read")
    def stats(self, service: str | None = None) -> list[dict[str, Any]]:
        """Return the count and the oldest failure for each service, status and reason."""
        g, c = groups_table.c, records_table.c
        count = sa.func.sum(g["count"]).label("number")
        counted = (
            sa.select(g.service, g.status, g.reason, count)
            .where(*group_conditions(Query(service=service)))
            .group_by(g.service, g.status, g.reason)
            .order_by(g.service, g.status, g.reason)
        )
        with self._read() as connection:
            found = []
            for row in connection.execute(counted).all():
                same = (c.service == row.service, c.status == row.status, c.reason == row.reason)
                oldest = connection.execute(sa.select(sa.func.min(c.first_at)).where(*same)).scalar()
                found.append(
                    {
                        "service": row.service,
                        "status": row.status,
                        "reason": row.reason,
                        "count": int(row.number),
                        "oldest_at": oldest,
                    }
                )
            return found


def _table_for(query: Query) -> tuple[sa.Table, list[sa.ColumnElement[bool]]]:
    """Return the table to count in, with the conditions. The small table of groups is preferred."""
    if query.selects_groups:
        return groups_table, group_conditions(query)
    return records_table, conditions(query)
