"""Restoring closed records, and the notes of operators, on each database."""

from __future__ import annotations

from missive.dlq import Status
from missive.dlq.sql import SQLStore
from tests.support.stores import Clock, closed, on_each, queued, record, statuses


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
