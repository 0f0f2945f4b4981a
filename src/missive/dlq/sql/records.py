"""Records in and out: put, and the questions that pages and lists ask."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from missive.dlq.contract import DAY, DAYS, Group, Query
from missive.dlq.record import Record, Status
from missive.dlq.rows import from_row, to_row
from missive.dlq.sql.conditions import conditions, group_conditions, narrowed
from missive.dlq.sql.database import AT_ONCE, Database, portions, translated
from missive.dlq.sql.group_counts import GroupCounts
from missive.dlq.sql.schema import arrival
from missive.dlq.sql.schema import days as days_table
from missive.dlq.sql.schema import groups as groups_table
from missive.dlq.sql.schema import records as records_table


class Records(Database):
    """What is kept of dead letters, and asked."""

    @translated("written")
    def put(self, records: Sequence[Record]) -> None:
        """Keep records, in one transaction that is on disk when this returns."""

        def put(connection: Connection) -> None:
            counts = GroupCounts(connection, self._clock())
            known = self._known(connection, records)
            lost = self._lost(connection, records)
            new: dict[str, Record] = {}
            found: dict[str, str] = {}
            own: set[str] = set()
            for record in records:
                if record.id in lost:
                    continue
                where = _arrival(record)
                earlier = known.get(record.id) or (known.get(where) if record.may_join and where else None)
                merged = record if earlier is None else earlier.joined_by(record)
                known[merged.id] = merged
                if where and earlier is None:
                    found[where] = merged.id
                    if not record.may_join:
                        own.add(where)
                if (kept := _arrival(merged)) and (earlier is None or known.get(kept) is earlier):
                    known[kept] = merged
                if earlier is not None:
                    counts.remove(earlier)
                counts.add(merged)
                if earlier is None or earlier.id in new:
                    new[merged.id] = merged
                else:
                    connection.execute(records_table.update().where(records_table.c.id == merged.id), _changed(merged))
            if new:
                self._insert(connection, list(new.values()), found, own)
            counts.write()

        self._tried(put)

    def _insert(
        self, connection: Connection, new: Sequence[Record], found: dict[str, str], own: Collection[str] = ()
    ) -> None:
        """Insert records; `found` says which of them is found by an arrival from now on, `own` takes from others."""
        c = records_table.c
        # A message that is no redelivery is found from now on, and not another one that looked the same. Of one that
        # is, somebody else may make a record in this moment: then the database refuses ours, and we join theirs.
        for some in portions(sorted(own)):
            connection.execute(records_table.update().where(c.arrival.in_(some)).values(arrival=None))
        rows = []
        for record in new:
            where = _arrival(record)
            rows.append(
                {
                    **to_row(record),
                    "ready": record.due or 0.0,
                    "arrival": where if where and found.get(where) == record.id else None,
                }
            )
        connection.execute(records_table.insert(), rows)

    def _lost(self, connection: Connection, records: Sequence[Record]) -> set[str]:
        """Return those of which the claim is somebody else's by now: whoever has it tells their story."""
        tokens = {record.id: record.lease_token for record in records if record.lease_token is not None}
        lost, c = set(tokens), records_table.c
        for some in portions(sorted(tokens)):
            chosen = sa.select(c.id, c.lease_token).where(c.id.in_(some)).order_by(c.id).with_for_update()
            lost -= {row.id for row in connection.execute(chosen) if row.lease_token == tokens[row.id]}
        return lost

    def _known(self, connection: Connection, records: Sequence[Record]) -> dict[str, Record]:
        """Return the records that are there already, by id and by arrival; locked."""
        known: dict[str, Record] = {}
        c = records_table.c
        for some in portions(records):
            arrivals = {where for record in some if record.may_join and (where := _arrival(record))}
            # First which, each by its index, and then whole records in one order: that is how locks are taken.
            ids: set[str] = set()
            for column, values in ((c.id, {record.id for record in some}), (c.arrival, arrivals)):
                ids.update(connection.execute(sa.select(c.id).where(column.in_(sorted(values)))).scalars())
            if not ids:
                continue
            there = sa.select(records_table).where(c.id.in_(sorted(ids))).order_by(c.id).with_for_update()
            for row in connection.execute(there):
                record = from_row(row)
                known[record.id] = record
                if row.arrival is not None:
                    known[row.arrival] = record
        return known

    @translated("written")
    def import_(self, records: Sequence[Record]) -> int:
        """Keep records whose ids are not there."""
        c = records_table.c

        def keep(connection: Connection) -> int:
            counts = GroupCounts(connection, self._clock())
            there: set[str] = set()
            taken: set[str] = set()
            for some in portions(records):
                ids = [record.id for record in some]
                there.update(connection.execute(sa.select(c.id).where(c.id.in_(ids))).scalars())
                arrivals = sorted({where for record in some if (where := _arrival(record))})
                taken.update(connection.execute(sa.select(c.arrival).where(c.arrival.in_(arrivals))).scalars())
            new = {record.id: record for record in records if record.id not in there}
            if new:
                by = {where: one.id for one in new.values() if (where := _arrival(one)) and where not in taken}
                self._insert(connection, list(new.values()), by)
                for record in new.values():
                    counts.add(record)
                counts.write()
            return len(new)

        return self._tried(keep)

    # Questions

    @translated("read")
    def get(self, record_id: str) -> Record | None:
        """Return a record, or None."""
        with self._read() as connection:
            row = connection.execute(sa.select(records_table).where(records_table.c.id == record_id)).first()
        return None if row is None else from_row(row)

    def query(self, query: Query, *, limit: int | None = None, offset: int = 0) -> Iterator[Record]:
        """Yield records, newest first, a page at a time."""
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
                # The first half is for the index, which knows no tuples.
                after_it = sa.tuple_(c.last_at, c.id) < (after.last_at, after.id)
                chosen = chosen.where(c.last_at <= after.last_at, after_it)
            # Whole records are read of the page only, however far down it is.
            page = chosen.limit(limit).offset(offset).subquery()
            statement = sa.select(records_table).join(page, page.c.id == c.id).order_by(*newest)
            return [from_row(row) for row in connection.execute(statement)]

    @translated("read")
    def ids(self, query: Query) -> list[str]:
        """Return the ids of records, oldest first."""
        statement = sa.select(records_table.c.id).where(*conditions(query)).order_by(records_table.c.id)
        with self._read() as connection:
            return list(connection.execute(statement).scalars())

    @translated("read")
    def services(self, query: Query) -> list[str]:
        """Return whose records they are."""
        table, where = _table_for(query)
        statement = sa.select(table.c.service).distinct().where(*where).order_by(table.c.service)
        with self._read() as connection:
            return list(connection.execute(statement).scalars())

    @translated("read")
    def count(self, query: Query) -> int:
        """Return how many records there are."""
        table, where = _table_for(query)
        count = sa.func.count() if table is records_table else sa.func.sum(table.c["count"])
        with self._read() as connection:
            return int(connection.execute(sa.select(count).select_from(table).where(*where)).scalar() or 0)

    @translated("read")
    def groups(self, query: Query, *, limit: int | None = None, offset: int = 0) -> list[Group]:
        """Return the groups, largest first."""
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
        # None where it was purged between the two questions.
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
        """Return how many failed on each of the last days, and when one was resolved last, by fingerprint."""
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
        """Return counts by service, status and reason, with the oldest of each."""
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
    """Return where to count: among the groups, where that is enough."""
    if query.is_of_groups:
        return groups_table, group_conditions(query)
    return records_table, conditions(query)


def _changed(record: Record) -> dict[str, Any]:
    return {**to_row(record), "ready": record.due or 0.0, "lease_token": None, "leased_until": None}


def _arrival(record: Record) -> str | None:
    return arrival(record.service, record.identity) if record.identity else None
