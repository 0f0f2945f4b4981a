"""Editing, watching, and how long what is closed is kept."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest

from missive import operations
from missive.dlq import Query, Replay, Status
from missive.dlq.retention import Retention
from missive.dlq.sql import SQLStore
from missive.errors import StoreConflict, UsageError
from missive.ids import new_id
from tests.dlq.conftest import Clock, opened_at
from tests.dlq.test_store import on_each, record


@on_each
def test_an_edit_makes_another_record(store: SQLStore):
    """The original stays to the byte, as discarded; each says what became of it, or of what."""
    old = record(identity="i", may_join=True, headers=(("Kind", "a"), ("keep", "1")))
    store.put([old])
    new = operations.edit_record(store, old.id, "me", body=b"new", headers={"kind": "b", "more": "2", "keep": None})
    kept, there = store.get(old.id), store.get(new.id)
    assert (kept.body, kept.headers, kept.status) == (old.body, old.headers, Status.discarded)
    assert (kept.closed_by, kept.closed_why) == ("me", f"edited as {new.id}")
    assert (there.body, there.status, there.edited_from) == (b"new", Status.dead, old.id)
    assert there.headers == (("kind", "b"), ("more", "2"))
    assert [note.text for note in store.notes(new.id)] == [f"edited from {old.id}"]
    assert operations.describe_edit(old, new)["headers"] == ["keep", "kind", "more"]
    store.put([replace(old, id=new_id(), last_at=20.0)])
    assert store.get(old.id).attempts == 2, "the message itself, once more, is the original"


def test_headers_that_are_repeated(store: SQLStore):
    """A name may get several values; what had several is changed as a whole, and is said to be, whichever differs."""
    old = record(
        headers=(("a", "1"), ("A", b"\xff"), ("b", "1"), ("b", "2"), ("Correlation-Id", "x")), correlation_id="x"
    )
    store.put([old])
    new = operations.edit_record(
        store, old.id, "me", headers={"B": ["3", "2"], "correlation-id": "y", "traceparent": "t"}
    )
    assert new.headers == (*old.headers[:2], ("B", "3"), ("B", "2"), ("correlation-id", "y"), ("traceparent", "t"))
    assert (new.correlation_id, new.trace) == ("y", "t")
    assert operations.describe_edit(old, new)["headers"] == ["b", "correlation-id", "traceparent"]
    assert store.get(new.id) == new


@on_each
def test_two_operators_at_one_record(store: SQLStore):
    """The second one is told, and changes nothing."""
    old = record()
    store.put([old])
    operations.edit_record(store, old.id, "first", body=b"one")
    with pytest.raises(StoreConflict, match="is discarded"):
        operations.edit_record(store, old.id, "second", body=b"two")
    with pytest.raises(StoreConflict, match="changed meanwhile"):
        store.edit(old.id, old.version, record(), "third")
    store.restore([old.id], "first")
    with pytest.raises(StoreConflict, match="at version 3, not 1"):
        operations.edit_record(store, old.id, "second", body=b"two", version=1)
    assert store.count(Query()) == 2


def test_a_change_that_is_none(store: SQLStore):
    """It is refused, and so is an id that is nothing's."""
    old = record()
    store.put([old])
    with pytest.raises(UsageError, match="has this body and these headers already"):
        operations.edit_record(store, old.id, "me", body=old.body)
    with pytest.raises(UsageError, match="there is no dead letter nothing"):
        operations.edit_record(store, "nothing", "me", body=b"")


def test_watching(store: SQLStore, clock: Clock):
    """Each failure from now on once, the oldest first, also what comes in late; and a record that fails again."""
    store.put([record(last_at=clock.now - 1)])
    one, late = record(last_at=clock.now + 3, identity="i", may_join=True), record(last_at=clock.now + 1)
    again = replace(one, id=new_id(), last_at=clock.now + 4)
    steps = iter([[one], [late, record(last_at=clock.now + 3, service="other")], [], [again], None])

    class Over(Exception):
        pass

    def sleep(seconds: float) -> None:
        clock.now += seconds
        if (records := next(steps)) is None:
            raise Over
        store.put(records)

    seen = []

    def watch() -> None:
        found = operations.watch_failures(store, Query(service="shop"), 1.0, clock=clock, sleep=sleep)
        seen.extend((each.id, each.attempts) for each in found)

    with pytest.raises(Over):
        watch()
    assert seen == [(one.id, 1), (late.id, 1), (one.id, 2)]


def test_watching_while_the_clock_is_set_back(store: SQLStore, clock: Clock):
    """What fails by the new time is shown, too."""
    late = record(last_at=clock.now - 500)

    def sleep(seconds: float) -> None:
        clock.now -= 600
        store.put([late])

    watched = operations.watch_failures(store, Query(), 1.0, clock=clock, sleep=sleep)
    assert next(watched).id == late.id


@on_each
def test_what_is_closed_is_kept_for_a_while(url: str, clock: Clock):
    """Resolved and discarded records go when their time is over, in portions; what is dead or waits stays."""
    store = opened_at(f"{url}{'&' if '?' in url else '?'}keep_resolved=1h&keep_discarded=2h", clock)
    closed = [
        record(id=f"{status}{n}", status=Status(status), closed_at=900.0 + n)
        for status in ("resolved", "discarded")
        for n in range(3)
    ]
    store.put([*closed, record(id="dead"), record(id="parked", status=Status.parked)])
    assert store.expire() == 0
    clock.now = 902.5 + 3600
    assert [store.expire(2), store.expire(2), store.expire(2)] == [2, 1, 0]
    clock.now += 36000
    assert store.expire() == 3
    assert store.ids(Query()) == ["dead", "parked"]
    store.close()


@on_each
def test_what_a_replay_counts_is_kept_until_it_is_over(url: str, clock: Clock):
    """A replay that outlasts the time that resolved records are kept does not begin with its canaries again."""
    with contextlib.closing(opened_at(f"{url}{'&' if '?' in url else '?'}keep_resolved=1h", clock)) as store:
        store.put([record(id="old", status=Status.resolved, closed_at=900.0), *(record(id=f"{n}") for n in range(3))])
        replay = operations.start_replay(
            store, operations.Selection(("0", "1", "2"), ("shop",)), Replay("", "me", "q", canary=1)
        )
        store.advance()
        (lease,) = store.lease_records("shop", "t", 9, 60)
        store.resolve([lease.record.id], "t", Status.resolved, "x")
        clock.now += 36000
        assert (store.expire(), store.expire()) == (1, 0), "the other is its canary"
        store.advance()
        assert store.replays(replay.id)[0].queued == 2
        store.set_replay(replay.id, "cancelled")
        assert store.expire() == 1


def test_how_retention_is_said():
    """Thirty days where nothing is said; what is no time is refused, and other parameters are left."""
    assert Retention.parse({})[0] == (2_592_000.0, 2_592_000.0)
    kept, others = Retention.parse({"keep_resolved": "forever", "keep_discarded": "90min", "sslmode": "require"})
    assert (kept, others) == ((None, 5400.0), {"sslmode": "require"})
    with pytest.raises(UsageError, match="keep_resolved is how long, such as 90min"):
        Retention.parse({"keep_resolved": "soon"})
    with pytest.raises(UsageError, match="did you mean keep_resolved"):
        SQLStore("sqlite:///x.db?keep_resolvd=1h")
