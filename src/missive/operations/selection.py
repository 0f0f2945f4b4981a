"""Selections: the records that an operation works on, as a snapshot of ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from missive.dlq.contract import Query, Store
from missive.dlq.record import Record, Status
from missive.errors import UsageError

_SHORTEST_PREFIX = 4
"""Minimum length of a group's abbreviated fingerprint, in characters."""

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


def find_record(store: Store, record_id: str) -> Record:
    """Return a record by its id. Raise `UsageError` when the store has no such record."""
    record = store.get(record_id)
    if record is None:
        raise UsageError(f"there is no dead letter {record_id}: see missive dlq list")
    return record


def select_records(store: Store, names: Sequence[str], base: Query, among: Sequence[Status] = REPLAYABLE) -> Selection:
    """Select records by name within the query `base`; without names, select all records of `base`.

    A name is an id, the fingerprint of a group, or the beginning of one (four characters or more). Named records must
    have a status of `base`, or one of `among` where `base` has none.

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
    if len(name) >= _SHORTEST_PREFIX:
        groups = {group.fingerprint for group in store.groups(Query()) if group.fingerprint.startswith(name.lower())}
        if len(groups) > 1:
            raise UsageError(f"{name} is the beginning of {len(groups)} groups: write more characters of one")
        if groups:
            return replace(base, group=groups.pop(), statuses=statuses)
    raise UsageError(
        f"{name} is neither the id of a dead letter nor a group: see missive dlq list and missive dlq groups"
    )
