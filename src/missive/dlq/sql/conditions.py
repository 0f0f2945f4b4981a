"""Translate queries into conditions of SQL statements."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from missive.dlq.contract import Query
from missive.dlq.sql.schema import groups, records

_FEW = 5000
"""Largest number of records for which a page is found by the fingerprints of their groups."""
status_of_chosen = sa.func.coalesce(records.c.status, "")
"""The status, for records selected by id. With the plain column, SQLite may walk the index of statuses instead."""


def conditions(query: Query) -> list[sa.ColumnElement[bool]]:
    """Return the conditions of a query on the table of records."""
    c = records.c
    found = _of_groups(query, c, status_of_chosen if query.ids else c.status)
    if query.ids:
        found.append(c.id.in_(query.ids))
    for column, value in ((c.replay, query.replay), (c.topic, query.topic)):
        if value is not None:
            found.append(column == value)
    for condition, bound in (
        (c.attempts.__ge__, query.min_attempts),
        (c.attempts.__le__, query.max_attempts),
        (c.first_at.__gt__, query.first_after),
        (c.first_at.__lt__, query.first_before),
        (c.last_at.__gt__, query.last_after),
        (c.last_at.__lt__, query.last_before),
    ):
        if bound is not None:
            found.append(condition(bound))
    if query.source is not None:
        origin, value = sa.type_coerce(c.origin, sa.Text()), json.dumps(query.source)
        members = (f'"{name}": {value}' for name in ("url", "destination"))
        # On SQLite, LIKE ignores case.
        found.append(sa.or_(*(sa.func.replace(origin, member, "") != origin for member in members)))
    found += [_mentions(word) for word in query.text]
    return found + [_fails(conditions(left_out)) for left_out in query.without]


def group_conditions(query: Query) -> list[sa.ColumnElement[bool]]:
    """Return the conditions on the table of groups, for a query with `selects_groups`."""
    c = groups.c
    every = (_of_groups(one, c, c.status) for one in query.without)
    return [c["count"] > 0, *_of_groups(query, c, c.status), *map(_fails, every)]


def narrowed(connection: Connection, query: Query) -> list[sa.ColumnElement[bool]]:
    """Return the conditions on records for a page of the newest. Small groups are found by their fingerprints.

    If most records match, a walk from the newest record soon finds a page. If few match, it would read all records.
    """
    where, shared = conditions(query), query.group_part
    if query.ids or query.replay is not None or shared == Query(statuses=query.statuses):
        return where
    g = groups.c
    counted = sa.select(g.fingerprint, sa.func.sum(g["count"])).where(*group_conditions(shared)).group_by(g.fingerprint)
    found = connection.execute(counted).all()
    if not found:
        return [sa.false()]
    if sum(int(count) for _, count in found) > _FEW:
        return where
    return [*where, records.c.fingerprint.in_([fingerprint for fingerprint, _ in found])]


def _of_groups(query: Query, c: Any, status: sa.ColumnElement[str]) -> list[sa.ColumnElement[bool]]:
    found: list[sa.ColumnElement[bool]] = []
    if query.statuses:
        found.append(status.in_([str(status) for status in query.statuses]))
    for column, value in (
        (c.fingerprint, query.group),
        # As with the status: its index serves leases, and no page has its order.
        (sa.func.coalesce(c.service, ""), query.service),
        (c.reason, query.reason),
        (c.handler, query.handler),
        (c.label, query.label),
        (c.error_type, query.error),
    ):
        if value is not None:
            found.append(column == value)
    return found


def _fails(every: list[sa.ColumnElement[bool]]) -> sa.ColumnElement[bool]:
    """Return the condition that one of `every` fails. A NULL value counts as a failure."""
    return ~sa.func.coalesce(sa.and_(sa.true(), *every), sa.false())


def _mentions(word: str) -> sa.ColumnElement[bool]:
    """Return the condition that a word occurs in the safe fields of a record."""
    c = records.c
    shown = []
    for column in (c.label, c.handler, c.error_type):
        # Also unchanged, because some databases lower ASCII letters only.
        shown += [sa.func.lower(column).contains(word.lower(), autoescape=True)]
        shown += [] if word.isascii() else [column.contains(word, autoescape=True)]
    # The JSON text is ASCII, with other letters escaped. The search ignores the case of ASCII letters only.
    public = sa.func.lower(sa.type_coerce(c.public, sa.Text()))
    shown.append(public.contains(json.dumps(word)[1:-1].lower(), autoescape=True))
    return sa.or_(*shown)
