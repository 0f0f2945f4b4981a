"""Claims of `once=` in an SQL database: a row for each, which is held, or says that the effect has happened."""

from __future__ import annotations

import random
import time
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.engine import Connection

from missive.dlq.once import Answer, Asked, Effect, OnceStore, Row, State, judged

T = TypeVar("T")

_AT_ONCE = 500
_TRIES = 20
_PAUSE = 0.01
_DEADLOCKS = frozenset({"40P01", "40001", "23505", 1213, 1062})
"""What PostgreSQL and MySQL say of a transaction that may be tried again at once.

The last of each: another one was first to insert the same row, which is found there the next time."""


def define_leases(metadata: sa.MetaData) -> sa.Table:
    """Define the table of claims."""
    return sa.Table(
        "missive_once_leases",
        metadata,
        sa.Column("service", sa.String(255), primary_key=True),
        sa.Column("handler", sa.String(255), primary_key=True),
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("body", sa.String(64), nullable=False),
        sa.Column("owner", sa.String(80), nullable=False),
        sa.Column("fence", sa.Integer, nullable=False),
        sa.Column("until", sa.Double, nullable=False),
        sa.Column("done", sa.Boolean, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
        sa.Index("missive_once_leases_expires", "expires_at"),
        mysql_engine="InnoDB",
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
    )


class SQLOnce(OnceStore):
    """The part of an SQL store that keeps claims. What the database raises, the store translates."""

    _clock: Callable[[], float]
    _leases: sa.Table

    @abstractmethod
    def _write(self) -> AbstractContextManager[Connection]:
        """Begin a transaction that will write, and commit it in the end."""

    def once_begin(self, service: str, asked: Sequence[Asked], owner: str, lease: float, ttl: float) -> list[Answer]:
        """Claim effects, in one transaction."""
        table, now = self._leases, self._clock()
        fresh = {"owner": owner, "fence": 1, "until": now + lease, "done": False, "expires_at": now + ttl}
        # In one order everywhere, so that no two wait for each other.
        new = [{**fresh, "service": service, **one._asdict()} for one in sorted(asked)]

        def begin(connection: Connection) -> list[Answer]:
            # What is there stays, and a transaction that is at the same effects is waited for.
            connection.execute(_insert_ignoring(table, connection.dialect.name), new)
            there = self._there(connection, service, [one.effect for one in asked])
            answers, changed = [], []
            for one in asked:
                row = there.get(one.effect)
                if row is None:  # given up by somebody in this very moment
                    answers.append(Answer(State.busy, 0, now))
                    continue
                answer, kept = judged(row, one, owner, now, lease, ttl)
                answers.append(answer)
                if kept not in (None, row):
                    changed.append({**_bound(service, one.effect), **kept._asdict()})
            if changed:
                connection.execute(table.update().where(*self._is_bound()), changed)
            return answers

        return self._tried(begin)

    def once_extend(self, service: str, effects: Collection[Effect], owner: str, lease: float) -> set[Effect]:
        """Keep claims, in one transaction."""
        return self._change(service, effects, owner, {"until": self._clock() + lease})

    def once_done(self, service: str, effects: Collection[Effect], owner: str, ttl: float) -> set[Effect]:
        """Remember that effects have happened, in one transaction."""
        return self._change(service, effects, owner, {"done": True, "expires_at": self._clock() + ttl})

    def once_drop(self, service: str, effects: Collection[Effect], owner: str) -> set[Effect]:
        """Give claims up, in one transaction."""

        def drop(connection: Connection) -> set[Effect]:
            there = self._there(connection, service, effects)
            ours = {effect for effect, row in there.items() if row.owner == owner and not row.done}
            self._delete(connection, [(service, *effect) for effect in sorted(ours)])
            return ours

        return self._tried(drop)

    def once_purge(self, limit: int = 1000) -> int:
        """Forget what may be forgotten, in one transaction."""
        c, now = self._leases.c, self._clock()
        over = (c.expires_at <= now) & (c.done | (c.until <= now))
        statement = sa.select(c.service, c.handler, c.digest).where(over).order_by(c.expires_at).limit(limit)

        def purge(connection: Connection) -> int:
            keys = [tuple(row) for row in connection.execute(statement)]
            self._delete(connection, keys)
            return len(keys)

        return self._tried(purge)

    def _change(self, service: str, effects: Collection[Effect], owner: str, values: dict[str, Any]) -> set[Effect]:
        def change(connection: Connection) -> set[Effect]:
            there = self._there(connection, service, effects)
            ours = {effect for effect, row in there.items() if row.owner == owner}
            if ours:
                changed = [_bound(service, effect) for effect in sorted(ours)]
                connection.execute(self._leases.update().where(*self._is_bound()).values(values), changed)
            return ours

        return self._tried(change)

    def _tried(self, work: Callable[[Connection], T]) -> T:
        """Do something in a transaction, again where the database chose that one to end a deadlock."""
        for tried in range(_TRIES):
            try:
                with self._write() as connection:
                    return work(connection)
            except sa.exc.DBAPIError as error:
                if not _is_deadlock(error):
                    raise
            time.sleep(random.random() * _PAUSE * tried)  # noqa: S311 - so that the same do not meet again
        with self._write() as connection:
            return work(connection)

    def _there(self, connection: Connection, service: str, effects: Iterable[Effect]) -> dict[Effect, Row]:
        """Return the rows of effects, locked."""
        c = self._leases.c
        found: dict[Effect, Row] = {}
        for some in _portions(sorted(effects)):
            statement = (
                sa.select(c.handler, c.digest, c.body, c.owner, c.fence, c.until, c.done, c.expires_at)
                .where(c.service == service, sa.tuple_(c.handler, c.digest).in_(some))
                .order_by(c.handler, c.digest)
                .with_for_update()
            )
            for handler, digest, *rest in connection.execute(statement):
                found[handler, digest] = Row(*rest)
        return found

    def _delete(self, connection: Connection, keys: Sequence[tuple[Any, ...]]) -> None:
        c = self._leases.c
        for some in _portions(keys):
            connection.execute(self._leases.delete().where(sa.tuple_(c.service, c.handler, c.digest).in_(some)))

    def _is_bound(self) -> tuple[sa.ColumnElement[bool], ...]:
        c = self._leases.c
        return (
            c.service == sa.bindparam("of_service"),
            c.handler == sa.bindparam("of_handler"),
            c.digest == sa.bindparam("of_digest"),
        )


def _bound(service: str, effect: Effect) -> dict[str, Any]:
    return {"of_service": service, "of_handler": effect[0], "of_digest": effect[1]}


def _insert_ignoring(table: sa.Table, dialect: str) -> sa.Insert:
    """Return an insert that leaves what is there as it is."""
    if dialect == "sqlite":
        return sqlite.insert(table).on_conflict_do_nothing()
    if dialect == "postgresql":
        return postgresql.insert(table).on_conflict_do_nothing()
    # INSERT IGNORE locks what is there for reading, and two that then lock it for writing wait for each other.
    insert = mysql.insert(table)
    return insert.on_duplicate_key_update(digest=insert.inserted.digest)


def _is_deadlock(error: sa.exc.DBAPIError) -> bool:
    codes = getattr(error.orig, "sqlstate", None), next(iter(getattr(error.orig, "args", ())), None)
    return not _DEADLOCKS.isdisjoint(codes)


def _portions(things: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(things), _AT_ONCE):
        yield things[start : start + _AT_ONCE]
