"""The dead letter store in an SQL database, through SQLAlchemy Core: SQLite, the embedded default, and servers."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from missive.dlq.contract import Claim, Group, Note, Query, Replay, Store
from missive.dlq.record import Record, Status
from missive.dlq.rows import from_row, to_row
from missive.dlq.sql.dialects import connected, in_words, is_known, lock_schema, nulls_first, unlock_schema
from missive.dlq.sql.disks import network_disk
from missive.dlq.sql.schema import SCHEMA_VERSION, SOURCE_LENGTH, leases, metadata
from missive.dlq.sql.schema import attempts as attempts_table
from missive.dlq.sql.schema import checkpoints as checkpoints_table
from missive.dlq.sql.schema import notes as notes_table
from missive.dlq.sql.schema import records as records_table
from missive.dlq.sql.schema import replayed as replayed_table
from missive.dlq.sql.schema import replays as replays_table
from missive.dlq.sql.schema import schema as schema_table
from missive.dlq.sql_once import SQLOnce
from missive.errors import StoreError, StoreRefused, UsageError
from missive.ids import new_id
from missive.privacy import redact_url

_ROWS_AT_ONCE = 500

P = ParamSpec("P")
T = TypeVar("T")


def _translated(what: str) -> Callable[[Callable[Concatenate[SQLStore, P], T]], Callable[Concatenate[SQLStore, P], T]]:
    """Make a method raise `StoreError` for what the database raises, in words that hold no value."""

    def decorate(method: Callable[Concatenate[SQLStore, P], T]) -> Callable[Concatenate[SQLStore, P], T]:
        @functools.wraps(method)
        def call(store: SQLStore, /, *args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return method(store, *args, **kwargs)
            except sa.exc.SQLAlchemyError as caught:
                why = in_words(caught)
                kind = StoreRefused if "not a database" in why else StoreError
            except OSError as caught:
                why, kind = caught.strerror or type(caught).__name__, StoreError
            # Outside the except blocks: chained, the statement's parameters would come with it.
            raise kind(f"the dead letter store {store.url} cannot be {what}: {why}")

        return call

    return decorate


class SQLStore(SQLOnce, Store):
    """Dead letters in an SQL database: `sqlite:///path/to/file.db`, `postgresql://…/database`, `mysql://…/database`.

    A new SQLite file gets mode 0600, for bodies are in it in clear; it uses a write-ahead log and a full sync at
    each commit. Raises `StoreError` when the database cannot be opened, `StoreRefused` when it is of a newer
    schema or no database.
    """

    _leases = leases

    def __init__(self, url: str, *, create: bool = True, clock: Callable[[], float] = time.time) -> None:
        self.url = redact_url(url)
        self._clock = clock
        try:
            parsed = sa.make_url(url)
        except sa.exc.ArgumentError:
            raise UsageError(f"{self.url} is not a database URL: write sqlite:///path/to/file.db") from None
        if not is_known(parsed):
            raise UsageError(f"{self.url}: dead letters go to sqlite:///path/to/file.db, postgresql:// or mysql://")
        if parsed.get_backend_name() != "sqlite":
            if not parsed.database:
                raise UsageError(f"{self.url} names no database: end it with /database")
        elif not parsed.database or parsed.database == ":memory:" or parsed.query:
            raise UsageError(f"{self.url}: a dead letter store is sqlite:///path/to/file.db, without parameters")
        self._open(parsed, create=create)

    @_translated("opened")
    def _open(self, parsed: sa.URL, *, create: bool) -> None:
        if parsed.get_backend_name() == "sqlite":
            path = Path(str(parsed.database))
            if (disk := network_disk(path)) is not None:
                raise StoreRefused(f"{self.url} is on a network disk ({disk}), where SQLite loses data: use another")
            if create:
                _create_private(path)
            elif not path.exists():
                raise UsageError(f"there is no dead letter store {self.url}")
        self._engine: Engine = connected(parsed)
        try:
            self._migrate(create=create)
        except BaseException:
            self._engine.dispose()
            raise

    # The sink

    @_translated("written")
    def put(self, records: Sequence[Record]) -> None:
        """Keep records, in one transaction that is on disk when this returns."""

        def put(connection: Connection) -> None:
            known = self._known(connection, records)
            lost = self._lost(connection, records)
            new: dict[str, Record] = {}
            for record in records:
                if record.id in lost:
                    continue
                earlier = known.get(record.id) or (known.get(_identity(record)) if record.again else None)
                merged = record if earlier is None else earlier.joined_by(record)
                known[merged.id] = merged
                if merged.identity:
                    known[_identity(merged)] = merged
                if earlier is None or earlier.id in new:
                    new[merged.id] = merged
                else:
                    row = {**to_row(merged), "claim_token": None, "claim_until": None}
                    connection.execute(records_table.update().where(records_table.c.id == merged.id), row)
            if new:
                connection.execute(records_table.insert(), [to_row(record) for record in new.values()])

        self._tried(put)

    def _lost(self, connection: Connection, records: Sequence[Record]) -> set[str]:
        """Return those of which the claim is somebody else's by now: whoever has it tells their story."""
        claimed = {record.id: record.claim for record in records if record.claim is not None}
        lost = set(claimed)
        ids, c = list(claimed), records_table.c
        for start in range(0, len(ids), _ROWS_AT_ONCE):
            some = ids[start : start + _ROWS_AT_ONCE]
            chosen = sa.select(c.id, c.claim_token).where(c.id.in_(some)).with_for_update()
            lost -= {row.id for row in connection.execute(chosen) if row.claim_token == claimed[row.id]}
        return lost

    def _known(self, connection: Connection, records: Sequence[Record]) -> dict[str, Record]:
        known: dict[str, Record] = {}
        for start in range(0, len(records), _ROWS_AT_ONCE):
            some = records[start : start + _ROWS_AT_ONCE]
            condition = records_table.c.id.in_([r.id for r in some]) | sa.tuple_(
                records_table.c.service, records_table.c.identity
            ).in_([(r.service, r.identity) for r in some if r.identity and r.again])
            there = sa.select(records_table).where(condition).order_by(records_table.c.id)
            for row in connection.execute(there.with_for_update()):
                record = from_row(row)
                known[record.id] = record
                if record.identity:
                    known[_identity(record)] = record
        return known

    def close(self) -> None:
        """Close the database's connections."""
        self._engine.dispose()

    # Questions

    @_translated("read")
    def get(self, record_id: str) -> Record | None:
        """Return a record, or None."""
        with self._engine.connect() as connection:
            row = connection.execute(sa.select(records_table).where(records_table.c.id == record_id)).first()
        return None if row is None else from_row(row)

    def query(self, query: Query, *, limit: int | None = None, offset: int = 0) -> Iterator[Record]:
        """Yield records, newest first, a page at a time."""
        last: Record | None = None
        while limit is None or limit > 0:
            size = _ROWS_AT_ONCE if limit is None else min(limit, _ROWS_AT_ONCE)
            page = self._page(query, size, offset if last is None else 0, last)
            yield from page
            if len(page) < size:
                return
            last, limit = page[-1], None if limit is None else limit - size

    @_translated("read")
    def _page(self, query: Query, limit: int, offset: int, after: Record | None) -> list[Record]:
        c = records_table.c
        statement = sa.select(records_table).where(*_conditions(query)).order_by(c.last_at.desc(), c.id.desc())
        if after is not None:
            statement = statement.where(sa.tuple_(c.last_at, c.id) < (after.last_at, after.id))
        with self._engine.connect() as connection:
            return [from_row(row) for row in connection.execute(statement.limit(limit).offset(offset))]

    @_translated("read")
    def ids(self, query: Query) -> list[str]:
        """Return the ids of records, oldest first."""
        statement = sa.select(records_table.c.id).where(*_conditions(query)).order_by(records_table.c.id)
        with self._engine.connect() as connection:
            return list(connection.execute(statement).scalars())

    @_translated("read")
    def services(self, query: Query) -> list[str]:
        """Return whose records they are."""
        service = records_table.c.service
        statement = sa.select(service).distinct().where(*_conditions(query)).order_by(service)
        with self._engine.connect() as connection:
            return list(connection.execute(statement).scalars())

    @_translated("read")
    def count(self, query: Query) -> int:
        """Return how many records there are."""
        statement = sa.select(sa.func.count()).select_from(records_table).where(*_conditions(query))
        with self._engine.connect() as connection:
            return int(connection.execute(statement).scalar_one())

    @_translated("read")
    def groups(self, query: Query, *, limit: int | None = None, offset: int = 0) -> list[Group]:
        """Return the groups, largest first."""
        c = records_table.c
        count = sa.func.count().label("count")
        statement = (
            sa.select(
                c.fingerprint,
                sa.func.max(c.reason),
                sa.func.max(c.label),
                sa.func.max(c.handler),
                sa.func.max(c.error_type),
                c.status,
                count,
                sa.func.min(c.first_at),
                sa.func.max(c.last_at),
                sa.func.min(c.id),
            )
            .where(*_conditions(query))
            .group_by(c.fingerprint, c.status)
            .order_by(count.desc(), c.fingerprint)
            .limit(limit)
            .offset(offset)
        )
        with self._engine.connect() as connection:
            return [Group(*row) for row in connection.execute(statement)]

    @_translated("read")
    def stats(self, service: str | None = None) -> list[dict[str, Any]]:
        """Return counts by service, status and reason, with the oldest of each."""
        c = records_table.c
        statement = (
            sa.select(
                c.service,
                c.status,
                c.reason,
                sa.func.count().label("count"),
                sa.func.min(c.first_at).label("oldest_at"),
            )
            .where(*_conditions(Query(service=service)))
            .group_by(c.service, c.status, c.reason)
            .order_by(c.service, c.status, c.reason)
        )
        with self._engine.connect() as connection:
            return [dict(row._mapping) for row in connection.execute(statement)]  # noqa: SLF001 - SQLAlchemy's public name

    # Replay

    @_translated("written")
    def queue(self, ids: Collection[str], replay: str) -> int:
        """Choose records for a replay that nobody works on."""
        values = {"status": Status.queued, "replay": replay, "claim_token": None, "claim_until": None}
        return self._tried(lambda connection: self._update(connection, ids, values, self._free()))

    @_translated("written")
    def start_replay(self, replay: Replay, ids: Collection[str]) -> int:
        """Keep a replay and which records are its."""
        c, every = records_table.c, sorted(ids)
        row = {name: getattr(replay, name) for name in _OF_A_REPLAY}

        def start(connection: Connection) -> int:
            total, mine = 0, {"status": Status.dead, "replay": replay.id, "claim_token": None, "claim_until": None}
            for start in range(0, len(every), _ROWS_AT_ONCE):
                chosen = sa.select(c.id, c.attempts).where(c.id.in_(every[start : start + _ROWS_AT_ONCE]), self._free())
                rows = connection.execute(chosen.order_by(c.id).with_for_update()).all()
                if rows:
                    kept = [{"replay": replay.id, "record": one, "attempts": attempts} for one, attempts in rows]
                    connection.execute(replayed_table.insert(), kept)
                    total += self._update(connection, [one for one, _ in rows], mine)
            now = self._clock()
            connection.execute(replays_table.insert().values({**row, "created_at": now, "total": total}))
            return total

        return self._tried(start)

    @_translated("written")
    def go_on(self, replay: str, limit: int | None = None) -> int:
        """Queue what is left of a replay that runs."""
        c, kept = records_table.c, replayed_table.c
        runs = sa.select(replays_table.c.id).where(replays_table.c.id == replay, replays_table.c.status == "running")
        left = (
            sa.select(c.id)
            .join(replayed_table, (kept.record == c.id) & (kept.replay == c.replay))
            .where(c.replay == replay, c.status == Status.dead, c.attempts == kept.attempts)
            .order_by(c.id)
            .limit(limit)
        )

        def go_on(connection: Connection) -> int:
            if connection.execute(runs.with_for_update()).first() is None:
                return 0
            ids = list(connection.execute(left).scalars())
            mine = (c.replay == replay) & (c.status == Status.dead)
            return self._update(connection, ids, {"status": Status.queued, "due": None}, mine)

        return self._tried(go_on)

    @_translated("written")
    def set_replay(self, replay: str, status: str, *, here: bool | None = None) -> None:
        """Change a replay's status."""
        c, over = records_table.c, status != "running"
        values: dict[str, Any] = {"status": status, "finished_at": self._clock() if over else None}
        if here is not None:
            values["here"] = here
        dead = records_table.update().where(c.replay == replay, c.status == Status.queued, self._free())

        def change(connection: Connection) -> None:
            connection.execute(replays_table.update().where(replays_table.c.id == replay).values(values))
            if over:
                connection.execute(dead.values(status=Status.dead, claim_token=None, claim_until=None))

        self._tried(change)

    @_translated("read")
    def replays(self, replay: str | None = None, *, limit: int | None = None, offset: int = 0) -> list[Replay]:
        """Return replays with their counts, newest first; or the one."""
        c, kept, of = records_table.c, replayed_table.c, replays_table.c
        statement = sa.select(replays_table).order_by(of.id.desc()).limit(limit).offset(offset)
        again = sa.case((c.attempts > kept.attempts, 1), else_=0)
        counts = (
            sa.select(c.status, again, sa.func.count())
            .join(replayed_table, (kept.record == c.id) & (kept.replay == c.replay))
            .group_by(c.status, again)
        )
        with self._engine.connect() as connection:
            found = connection.execute(statement if replay is None else statement.where(of.id == replay)).all()
            return [
                _replay_of(row, connection.execute(counts.where(c.replay == row.id)).all())  # a page of them
                for row in found
            ]

    def _free(self) -> sa.ColumnElement[bool]:
        """Tell which records nobody works on: dead, or queued and not claimed."""
        c = records_table.c
        unclaimed = sa.func.coalesce(c.claim_until, 0) <= self._clock()
        return (c.status == Status.dead) | ((c.status == Status.queued) & unclaimed)

    @_translated("claimed from")
    def claim(self, service: str, token: str, limit: int, lease: float, replay: str | None = None) -> list[Claim]:
        """Take up queued records that nobody has, or whose holder let the lease run out."""
        c, now = records_table.c, self._clock()
        statement = (
            sa.select(records_table)
            .where(_first_of_its_lane(service), sa.func.coalesce(c.claim_until, 0) <= now)
            .where(c.due.is_(None) | (c.due <= now))
            .where(c.replay == replay if replay else _for_workers())
            .order_by(nulls_first(c.due, self._engine.dialect), c.id)
            .limit(limit)
        )
        with self._engine.connect() as connection:
            # A worker asks every second: where there is nothing, nothing is locked.
            if connection.execute(statement.with_only_columns(c.id).limit(1)).first() is None:
                return []

        def take(connection: Connection) -> list[Record]:
            # What another process is just taking up is passed over.
            rows = connection.execute(statement.with_for_update(skip_locked=True))
            taken = [from_row(row) for row in rows]
            self._update(connection, [r.id for r in taken], {"claim_token": token, "claim_until": now + lease})
            return taken

        return [Claim(record, token) for record in self._tried(take)]

    @_translated("read")
    def next_due(self, service: str) -> float | None:
        """Return when the next record may be claimed: when it is due, or the claim that somebody has runs out."""
        c, now = records_table.c, self._clock()
        due, until = sa.func.coalesce(c.due, 0.0), sa.func.coalesce(c.claim_until, 0.0)
        when = sa.case((due > until, due), else_=until)
        statement = sa.select(when).where(_first_of_its_lane(service), _for_workers()).order_by(when).limit(1)
        with self._engine.connect() as connection:
            found = connection.execute(statement).scalar()
        return None if found is None else max(float(found), now)

    @_translated("read")
    def lanes(self, service: str) -> dict[str, int]:
        """Return how many records are parked, or queued, in each lane."""
        c = records_table.c
        statement = (
            sa.select(c.lane, sa.func.count())
            .where(c.service == service, c.status.in_(_WAITING), c.lane.is_not(None))
            .group_by(c.lane)
        )
        with self._engine.connect() as connection:
            return {lane: int(count) for lane, count in connection.execute(statement)}

    @_translated("written")
    def extend(self, ids: Collection[str], token: str, lease: float) -> set[str]:
        """Keep claimed records for `lease` more seconds."""
        return self._update_claimed(ids, token, {"claim_until": self._clock() + lease})

    @_translated("written")
    def resolve(self, ids: Collection[str], token: str, status: Status, by: str) -> set[str]:
        """Close claimed records."""
        closed = {
            "status": status,
            "closed_at": self._clock(),
            "closed_by": by,
            "claim_token": None,
            "claim_until": None,
        }
        return self._update_claimed(ids, token, closed)

    @_translated("written")
    def unclaim(self, ids: Collection[str], token: str, due: float | None = None) -> set[str]:
        """Give claimed records back, as they were."""
        later = {} if due is None else {"due": due}
        return self._update_claimed(ids, token, {"claim_token": None, "claim_until": None, **later})

    @_translated("written")
    def unqueue(self, replay: str) -> int:
        """Make what is left of a replay dead again."""
        c = records_table.c
        statement = (
            records_table.update()
            .where(c.replay == replay, c.status == Status.queued)
            .values(status=Status.dead, claim_token=None, claim_until=None)
        )
        with self._write() as connection:
            return connection.execute(statement).rowcount

    @_translated("written")
    def discard(self, ids: Collection[str], by: str) -> int:
        """Give records up that nobody works on."""
        values = {"status": Status.discarded, "closed_at": self._clock(), "closed_by": by}
        return self._tried(lambda connection: self._update(connection, ids, values, self._free()))

    @_translated("written")
    def restore(self, ids: Collection[str], by: str) -> int:
        """Make records dead again that were resolved or discarded."""
        c, every, count = records_table.c, sorted(ids), 0
        values = {"status": Status.dead, "closed_at": None, "closed_by": None, "due": None}

        def restore(connection: Connection, some: Sequence[str]) -> int:
            closed = c.id.in_(some) & c.status.in_(_CLOSED)
            there = sa.select(c.id, c.status).where(closed).order_by(c.id).with_for_update()
            was = [(row.id, row.status) for row in connection.execute(there)]
            self._note(connection, [(one, f"restored: it was {status}") for one, status in was], by)
            return self._update(connection, [one for one, _ in was], values)

        for start in range(0, len(every), _ROWS_AT_ONCE):
            count += self._tried(functools.partial(restore, some=every[start : start + _ROWS_AT_ONCE]))
        return count

    @_translated("written")
    def note(self, ids: Collection[str], by: str, text: str) -> int:
        """Write a note to records."""
        c, every = records_table.c, sorted(ids)

        def note(connection: Connection) -> int:
            count = 0
            for start in range(0, len(every), _ROWS_AT_ONCE):
                there = sa.select(c.id).where(c.id.in_(every[start : start + _ROWS_AT_ONCE]))
                found = list(connection.execute(there).scalars())
                self._note(connection, [(one, text) for one in found], by)
                count += len(found)
            return count

        return self._tried(note)

    def _note(self, connection: Connection, texts: Sequence[tuple[str, str]], by: str) -> None:
        now = self._clock()
        rows = [{"id": new_id(), "record": one, "at": now, "by": by, "text": text} for one, text in texts]
        if rows:
            connection.execute(notes_table.insert(), rows)

    @_translated("read")
    def notes(self, record_id: str) -> list[Note]:
        """Return what was noted of a record, oldest first."""
        c = notes_table.c
        statement = sa.select(c.at, c.by, c.text).where(c.record == record_id).order_by(c.at, c.id)
        with self._engine.connect() as connection:
            return [Note(*row) for row in connection.execute(statement)]

    @_translated("written")
    def purge(self, query: Query, limit: int = 1000) -> int:
        """Delete closed records, or dead ones where the query says so."""
        c = records_table.c
        allowed = [str(status) for status in query.statuses or _CLOSED if str(status) not in _WAITING]
        chosen = sa.select(c.id).where(*_conditions(query), c.status.in_(allowed)).order_by(c.id).limit(limit)

        def purge(connection: Connection) -> int:
            ids = list(connection.execute(chosen.with_for_update()).scalars())
            for start in range(0, len(ids), _ROWS_AT_ONCE):
                some = ids[start : start + _ROWS_AT_ONCE]
                for table in (notes_table, replayed_table):
                    connection.execute(table.delete().where(table.c.record.in_(some)))
                connection.execute(records_table.delete().where(c.id.in_(some)))
            return len(ids)

        return self._tried(purge)

    @_translated("written")
    def import_(self, records: Sequence[Record]) -> int:
        """Keep records whose ids are not there."""
        c = records_table.c

        def keep(connection: Connection) -> int:
            there: set[str] = set()
            for start in range(0, len(records), _ROWS_AT_ONCE):
                some = [record.id for record in records[start : start + _ROWS_AT_ONCE]]
                there.update(connection.execute(sa.select(c.id).where(c.id.in_(some))).scalars())
            new = {record.id: to_row(record) for record in records if record.id not in there}
            if new:
                connection.execute(records_table.insert(), list(new.values()))
            return len(new)

        return self._tried(keep)

    def _update(
        self, connection: Connection, ids: Collection[str], values: dict[str, Any], *conditions: sa.ColumnElement[bool]
    ) -> int:
        count, every = 0, sorted(ids)
        for start in range(0, len(every), _ROWS_AT_ONCE):
            chosen = records_table.c.id.in_(every[start : start + _ROWS_AT_ONCE])
            count += connection.execute(records_table.update().where(chosen, *conditions).values(values)).rowcount
        return count

    def _update_claimed(self, ids: Collection[str], token: str, values: dict[str, Any]) -> set[str]:
        c = records_table.c
        statement = sa.select(c.id).where(c.id.in_(list(ids)), c.claim_token == token).order_by(c.id)

        def update(connection: Connection) -> set[str]:
            ours = set(connection.execute(statement.with_for_update()).scalars())
            self._update(connection, ours, values)
            return ours

        return self._tried(update)

    # Checkpoints

    @_translated("read")
    def recall(self, service: str, source: str) -> str | None:
        """Return what `remember` kept, or None."""
        c, source = checkpoints_table.c, _key_of(source)
        statement = sa.select(c.value).where(c.service == service, c.source == source)
        with self._engine.connect() as connection:
            return connection.execute(statement).scalar()

    @_translated("written")
    def remember(self, service: str, source: str, value: str) -> None:
        """Keep a value for a service and source."""
        c, source = checkpoints_table.c, _key_of(source)
        with self._write() as connection:
            update = checkpoints_table.update().where(c.service == service, c.source == source).values(value=value)
            if not connection.execute(update).rowcount:
                connection.execute(checkpoints_table.insert().values(service=service, source=source, value=value))

    # Attempts at what stays unsettled

    @_translated("written")
    def count_attempts(self, service: str, spent: Mapping[str, int]) -> None:
        """Keep how many attempts were spent, by identity."""
        with self._write() as connection:
            self._drop_attempts(connection, service, spent)
            now = self._clock()
            rows = [{"service": service, "identity": one, "attempt": n, "at": now} for one, n in spent.items()]
            if rows:
                connection.execute(attempts_table.insert(), rows)

    @_translated("read")
    def attempts(self, service: str, identities: Collection[str]) -> dict[str, int]:
        """Return how many attempts were spent on some."""
        c, every, found = attempts_table.c, list(identities), dict[str, int]()
        with self._engine.connect() as connection:
            for start in range(0, len(every), _ROWS_AT_ONCE):
                some = c.identity.in_(every[start : start + _ROWS_AT_ONCE])
                statement = sa.select(c.identity, c.attempt).where(c.service == service, some)
                found.update((one, int(attempt)) for one, attempt in connection.execute(statement))
        return found

    @_translated("written")
    def drop_attempts(self, service: str, identities: Collection[str]) -> None:
        """Forget how many attempts were spent on some."""
        with self._write() as connection:
            self._drop_attempts(connection, service, identities)

    @staticmethod
    def _drop_attempts(connection: Connection, service: str, identities: Collection[str]) -> None:
        c, every = attempts_table.c, list(identities)
        for start in range(0, len(every), _ROWS_AT_ONCE):
            some = c.identity.in_(every[start : start + _ROWS_AT_ONCE])
            connection.execute(attempts_table.delete().where(c.service == service, some))

    # Effects that happen once

    once_begin = _translated("written")(SQLOnce.once_begin)
    once_extend = _translated("written")(SQLOnce.once_extend)
    once_done = _translated("written")(SQLOnce.once_done)
    once_drop = _translated("written")(SQLOnce.once_drop)
    once_purge = _translated("written")(SQLOnce.once_purge)

    # The database

    def _migrate(self, *, create: bool) -> None:
        if not create and not sa.inspect(self._engine).has_table(schema_table.name):
            raise UsageError(f"there is no dead letter store {self.url}")
        with self._write() as connection:
            lock_schema(connection)
            schema_table.create(connection, checkfirst=True)
            version = connection.execute(sa.select(schema_table.c.version)).scalar()
            if version == 1:
                for column in ("due DOUBLE", "lane VARCHAR(64)"):
                    connection.exec_driver_sql(f"ALTER TABLE missive_dead_letters ADD COLUMN {column}")
                for index in records_table.indexes:
                    index.create(connection, checkfirst=True)
                connection.execute(schema_table.update().values(version=SCHEMA_VERSION))
            if version is None or version <= SCHEMA_VERSION:
                metadata.create_all(connection)
            if version is None:
                connection.execute(schema_table.insert().values(version=SCHEMA_VERSION))
            elif version > SCHEMA_VERSION:
                raise StoreRefused(
                    f"the dead letter store {self.url} has schema {version}, and this Missive knows {SCHEMA_VERSION}:"
                    " upgrade Missive"
                )
            unlock_schema(connection)

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        with self._engine.connect() as connection:
            connection = connection.execution_options(missive_write=True)  # noqa: PLW2901 - it is the same connection
            with connection.begin():
                yield connection


