"""Changes of records by operators: discard, restore, edit, note and delete."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from missive.dlq.contract import Note, Query
from missive.dlq.record import Record, Status
from missive.dlq.rows import to_row
from missive.dlq.sql.conditions import conditions, status_of_chosen
from missive.dlq.sql.database import Database, T, in_steps, portions, translated
from missive.dlq.sql.group_counts import NAMES, GroupCounts, forget_days
from missive.dlq.sql.schema import notes as notes_table
from missive.dlq.sql.schema import paced
from missive.dlq.sql.schema import records as records_table
from missive.dlq.sql.schema import replayed as replayed_table
from missive.dlq.sql.schema import replays as replays_table
from missive.errors import StoreConflict
from missive.ids import new_id

_WAITING = (str(Status.queued), str(Status.parked))
_CLOSED = (str(Status.resolved), str(Status.discarded))
NO_LEASE: dict[str, Any] = {"lease_token": None, "leased_until": None}


class Changes(Database):
    """The part of the store with which operators change records. Each transaction also updates the groups."""

    def _changing(self, work: Callable[[Connection, GroupCounts], T]) -> T:
        """Call `work` in a transaction, and update the groups at its end."""

        def change(connection: Connection) -> T:
            counts = GroupCounts(connection, self._clock())
            done = work(connection, counts)
            counts.write()
            return done

        return self._tried(change)

    def _free(self) -> sa.ColumnElement[bool]:
        """Return the condition for free records: dead, or queued and not leased."""
        c = records_table.c
        unleased = sa.func.coalesce(c.leased_until, 0) <= self._clock()
        return (status_of_chosen == Status.dead) | ((status_of_chosen == Status.queued) & unleased)

    def _closed(self, status: Status, by: str, why: str | None) -> dict[str, Any]:
        """Return the values of a record that is closed now."""
        closed = {"status": status, "closed_at": self._clock(), "closed_by": by, "closed_why": why}
        return {**closed, "lane": None, **NO_LEASE}

    def _move(
        self,
        connection: Connection,
        counts: GroupCounts,
        ids: Collection[str],
        values: dict[str, Any],
        *where: sa.ColumnElement[bool],
    ) -> list[sa.Row[Any]]:
        """Change the records among `ids` that meet all conditions; return their rows before the change."""
        c, moved = records_table.c, list[sa.Row[Any]]()
        status = values.get("status")
        values = {**values, "version": c.version + 1}
        for some in portions(sorted(ids)):
            chosen = sa.select(c.id, c.attempts, *NAMES).where(c.id.in_(some), *where).order_by(c.id)
            rows = connection.execute(chosen.with_for_update()).all()
            if rows:
                connection.execute(records_table.update().where(c.id.in_([row.id for row in rows])).values(values))
                if status is not None:
                    counts.move(rows, status)
                moved += rows
        return moved

    @translated("written")
    def discard(self, ids: Collection[str], by: str, why: str | None = None) -> int:
        """Close records as discarded if no lease holds them."""
        values = self._closed(Status.discarded, by, why)

        def discard(connection: Connection, counts: GroupCounts, some: Sequence[str]) -> int:
            return len(self._move(connection, counts, some, values, self._free()))

        return sum(self._changing(functools.partial(discard, some=some)) for some in in_steps(ids))

    @translated("written")
    def restore(self, ids: Collection[str], by: str) -> int:
        """Make resolved and discarded records dead again."""
        opened = {"closed_at": None, "closed_by": None, "closed_why": None, "due": None}
        # Without its replay, which might still be running and run the record again.
        values = {"status": Status.dead, "replay": None, **opened}

        def restore(connection: Connection, counts: GroupCounts, some: Sequence[str]) -> int:
            rows = self._move(connection, counts, some, values, status_of_chosen.in_(_CLOSED))
            self._note(connection, [(row.id, f"restored: it was {row.status}") for row in rows], by)
            return len(rows)

        return sum(self._changing(functools.partial(restore, some=some)) for some in in_steps(ids))

    @translated("written")
    def edit(self, record_id: str, version: int, changed: Record, by: str) -> None:
        """Store an edited record, and discard the record that it replaces."""
        c = records_table.c
        why = f"edited as {changed.id}"
        values = self._closed(Status.discarded, by, why)

        def edit(connection: Connection, counts: GroupCounts) -> bool:
            same = (c.version == version, status_of_chosen == Status.dead)
            if not self._move(connection, counts, [record_id], values, *same):
                return False
            connection.execute(records_table.insert().values({**to_row(changed), "ready": 0.0}))
            counts.add(changed, failed=False)
            self._note(connection, [(record_id, why), (changed.id, f"edited from {record_id}")], by)
            return True

        if not self._changing(edit):
            raise StoreConflict(
                f"dead letter {record_id} has changed since it was read, or is not dead: missive dlq show {record_id}"
            )

    @translated("written")
    def note(self, ids: Collection[str], by: str, text: str) -> int:
        """Add a note to records."""
        c = records_table.c

        def note(connection: Connection) -> int:
            count = 0
            for some in portions(sorted(ids)):
                found = list(connection.execute(sa.select(c.id).where(c.id.in_(some))).scalars())
                self._note(connection, [(one, text) for one in found], by)
                count += len(found)
            return count

        return self._tried(note)

    def _note(self, connection: Connection, texts: Sequence[tuple[str, str]], by: str) -> None:
        now = self._clock()
        rows = [{"id": new_id(), "record": one, "at": now, "by": by, "text": text} for one, text in texts]
        if rows:
            connection.execute(notes_table.insert(), rows)

    @translated("read")
    def notes(self, record_id: str) -> list[Note]:
        """Return the notes on a record, oldest first."""
        c = notes_table.c
        statement = sa.select(c.at, c.by, c.text).where(c.record == record_id).order_by(c.at, c.id)
        with self._read() as connection:
            return [Note(*row) for row in connection.execute(statement)]

    # Deleting

    @translated("written")
    def purge(self, query: Query, limit: int = 1000) -> int:
        """Delete closed records, or dead records if the query names that status."""
        allowed = [str(status) for status in query.statuses or _CLOSED if str(status) not in _WAITING]
        return self._delete(
            [*conditions(query), (status_of_chosen if query.ids else records_table.c.status).in_(allowed)], limit
        )

    @translated("written")
    def expire(self, limit: int = 1000) -> int:
        """Delete closed records whose retention has ended."""
        c, of, now, count = records_table.c, replays_table.c, self._clock(), 0
        # Records of a paced replay stay, because the replay counts them.
        counted = sa.select(of.id).where(of.status == "running", of.by_command.is_(sa.false()), paced)
        with self._read() as connection:
            running = list(connection.execute(counted).scalars())
        others = [sa.func.coalesce(c.replay, "").not_in(running)] if running else []
        for status, before in self.retention.cutoffs(now):
            count += self._delete([c.status == status, c.closed_at < before, *others], limit - count)
        if not count:
            self._tried(lambda connection: forget_days(connection, now))
        return count

    def _delete(self, where: list[sa.ColumnElement[bool]], limit: int) -> int:
        c = records_table.c

        def delete(connection: Connection, counts: GroupCounts) -> int:
            chosen = sa.select(c.id, *NAMES).where(*where).order_by(c.id).limit(limit)
            rows = connection.execute(chosen.with_for_update()).all()
            for some in portions([row.id for row in rows]):
                for table in (notes_table, replayed_table):
                    connection.execute(table.delete().where(table.c.record.in_(some)))
                connection.execute(records_table.delete().where(c.id.in_(some)))
            counts.move(rows, None)
            return len(rows)

        count = self._changing(delete) if limit > 0 else 0
        if count:
            self._erase()
        return count
