"""Record leases in an SQL database. One worker at a time leases a record, and only the first record of a lane."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from missive.dlq.contract import RecordLease
from missive.dlq.record import Record, Status
from missive.dlq.rows import from_row
from missive.dlq.sql.changes import NO_LEASE, Changes
from missive.dlq.sql.conditions import status_of_chosen
from missive.dlq.sql.database import portions, translated
from missive.dlq.sql.dialects import sort_nothing
from missive.dlq.sql.group_counts import GroupCounts
from missive.dlq.sql.schema import records as records_table
from missive.dlq.sql.schema import replays as replays_table
from missive.dlq.times import SKEW

FAR = 1e18
"""Value of `ready` for records of a replay that a command runs: workers never lease them."""


class Leases(Changes):
    """The part of the store that leases records. Column `ready` is the time from which a record can be leased.

    Each search for such records walks along one index.
    """

    @translated("leased from")
    def lease_records(
        self, service: str, token: str, limit: int, lease: float, replay: str | None = None
    ) -> list[RecordLease]:
        """Lease queued and parked records that are due and that no lease holds."""
        c, now = records_table.c, self._clock()
        if self._ahead.is_suspected(now):
            self._tried(lambda connection: self._bring_back(connection, service, now, lease))
        if self._engine.dialect.name == "sqlite":
            # Workers ask every second. A transaction for writing locks the whole file, so begin one only for a result.
            with self._read() as connection:
                if not self._leasable(connection, service, now, 1, replay):
                    return []

        def take(connection: Connection, counts: GroupCounts) -> list[Record]:
            found = self._leasable(connection, service, now, limit, replay, lock=True)
            ids = [one for _, one in sorted(found)[:limit]]
            rows = {row.id: row for some in portions(ids) for row in connection.execute(self._rows(some, now, replay))}
            if replay is None and (ended := self._of_ended_replays(connection, rows.values())):
                self._move(connection, counts, ended, {"status": Status.dead, **NO_LEASE})
                rows = {one: row for one, row in rows.items() if one not in ended}
            until = {"lease_token": token, "leased_until": now + lease}
            if replay is None:
                until["ready"] = now + lease
            for some in portions(sorted(rows)):
                connection.execute(records_table.update().where(c.id.in_(some)).values(until))
            return [from_row(rows[one]) for one in ids if one in rows]

        return [RecordLease(record, token) for record in self._changing(take)]

    @staticmethod
    def _bring_back(connection: Connection, service: str, now: float, lease: float) -> None:
        """Correct leases and due times that lie too far ahead, because a clock was set back."""
        c = records_table.c
        waiting = (c.service == service, c.status.in_(_WAITING), c.ready > now)
        # A holder that is alive renews its lease. So the lease is shortened to its length, and does not end at once.
        leased = (c.lease_token.is_not(None), c.leased_until > now + lease + SKEW)
        until = {"leased_until": now + lease, "ready": _unless_far(now + lease)}
        connection.execute(records_table.update().where(*waiting, *leased).values(until))
        # A failure in the future proves that the clock of the due time was ahead.
        since = records_table.update().where(*waiting, c.lease_token.is_(None), c.last_at > now + SKEW)
        due = now + sa.case((c.due > c.last_at, c.due - c.last_at), else_=0.0)
        # MySQL assigns from left to right: `last_at` is assigned last, because the others are computed from it.
        moved = since.where(c.due > now + SKEW).ordered_values(
            (c.ready, _unless_far(due)), (c.due, due), (c.last_at, now)
        )
        connection.execute(moved)

    @translated("written")
    def postpone(self, service: str, due: Mapping[str, float], limit: int, replay: str | None = None) -> int:
        """Let records of some handlers wait that are due and that no lease holds."""
        c, now = records_table.c, self._clock()
        with self._read() as connection:
            if not self._of_handlers(connection, self._leasable(connection, service, now, limit, replay), due):
                return 0

        def move(connection: Connection) -> int:
            found = self._leasable(connection, service, now, limit, replay, lock=True)
            for some in portions(ids := self._of_handlers(connection, found, due)):
                for handler, at in due.items():
                    chosen = records_table.update().where(c.id.in_(some), c.handler == handler)
                    connection.execute(chosen.values(due=at, ready=_unless_far(at)))
            return len(ids)

        return self._tried(move)

    @staticmethod
    def _of_handlers(
        connection: Connection, found: Sequence[tuple[float, str]], handlers: Collection[str]
    ) -> Sequence[str]:
        """Return the ids of the records that are waiting for one of the handlers."""
        c, ids = records_table.c, list[str]()
        for some in portions(sorted(one for _, one in found)):
            chosen = sa.select(c.id).where(c.id.in_(some), c.handler.in_(sorted(handlers)))
            ids += connection.execute(chosen).scalars()
        return ids

    @staticmethod
    def _of_ended_replays(connection: Connection, rows: Iterable[sa.Row[Any]]) -> set[str]:
        """Return queued records of stopped and cancelled replays, which were leased when the replay ended."""
        queued = {row.id: row.replay for row in rows if row.status == Status.queued and row.replay is not None}
        if not queued:
            return set()
        of = replays_table.c
        stopped = sa.select(of.id).where(of.id.in_(sorted(set(queued.values()))), of.status.in_(_ENDED))
        ended = set(connection.execute(stopped).scalars())
        return {one for one, replay in queued.items() if replay in ended}

    def _leasable(
        self, connection: Connection, service: str, now: float, limit: int, replay: str | None, *, lock: bool = False
    ) -> list[tuple[float, str]]:
        """Return due times and ids of records that can be leased, the first `limit` of each kind."""
        c = records_table.c
        if replay is not None:
            mine = (c.replay == replay, c.status == Status.queued, c.service == service)
            free = (sa.func.coalesce(c.leased_until, 0) <= now) & (sa.func.coalesce(c.due, 0) <= now)
            every = [sa.select(sa.literal(0.0), c.id).where(*mine, free).order_by(c.id)]
        else:
            every = [
                sa.select(c.ready, c.id)
                .where(c.service == service, c.status == status, c.lane.is_(None), c.ready <= now)
                .order_by(c.lane, c.ready, c.id)  # PostgreSQL uses the index only for an order by all of its columns
                for status in (Status.queued, Status.parked)
            ]
        found: list[tuple[float, str]] = []
        if replay is None:
            first = _first_of_lanes(service)
            of_lanes = sa.select(c.ready, c.id).join(first, first.c.id == c.id).where(c.ready <= now)
            found += map(tuple, connection.execute(of_lanes.order_by(c.ready, c.id).limit(limit)))
        sort_nothing(connection)
        for statement in every:
            chosen = statement.limit(limit)
            # Skip records that another process is leasing at the same time.
            found += map(tuple, connection.execute(chosen.with_for_update(skip_locked=True) if lock else chosen))
        return found

    @staticmethod
    def _rows(ids: Collection[str], now: float, replay: str | None) -> sa.Select[Any]:
        """Return a query that locks the records that can still be leased. `_leasable` locks no records of lanes."""
        c = records_table.c
        free = sa.func.coalesce(c.ready, 0) <= now if replay is None else sa.func.coalesce(c.leased_until, 0) <= now
        chosen = sa.select(records_table).where(c.id.in_(ids), status_of_chosen.in_(_WAITING), free)
        return chosen.with_for_update(skip_locked=True)

    @translated("read")
    def next_due(self, service: str) -> float | None:
        """Return the earliest time at which a record is due and not leased."""
        c = records_table.c
        of_service = (c.service == service, c.ready < FAR)
        with self._read() as connection:
            first = _first_of_lanes(service)
            of_lanes = sa.select(sa.func.min(c.ready)).join(first, first.c.id == c.id)
            found = [connection.execute(of_lanes).scalar()]
            sort_nothing(connection)
            found += [
                connection.execute(
                    sa.select(c.ready)
                    .where(*of_service, c.status == status, c.lane.is_(None))
                    .order_by(c.lane, c.ready, c.id)
                    .limit(1)
                ).scalar()
                for status in (Status.queued, Status.parked)
            ]
        times = [float(at) for at in found if at is not None]
        return max(min(times), self._clock()) if times else None

    @translated("read")
    def lanes(self, service: str) -> dict[str, int]:
        """Return the number of parked and queued records in each lane."""
        c = records_table.c
        statement = sa.select(c.lane, sa.func.count()).where(c.service == service, c.lane.is_not(None))
        with self._read() as connection:
            return {lane: int(count) for lane, count in connection.execute(statement.group_by(c.lane))}

    @translated("written")
    def extend_leases(self, ids: Collection[str], token: str, lease: float) -> set[str]:
        """Let leases end `lease` seconds from now."""
        until = self._clock() + lease
        return self._update_leased(ids, token, {"leased_until": until, "ready": _unless_far(until)})

    @translated("written")
    def resolve(self, ids: Collection[str], token: str, status: Status, by: str, why: str | None = None) -> set[str]:
        """Close leased records."""
        closed = self._closed(status, by, why)

        def close(connection: Connection, counts: GroupCounts) -> set[str]:
            rows = self._move(connection, counts, ids, closed, records_table.c.lease_token == token)
            return {row.id for row in rows}

        return self._changing(close)

    @translated("written")
    def release_records(self, ids: Collection[str], token: str, due: float | None = None) -> set[str]:
        """End leases without a result."""
        c = records_table.c
        later = {} if due is None else {"due": due}
        ready = _unless_far(sa.func.coalesce(c.due, 0.0) if due is None else due)
        return self._update_leased(ids, token, {**NO_LEASE, "ready": ready, **later})

    def _update_leased(self, ids: Collection[str], token: str, values: dict[str, Any]) -> set[str]:
        c = records_table.c

        def update(connection: Connection) -> set[str]:
            ours: set[str] = set()
            for some in portions(sorted(ids)):
                chosen = sa.select(c.id).where(c.id.in_(some), c.lease_token == token).order_by(c.id)
                found = set(connection.execute(chosen.with_for_update()).scalars())
                connection.execute(records_table.update().where(c.id.in_(sorted(found))).values(values))
                ours |= found
            return ours

        return self._tried(update)


_ENDED = ("stopped", "cancelled")
_WAITING = (str(Status.queued), str(Status.parked))


def _unless_far(ready: Any) -> sa.ColumnElement[Any]:
    """Return a new value of `ready`, except for records that a command replays."""
    c = records_table.c
    return sa.case((c.ready >= FAR, c.ready), else_=ready)


def _first_of_lanes(service: str) -> sa.Subquery:
    """Return a subquery for the first id of each lane, with one step along the index per lane."""
    c = records_table.c
    of_service = c.service == service
    lanes = sa.select(sa.func.min(c.lane).label("lane")).where(of_service, c.lane.is_not(None)).cte(recursive=True)
    following = sa.select(sa.func.min(c.lane)).where(of_service, c.lane > lanes.c.lane).scalar_subquery()
    lanes = lanes.union_all(sa.select(following).where(lanes.c.lane.is_not(None)))
    first = sa.select(sa.func.min(c.id)).where(of_service, c.lane == lanes.c.lane).scalar_subquery()
    return sa.select(first.label("id")).where(lanes.c.lane.is_not(None)).subquery()
