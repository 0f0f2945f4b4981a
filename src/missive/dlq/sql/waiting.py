"""Waiting records in an SQL database that cannot run: orphans, records with an assigned handler, stuck lanes."""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from missive.dlq.record import Status
from missive.dlq.sql.changes import NO_LEASE
from missive.dlq.sql.conditions import status_of_chosen
from missive.dlq.sql.database import translated
from missive.dlq.sql.group_counts import GroupCounts
from missive.dlq.sql.leases import FAR, Leases
from missive.dlq.sql.schema import records as records_table

_WAITING = (str(Status.queued), str(Status.parked))


class Waiting(Leases):
    """The part of the store for records whose handler is not registered."""

    @translated("written")
    def leave_orphans(self, ids: Collection[str], token: str, due: float) -> set[str]:
        """End leases, and note the time of the first call for each record."""
        c = records_table.c
        since = sa.func.coalesce(c.orphaned_at, self._clock())
        return self._update_leased(ids, token, {**NO_LEASE, "due": due, "ready": due, "orphaned_at": since})

    @translated("written")
    def reroute(self, record_id: str, handler: str, by: str) -> bool:
        """Assign a handler to a record."""
        c = records_table.c
        at_once = c.orphaned_at.is_not(None)
        values = {
            "assigned": handler,
            "due": sa.case((at_once, None), else_=c.due),
            "ready": sa.case((at_once & (c.ready < FAR), 0.0), else_=c.ready),
        }

        def reroute(connection: Connection, counts: GroupCounts) -> bool:
            unleased = (status_of_chosen == Status.dead) | self._waits_free()
            if not self._move(connection, counts, [record_id], values, unleased):
                return False
            # In a second statement, because MySQL evaluates the assignments of one statement in their order.
            connection.execute(records_table.update().where(c.id == record_id).values(orphaned_at=None))
            self._note(connection, [(record_id, f"rerouted to {handler}")], by)
            return True

        return self._changing(reroute)

    @translated("written")
    def unstick(self, record_id: str, by: str) -> bool:
        """Make the first record of a lane dead."""
        values = {"status": Status.dead, "lane": None, "due": None, "replay": None, "orphaned_at": None, **NO_LEASE}

        def unstick(connection: Connection, counts: GroupCounts) -> bool:
            if self._head(connection, record_id) not in (None, record_id):
                return False
            rows = self._move(connection, counts, [record_id], values, self._waits_free())
            self._note(connection, [(row.id, f"unstuck: it was {row.status}") for row in rows], by)
            return bool(rows)

        return self._changing(unstick)

    @translated("read")
    def head_of_lane(self, record_id: str) -> str | None:
        """Return the id of the first record in the lane of a record."""
        with self._read() as connection:
            return self._head(connection, record_id)

    @staticmethod
    def _head(connection: Connection, record_id: str) -> str | None:
        c = records_table.c
        row = connection.execute(sa.select(c.service, c.lane).where(c.id == record_id)).first()
        if row is None or row.lane is None:
            return None
        first = sa.select(sa.func.min(c.id)).where(c.service == row.service, c.lane == row.lane)
        return connection.execute(first).scalar()

    def _waits_free(self) -> sa.ColumnElement[bool]:
        """Return the condition for queued and parked records that no lease holds."""
        unleased = sa.func.coalesce(records_table.c.leased_until, 0) <= self._clock()
        return status_of_chosen.in_(_WAITING) & unleased
