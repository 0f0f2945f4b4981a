"""Which records an operation is for: a snapshot of ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from missive.dlq.contract import Query, Store
from missive.dlq.record import Status
from missive.errors import UsageError

_SHORTEST_PREFIX = 4


@dataclass(frozen=True, slots=True)
class Selection:
    """The records that ids and groups chose, as a snapshot: what arrives later is not in it."""

    ids: tuple[str, ...]
    services: tuple[str, ...]


FREE = (Status.dead, Status.queued)
"""What can be replayed or given up: dead, or queued and taken up by nobody yet."""
CLOSED = (Status.resolved, Status.discarded)
"""What can be restored, and what is purged."""


def select(store: Store, wanted: Sequence[str], base: Query, among: Sequence[Status] = FREE) -> Selection:
    """Return the records that are named by id, by group or the beginning of one (four characters or more).

    All that `base` says holds of them too; where it says no status, those that are named have one `among`.

    Raises `UsageError` for a name that is nothing's.
    """
    if wanted and (base.ids or base.group is not None):
        raise UsageError(f"{wanted[0]} is named, and a query says which id or group: leave one out")
    queries = [_named(store, name, base, tuple(among)) for name in wanted] or [base]
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
            raise UsageError(f"{name} is the beginning of {len(groups)} groups: give more of it")
        if groups:
            return replace(base, group=groups.pop(), statuses=statuses)
    raise UsageError(f"{name} is neither the id of a dead letter nor a group: see missive dlq groups, missive dlq list")
