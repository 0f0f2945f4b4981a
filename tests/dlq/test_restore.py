"""Restoring closed records, and the notes of operators, on each database."""

from __future__ import annotations

from missive.dlq import Query, Status, Store
from missive.dlq.sql import SQLStore
from tests.dlq.conftest import Clock, queued
from tests.dlq.test_store import on_each, record


def statuses(store: Store) -> dict[str, str]:
    """Return the status of each record, by id."""
    return {one.id: str(one.status) for one in store.query(Query())}


def closed(record_id: str, status: Status = Status.resolved, **changes: object):
    """Return a record that was resolved or discarded."""
    return record(id=record_id, status=status, closed_at=5.0, closed_by="me", **changes)


@on_each
def test_closed_records_are_restored_with_a_note(store: SQLStore, clock: Clock):
    """Resolved and discarded records become dead again, with a note of the operator; other records do not change."""
    store.put([closed("a"), closed("b", Status.discarded), record(id="c", status=Status.queued, replay="r")])
    clock.now = 77.0
    assert store.restore(["a", "b", "c", "none"], "ann@host") == 2
    assert statuses(store) == {"a": "dead", "b": "dead", "c": "queued"}
    assert (store.get("a").closed_at, store.get("a").closed_by) == (None, None)
    assert store.notes("a") == [(77.0, "ann@host", "restored: it was resolved")]
    assert store.notes("b") == [(77.0, "ann@host", "restored: it was discarded")]
    assert store.notes("c") == []
    assert queued(store, ["a"], "again") == 1


@on_each
def test_notes_stay_when_a_record_fails_again(store: SQLStore, clock: Clock):
    """Notes are listed in the order in which they were written."""
    store.put([record(id="a")])
    assert store.note(["a", "none"], "ann", "first") == 1
    clock.now += 1
    store.note(["a"], "bob", "second")
    store.put([record(id="a")])
    assert [(one.by, one.text) for one in store.notes("a")] == [("ann", "first"), ("bob", "second")]
