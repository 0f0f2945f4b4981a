"""What an operator does with dead letters; the command line and the console are faces of these."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from missive.dlq.contract import Query, Store
from missive.dlq.record import Record, Status
from missive.dlq.source import ReplayAdapter
from missive.errors import UsageError
from missive.ids import new_id
from missive.processor import Processor

_SHORTEST_PREFIX = 4


@dataclass(frozen=True, slots=True)
class Selection:
    """The records that ids and groups chose, as a snapshot: what arrives later is not in it."""

    ids: tuple[str, ...]
    services: tuple[str, ...]


def select(store: Store, wanted: Sequence[str], base: Query) -> Selection:
    """Return the records that are named by id, by group or the beginning of one (four characters or more).

    They are dead, or queued and taken up by nobody yet.

    Raises `UsageError` for a name that is nothing's, or for no name at all where `base` says nothing either.
    """
    queries = [_named(store, name, base) for name in wanted] or [base]
    ids = dict.fromkeys(record_id for query in queries for record_id in store.ids(query))
    services = {service for query in queries for service in store.services(query)}
    return Selection(tuple(ids), tuple(sorted(services)))


def _named(store: Store, name: str, base: Query) -> Query:
    free = (Status.dead, Status.queued)
    if store.get(name) is not None:
        return Query(ids=(name,), statuses=free)
    if len(name) >= _SHORTEST_PREFIX:
        groups = {group.fingerprint for group in store.groups(Query()) if group.fingerprint.startswith(name.lower())}
        if len(groups) > 1:
            raise UsageError(f"{name} is the beginning of {len(groups)} groups: give more of it")
        if groups:
            return replace(base, group=groups.pop(), statuses=free)
    raise UsageError(f"{name} is neither the id of a dead letter nor a group: see missive dlq groups, missive dlq list")


@dataclass(frozen=True, slots=True)
class Replayed:
    """What became of a replay."""

    replay: str
    chosen: int
    resolved: int
    failed: int
    discarded: int
    left: int
    """Not taken up: still queued when the replay was stopped, and dead again."""

    def to_dict(self) -> dict[str, Any]:
        """Return the counts as JSON would have them."""
        return {name: getattr(self, name) for name in self.__slots__}


def replay(
    store: Store,
    selection: Selection,
    processor: Processor[Any],
    *,
    concurrency: int | None = None,
    on_settled: Callable[[int], None] | None = None,
) -> Replayed:
    """Run chosen records through a processor, here and now, and close those that it handles.

    Nothing is republished. Whatever fails again keeps its record, with one more line of history. Raises
    `MissiveError` when the engine fails or is cut short: what was not handled then is dead as before.
    """
    from missive.engine.run import execute  # noqa: PLC0415 - listing dead letters does not load the engine

    name = new_id()
    chosen = store.queue(selection.ids, name)
    adapters = [
        ReplayAdapter(processor, store, replay=name, service=service, on_settled=on_settled)
        for service in selection.services
    ]
    left = 0
    if chosen:
        try:
            execute(adapters, sink=store, concurrency=concurrency)
        finally:
            left = store.unqueue(name)
    resolved = store.count(Query(replay=name, statuses=(Status.resolved,)))
    discarded = store.count(Query(replay=name, statuses=(Status.discarded,)))
    return Replayed(name, chosen, resolved, chosen - resolved - discarded - left, discarded, left)


def queue(store: Store, selection: Selection) -> tuple[str, int]:
    """Leave chosen records to the running workers of their service; returns the replay and how many."""
    name = new_id()
    return name, store.queue(selection.ids, name)


def summary(record: Record) -> dict[str, Any]:
    """Return what a list shows of a record: nothing of the message but what is public."""
    return {
        "id": record.id,
        "status": str(record.status),
        "service": record.service,
        "reason": str(record.reason),
        "label": record.label,
        "handler": record.handler,
        "error": record.error_type,
        "group": record.fingerprint,
        "attempts": record.attempts,
        "first_at": record.first_at,
        "last_at": record.last_at,
        "size": record.size,
        "source": record.origin.url,
        "public": record.public,
    }


def details(record: Record) -> dict[str, Any]:
    """Return what is shown of one record: all but the body, the header values and the exception's text."""
    public = {name.lower(): value for name, value in record.public.items()}
    return {
        **summary(record),
        "message": {
            "size": record.size,
            "sha256": record.sha256,
            "content_type": record.content_type,
            "headers": {name: public.get(name.lower(), "***") for name, _ in record.headers},
            "sent_at": record.sent_at,
        },
        "origin": {
            "transport": record.origin.transport,
            "destination": record.origin.destination,
            "url": record.origin.url,
            "lane": record.origin.lane,
            "position": record.origin.position,
        },
        "candidates": list(record.candidates),
        "explanation": record.explanation,
        "stack": list(record.error_chain),
        "history": [{name: getattr(attempt, name) for name in attempt.__slots__} for attempt in record.history],
        "runtime": record.runtime,
        "replay": record.replay,
        "closed_at": record.closed_at,
        "closed_by": record.closed_by,
    }
