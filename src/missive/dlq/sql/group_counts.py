"""Counts of groups, updated with every change of records, so that a list of groups reads no records."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from missive.dlq.contract import DAY
from missive.dlq.record import Record, Status
from missive.dlq.sql.dialects import Text
from missive.dlq.sql.schema import days, groups, records

_OF = ("fingerprint", "service", "status", "reason", "label", "handler", "error_type")
NAMES = tuple(records.c[name] for name in (*_OF, "first_at"))
"""Columns of a record that determine its group, and the time of its first failure."""
_CLOSED = (str(Status.resolved), str(Status.discarded))
_KEPT_DAYS = 90
"""Age at which the counts of a day are deleted, in days."""


class GroupCounts:
    """Changes of groups in one transaction. They are written at its end, so that all transactions lock in one order."""

    def __init__(self, connection: Connection, now: float) -> None:
        self._connection = connection
        self._now = now
        self._counts: Counter[tuple[Any, ...]] = Counter()
        self._first: dict[tuple[Any, ...], float] = {}
        self._closed: set[tuple[Any, ...]] = set()
        self._days: Counter[tuple[str, int]] = Counter()

    def add(self, record: Record, *, failed: bool = True) -> None:
        """Count a record in its group. `failed` is false for an edited record, which is not a new failure."""
        self._count([getattr(record, name) for name in _OF], record.first_at, 1)
        if failed and record.status is Status.dead:
            self._days[record.fingerprint, int(record.last_at // DAY)] += 1

    def remove(self, record: Record) -> None:
        """Remove a record from the count of its group."""
        self._count([getattr(record, name) for name in _OF], record.first_at, -1)

    def move(self, rows: Iterable[Any], status: Status | None) -> None:
        """Count rows with the columns `NAMES` under another status, or remove them from the counts for None."""
        for row in rows:
            values = [getattr(row, name) for name in _OF]
            self._count(values, row.first_at, -1)
            if status is not None:
                values[2] = status
                self._count(values, row.first_at, 1)

    def rename(self, rows: Iterable[Any], service: str) -> None:
        """Count rows with the columns `NAMES` under another service."""
        for row in rows:
            values = [getattr(row, name) for name in _OF]
            self._count(values, row.first_at, -1)
            values[1] = service
            self._count(values, row.first_at, 1)

    def _count(self, values: Iterable[Any], first_at: float, by: int) -> None:
        key = tuple(values)
        self._counts[key] += by
        self._first[key] = min(first_at, self._first.get(key, first_at))
        if by > 0 and key[2] in _CLOSED:  # a record that leaves the group is not closed now
            self._closed.add(key)

    def _stored(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return values in their stored form: truncated, and without characters that the database cannot store."""
        dialect = self._connection.dialect
        texts = (None if value is None else str(value) for value in values)
        return tuple(
            type_.process_bind_param(value, dialect) if isinstance(type_ := groups.c[name].type, Text) else value
            for name, value in zip(_OF, texts, strict=True)
        )

    def write(self) -> None:
        """Write the changes to the tables."""
        changed: dict[str, dict[str, Any]] = {}
        for values, by in self._counts.items():
            if not by and values[2] not in _CLOSED:
                continue
            key = self._stored(values)
            row = changed.setdefault(_digest(key), {**dict(zip(_OF, key, strict=True)), "count": 0})
            row["count"] += by
            row["first_at"] = min(self._first[values], row.get("first_at", self._first[values]))
            row["closed_at"] = self._now if values in self._closed else row.get("closed_at")
        if changed:
            self._write_groups(changed)
        if self._days:
            self._write_days()

    def _write_groups(self, changed: dict[str, dict[str, Any]]) -> None:
        c, connection = groups.c, self._connection
        there = sa.select(c.digest).where(c.digest.in_(sorted(changed))).order_by(c.digest).with_for_update()
        known = set(connection.execute(there).scalars())
        rows = [{"digest": digest, **changed[digest]} for digest in sorted(changed)]
        update = (
            groups.update()
            .where(c.digest == sa.bindparam("of"))
            .values(
                count=c.count + sa.bindparam("more"),
                first_at=sa.case((c.first_at > sa.bindparam("first"), sa.bindparam("first")), else_=c.first_at),
                closed_at=sa.func.coalesce(sa.bindparam("closed", type_=sa.Double), c.closed_at),
            )
        )
        old = [
            {"of": row["digest"], "more": row["count"], "first": row["first_at"], "closed": row["closed_at"]}
            for row in rows
            if row["digest"] in known
        ]
        new = [row for row in rows if row["digest"] not in known]
        if old:
            connection.execute(update, old)
        if new:
            connection.execute(groups.insert(), new)

    def _write_days(self) -> None:
        c, connection = days.c, self._connection
        wanted = sorted(self._days)
        there = (
            sa.select(c.fingerprint, c.day)
            .where(sa.tuple_(c.fingerprint, c.day).in_(wanted))
            .order_by(c.fingerprint, c.day)
            .with_for_update()
        )
        known = {tuple(row) for row in connection.execute(there)}
        old = [{"of": one[0], "on": one[1], "more": self._days[one]} for one in wanted if one in known]
        new = [{"fingerprint": one[0], "day": one[1], "count": self._days[one]} for one in wanted if one not in known]
        if old:
            same = (c.fingerprint == sa.bindparam("of")) & (c.day == sa.bindparam("on"))
            connection.execute(days.update().where(same).values(count=c.count + sa.bindparam("more")), old)
        if new:
            connection.execute(days.insert(), new)


def forget_days(connection: Connection, now: float) -> None:
    """Delete the counts of old days."""
    connection.execute(days.delete().where(days.c.day < int(now // DAY) - _KEPT_DAYS))


def recount(connection: Connection) -> None:
    """Count all groups again, after a migration."""
    c = records.c
    of = [c[name] for name in _OF]
    counted = sa.select(*of, sa.func.count(), sa.func.min(c.first_at), sa.func.max(c.closed_at)).group_by(*of)
    rows = [
        {
            **dict(zip(_OF, row, strict=False)),
            "digest": _digest(tuple(row[: len(_OF)])),
            "count": row[-3],
            "first_at": row[-2],
            "closed_at": row[-1],
        }
        for row in connection.execute(counted)
    ]
    connection.execute(groups.delete())
    if rows:
        connection.execute(groups.insert(), rows)


def _digest(key: tuple[Any, ...]) -> str:
    return hashlib.sha256(json.dumps(key).encode()).hexdigest()
