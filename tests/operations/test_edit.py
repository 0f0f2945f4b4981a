"""Edits: a new dead letter with a changed message, and what becomes of the original."""

from __future__ import annotations

from dataclasses import replace

import pytest

from missive.dlq import Query, Status
from missive.dlq.sql import SQLStore
from missive.errors import StoreConflict, UsageError
from missive.ids import new_id
from missive.operations.edit import describe_edit, edit_record
from tests.support.stores import on_each, record


@on_each
def test_an_edit_stores_a_new_record_and_discards_the_original(store: SQLStore):
    """The original keeps every byte and is discarded; each record names the other."""
    old = record(identity="i", may_join=True, headers=(("Kind", "a"), ("keep", "1")))
    store.put([old])
    new = edit_record(store, old.id, "me", body=b"new", headers={"kind": "b", "more": "2", "keep": None})
    kept, there = store.get(old.id), store.get(new.id)
    assert (kept.body, kept.headers, kept.status) == (old.body, old.headers, Status.discarded)
    assert (kept.closed_by, kept.closed_why) == ("me", f"edited as {new.id}")
    assert (there.body, there.status, there.edited_from) == (b"new", Status.dead, old.id)
    assert there.headers == (("kind", "b"), ("more", "2"))
    assert [note.text for note in store.notes(new.id)] == [f"edited from {old.id}"]
    assert describe_edit(old, new)["headers"] == ["keep", "kind", "more"]
    store.put([replace(old, id=new_id(), last_at=20.0)])
    assert store.get(old.id).attempts == 2, "a redelivery joins the original"


def test_an_edit_replaces_all_values_of_a_repeated_header(store: SQLStore):
    """A header can get several values, and the description names each header that changed."""
    old = record(
        headers=(("a", "1"), ("A", b"\xff"), ("b", "1"), ("b", "2"), ("Correlation-Id", "x")), correlation_id="x"
    )
    store.put([old])
    new = edit_record(store, old.id, "me", headers={"B": ["3", "2"], "correlation-id": "y", "traceparent": "t"})
    assert new.headers == (*old.headers[:2], ("B", "3"), ("B", "2"), ("correlation-id", "y"), ("traceparent", "t"))
    assert (new.correlation_id, new.trace) == ("y", "t")
    assert describe_edit(old, new)["headers"] == ["b", "correlation-id", "traceparent"]
    assert store.get(new.id) == new


@on_each
def test_the_second_of_two_concurrent_edits_is_refused(store: SQLStore):
    """The second operator gets a conflict, and the store does not change."""
    old = record()
    store.put([old])
    edit_record(store, old.id, "first", body=b"one")
    with pytest.raises(StoreConflict, match="is discarded"):
        edit_record(store, old.id, "second", body=b"two")
    with pytest.raises(StoreConflict, match="has changed since it was read"):
        store.edit(old.id, old.version, record(), "third")
    store.restore([old.id], "first")
    with pytest.raises(StoreConflict, match="at version 3, not 1"):
        edit_record(store, old.id, "second", body=b"two", version=1)
    assert store.count(Query()) == 2


def test_an_edit_without_a_change_is_refused(store: SQLStore):
    """An edit that changes nothing, or that names an unknown record, is a usage error."""
    old = record()
    store.put([old])
    with pytest.raises(UsageError, match="has this body and these headers already"):
        edit_record(store, old.id, "me", body=old.body)
    with pytest.raises(UsageError, match="there is no dead letter nothing"):
        edit_record(store, "nothing", "me", body=b"")
