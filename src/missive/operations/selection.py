"""Selections: the records that an operation works on, as a snapshot of ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from missive.dlq.contract import Query, Store
from missive.dlq.record import Record, Status
from missive.errors import UsageError

_SHORTEST_PART = 4
"""Minimum length of an abbreviated id or fingerprint, in characters."""

REPLAYABLE = (Status.dead, Status.queued)
"""Statuses of records that can be replayed or discarded; a queued record only while no worker leases it."""
CLOSED = (Status.resolved, Status.discarded)
"""Statuses of records that can be restored, and that are purged by default."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The records that an operator chose, as a snapshot: later arrivals do not join it."""

    ids: tuple[str, ...]
    services: tuple[str, ...]
    """The services that the records belong to, sorted."""


def find_record(store: Store, name: str) -> Record:
    """Return a record by its id, or by a beginning or end of the id that no other id has.

    Raise `UsageError` when the store has no such record, and when it has several.
    """
    record_id = _find_id(store, name)
    record = None if record_id is None else store.get(record_id)
    if record is None:
        raise UsageError(f"there is no dead letter {name}: see missive dlq list")
    return record


def only_id(ids: Sequence[str], name: str) -> str | None:
    """Return the only one of `ids`, which all begin or end with `name`. Raise `UsageError` for several."""
    if len(ids) > 1:
        raise UsageError(f"{name} is the beginning or end of several ids: write more characters of one")
    return ids[0] if ids else None


def is_part(name: str) -> bool:
    """Return whether a name is long enough for the beginning or end of an id."""
    return len(name) >= _SHORTEST_PART


def _find_id(store: Store, name: str) -> str | None:
    if store.get(name) is not None:
        return name
    return only_id(store.ids_like(name.upper()), name) if is_part(name) else None


def select_records(store: Store, names: Sequence[str], base: Query, among: Sequence[Status] = REPLAYABLE) -> Selection:
    """Select records by name within the query `base`; without names, select all records of `base`.

    A name is an id, the fingerprint of a group, or a part of one with four characters or more: the beginning of a
    fingerprint, the beginning or end of an id. Named records must have a status of `base`, or one of `among` where
    `base` has none.

    Raise `UsageError` for a name that matches nothing or several groups, and for names when `base` has an id or group.
    """
    if names and (base.ids or base.group is not None):
        raise UsageError(f"{names[0]} is an id or a group, and the query names another: leave one out")
    queries = [_named(store, name, base, tuple(among)) for name in names] or [base]
    ids = dict.fromkeys(record_id for query in queries for record_id in store.ids(query))
    services = {service for query in queries for service in store.services(query)}
    return Selection(tuple(ids), tuple(sorted(services)))


def _named(store: Store, name: str, base: Query, among: tuple[Status, ...]) -> Query:
    statuses = base.statuses or among
    if store.get(name) is not None:
        return replace(base, ids=(name,), statuses=statuses)
    record_id = _find_id(store, name)
    if is_part(name):
        groups = {group.fingerprint for group in store.groups(Query()) if group.fingerprint.startswith(name.lower())}
        if len(groups) > 1:
            raise UsageError(f"{name} is the beginning of {len(groups)} groups: write more characters of one")
        if groups and record_id is not None:
            raise UsageError(f"{name} is a part of an id and of a group: write more characters of one")
        if groups:
            return replace(base, group=groups.pop(), statuses=statuses)
    if record_id is not None:
        return replace(base, ids=(record_id,), statuses=statuses)
    raise UsageError(
        f"{name} is neither the id of a dead letter nor a group: see missive dlq list and missive dlq groups"
    )
