"""Purging: which records are deleted, and which stay."""

from __future__ import annotations

from missive.dlq import Query, Status
from missive.dlq.sql import SQLStore
from missive.operations.purge import purge_records
from missive.operations.selection import CLOSED, select_records
from tests.support.stores import closed, on_each, record, statuses


@on_each
def test_only_closed_records_are_purged(store: SQLStore):
    """Dead records are deleted only when the query names that status; queued and parked records never are."""
    store.put([closed("a"), closed("b", Status.discarded), record(id="c"), record(id="d", status=Status.queued)])
    store.put([record(id="e", status=Status.parked)])
    store.note(["a", "c"], "me", "x")
    assert store.purge(Query(), limit=1) == 1
    assert store.purge(Query()) == 1
    assert store.purge(Query(statuses=(Status.queued, Status.parked))) == 0
    assert statuses(store) == {"c": "dead", "d": "queued", "e": "parked"}
    assert (store.notes("a"), len(store.notes("c"))) == ([], 1)
    assert store.purge(Query(statuses=(Status.dead,))) == 1
    assert store.notes("c") == []


@on_each
def test_a_record_restored_after_its_selection_is_not_purged(store: SQLStore):
    """A purge deletes only selected records that still have their status."""
    store.put([closed("a"), closed("b")])
    chosen = select_records(store, [], Query(statuses=CLOSED), CLOSED)
    store.restore(["a"], "me")
    assert purge_records(store, CLOSED, chosen.ids) == 1
    assert statuses(store) == {"a": "dead"}
