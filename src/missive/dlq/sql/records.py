"""Write new records into an SQL database. Failures of a known message join its record."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from missive.dlq.record import Record
from missive.dlq.rows import from_row, to_row
from missive.dlq.sql.database import Database, portions, translated
from missive.dlq.sql.group_counts import GroupCounts
from missive.dlq.sql.schema import arrival
from missive.dlq.sql.schema import records as records_table


class Records(Database):
    """The part of the store that writes new records."""

    @translated("written")
    def put(self, records: Sequence[Record]) -> dict[str, str]:
        """Store records in one transaction, which is on disk when the method returns."""

        def put(connection: Connection) -> dict[str, str]:
            joined: dict[str, str] = {}
            counts = GroupCounts(connection, self._clock())
            known = self._known(connection, records)
            lost = self._lost_leases(connection, records)
            new: dict[str, Record] = {}
            arrivals: dict[str, str] = {}
            taken_over: set[str] = set()
            stored = {one.id for one in records if one.id in known and known[one.id].holds(one)}
            for record in records:
                if record.id in lost or record.id in stored:
                    continue
                digest = _arrival(record)
                earlier = known.get(record.id) or (known.get(digest) if record.may_join and digest else None)
                merged = record if earlier is None else earlier.joined_by(record)
                known[merged.id] = merged
                if digest and earlier is None:
                    arrivals[digest] = merged.id
                    if not record.may_join:
                        taken_over.add(digest)
                if (shared := _arrival(merged)) and (earlier is None or known.get(shared) is earlier):
                    known[shared] = merged
                if earlier is not None:
                    joined[record.id] = earlier.id
                    counts.remove(earlier)
                counts.add(merged)
                if earlier is None or earlier.id in new:
                    new[merged.id] = merged
                else:
                    connection.execute(records_table.update().where(records_table.c.id == merged.id), _changed(merged))
            if new:
                self._insert(connection, list(new.values()), arrivals, taken_over)
            counts.write()
            return joined

        return self._tried(put)

    def _insert(
        self, connection: Connection, new: Sequence[Record], arrivals: dict[str, str], taken_over: Collection[str] = ()
    ) -> None:
        """Insert records. `arrivals` maps each arrival to its record; earlier records lose those in `taken_over`."""
        c = records_table.c
        # A message that is not a redelivery takes the arrival over from an earlier message that looked the same. For a
        # redelivery, another process may insert a record at the same time. The database then refuses this insert, and
        # the next try joins the other record.
        for some in portions(sorted(taken_over)):
            connection.execute(records_table.update().where(c.arrival.in_(some)).values(arrival=None))
        rows = []
        for record in new:
            digest = _arrival(record)
            rows.append(
                {
                    **to_row(record),
                    "ready": record.leased_until or record.due or 0.0,
                    "lease_token": None if record.leased_until is None else record.lease_token,
                    "leased_until": record.leased_until,
                    "arrival": digest if digest and arrivals.get(digest) == record.id else None,
                }
            )
        connection.execute(records_table.insert(), rows)

    def _lost_leases(self, connection: Connection, records: Sequence[Record]) -> set[str]:
        """Return ids of records whose lease another worker now owns. That worker reports the result."""
        own = {record.id for record in records if record.leased_until is not None}
        tokens = {one.id: one.lease_token for one in records if one.lease_token is not None and one.id not in own}
        lost, c = set(tokens), records_table.c
        for some in portions(sorted(tokens)):
            chosen = sa.select(c.id, c.lease_token).where(c.id.in_(some)).order_by(c.id).with_for_update()
            lost -= {row.id for row in connection.execute(chosen) if row.lease_token == tokens[row.id]}
        return lost

    def _known(self, connection: Connection, records: Sequence[Record]) -> dict[str, Record]:
        """Return the stored records by id and by arrival, and lock them."""
        known: dict[str, Record] = {}
        c = records_table.c
        for some in portions(records):
            arrivals = {digest for record in some if record.may_join and (digest := _arrival(record))}
            # Find the ids by each index first, and then lock the records in one order.
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
        """Store the records whose ids are not stored yet."""
        c = records_table.c

        def insert(connection: Connection) -> int:
            counts = GroupCounts(connection, self._clock())
            there: set[str] = set()
            taken: set[str] = set()
            for some in portions(records):
                ids = [record.id for record in some]
                there.update(connection.execute(sa.select(c.id).where(c.id.in_(ids))).scalars())
                arrivals = sorted({digest for record in some if (digest := _arrival(record))})
                taken.update(connection.execute(sa.select(c.arrival).where(c.arrival.in_(arrivals))).scalars())
            new = {record.id: record for record in records if record.id not in there}
            if new:
                by = {digest: one.id for one in new.values() if (digest := _arrival(one)) and digest not in taken}
                self._insert(connection, list(new.values()), by)
                for record in new.values():
                    counts.add(record)
                counts.write()
            return len(new)

        return self._tried(insert)


def _changed(record: Record) -> dict[str, Any]:
    return {**to_row(record), "ready": record.due or 0.0, "lease_token": None, "leased_until": None}


def _arrival(record: Record) -> str | None:
    return arrival(record.service, record.identity) if record.identity else None