def _create_private(path: Path) -> None:
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))


def _key_of(source: str) -> str:
    """Return what a source is kept under: its name, or a digest of one that fits into no key."""
    return source if len(source) <= SOURCE_LENGTH else hashlib.sha256(source.encode()).hexdigest()


def _conditions(query: Query) -> list[sa.ColumnElement[bool]]:
    c = records_table.c
    conditions: list[sa.ColumnElement[bool]] = []
    if query.ids:
        conditions.append(c.id.in_(query.ids))
    if query.statuses:
        conditions.append(c.status.in_([str(status) for status in query.statuses]))
    for column, value in (
        (c.fingerprint, query.group),
        (c.service, query.service),
        (c.reason, query.reason),
        (c.handler, query.handler),
        (c.replay, query.replay),
        (c.label, query.label),
        (c.error_type, query.error),
        (c.topic, query.topic),
    ):
        if value is not None:
            conditions.append(column == value)
    for condition, bound in (
        (c.attempts.__ge__, query.min_attempts),
        (c.attempts.__le__, query.max_attempts),
        (c.first_at.__gt__, query.first_after),
        (c.first_at.__lt__, query.first_before),
        (c.last_at.__gt__, query.last_after),
        (c.last_at.__lt__, query.last_before),
    ):
        if bound is not None:
            conditions.append(condition(bound))
    if query.source is not None:
        origin, value = sa.type_coerce(c.origin, sa.Text()), json.dumps(query.source)
        members = (f'"{name}": {value}' for name in ("url", "destination"))
        conditions.append(sa.or_(*(origin.contains(member, autoescape=True) for member in members)))
    conditions += [_mentions(word) for word in query.text]
    return conditions


def _mentions(word: str) -> sa.ColumnElement[bool]:
    """Tell which records have a word in what a list shows of them."""
    c = records_table.c
    shown = [sa.func.lower(column).contains(word.lower(), autoescape=True) for column in (c.label, c.handler)]
    shown.append(sa.func.lower(c.error_type).contains(word.lower(), autoescape=True))
    # JSON in ASCII: only what is a letter there is the same in either case.
    public = sa.func.lower(sa.type_coerce(c.public, sa.Text()))
    shown.append(public.contains(json.dumps(word)[1:-1].lower(), autoescape=True))
    return sa.or_(*shown)


_WAITING = (str(Status.queued), str(Status.parked))
_CLOSED = (str(Status.resolved), str(Status.discarded))


def _first_of_its_lane(service: str) -> sa.ColumnElement[bool]:
    """Tell which records wait to be taken up, and behind no other of their lane."""
    c, before = records_table.c, records_table.alias()
    earlier = sa.exists().where(
        before.c.lane == c.lane, before.c.id < c.id, before.c.service == c.service, before.c.status.in_(_WAITING)
    )
    return (c.service == service) & c.status.in_(_WAITING) & (c.lane.is_(None) | ~earlier)


def _for_workers() -> sa.ColumnElement[bool]:
    """Tell which records are of no replay that a command runs."""
    c, of = records_table.c, replays_table.c
    elsewhere = sa.exists().where(of.id == c.replay, of.here.is_(sa.true()), of.status == "running")
    return (c.status == Status.parked) | c.replay.is_(None) | ~elsewhere


_OF_A_REPLAY = ("id", "by", "query", "here", "canary", "rate", "until_failures", "status")


def _replay_of(row: sa.Row[Any], counted: Sequence[Any]) -> Replay:
    counts = dict.fromkeys(("queued", "resolved", "discarded", "failed", "left"), 0)
    for status, again, count in counted:
        name = ("failed" if again else "left") if status == Status.dead else str(status)
        counts["failed" if name == Status.parked else name] += int(count)
    status = row.status
    if status == "running" and not row.here and not counts["queued"]:
        status = "done"
    names = (*_OF_A_REPLAY, "created_at", "finished_at", "total")
    return Replay(**{**{name: getattr(row, name) for name in names}, **counts, "status": status})


def _identity(record: Record) -> str:
    return f"{record.service}\0{record.identity}"
