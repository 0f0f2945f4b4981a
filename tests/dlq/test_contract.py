"""The contract of stores, on each of them: records, leases, replays and checkpoints."""

from __future__ import annotations

import time
from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from missive.dlq import Attempt, Query, Status, Store
from missive.ids import new_id
from missive.outcome import Reason
from tests.support.stores import on_each, queued, record

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@on_each
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    body=st.binary(max_size=300),
    headers=st.lists(st.tuples(text, st.one_of(text, st.binary(max_size=20))), max_size=5),
    key=st.one_of(st.none(), text, st.binary(max_size=20)),
    detail=st.one_of(st.none(), text.map(lambda text: text.replace("\0", ""))),
)
def test_a_record_is_read_back_equal(store: Store, body, headers, key, detail):
    """Any bytes and text of a record are read back unchanged."""
    kept = record(body=body, headers=tuple(headers), key=key, detail=detail)
    store.put([kept])
    assert store.get(kept.id) == kept


@on_each
def test_a_record_whose_answer_was_lost_is_stored_once(store: Store):
    """The same record put again changes nothing. A later failure of the same record joins it."""
    first = record(history=(Attempt(10.0, "failed", 1),))
    for _ in range(2):
        store.put([first])
    assert store.get(first.id) == first
    store.put([replace(first, history=(Attempt(11.0, "failed", 1),))])
    joined = store.get(first.id)
    assert joined is not None
    assert (joined.attempts, len(joined.history)) == (2, 2)
    adopted = record(status=Status.parked, lane="l", lease_token="t", leased_until=time.time() + 60)
    for _ in range(2):
        store.put([adopted])
    assert store.extend_leases([adopted.id], "t", 60) == {adopted.id}


@on_each
def test_a_redelivery_joins_its_record(store: Store):
    """Another arrival of the same position joins the record. An arrival that shares only an id does not."""
    first, second = (
        record(identity="i", may_join=True),
        record(identity="i", may_join=True, last_at=20.0, error_type="KeyError"),
    )
    stranger = record(identity="i", may_join=False)
    store.put([first])
    store.put([second])
    store.put([stranger])
    kept = store.get(first.id)
    assert kept is not None
    assert (kept.attempts, kept.first_at, kept.last_at, kept.error_type) == (2, 10.0, 20.0, "KeyError")
    assert len(kept.history) == 2
    assert store.get(second.id) is None
    assert store.get(stranger.id) is not None


@on_each
def test_arrivals_in_one_batch_join(store: Store):
    """Two arrivals of a message in one batch make one record."""
    first, second = record(identity="i", may_join=True), record(identity="i", may_join=True)
    store.put([first, second, record()])
    assert len(list(store.query(Query()))) == 2


@on_each
def test_redeliveries_in_one_batch_join_a_stored_record(store: Store):
    """Each redelivery adds to the history, and the group counts one record."""
    first = record(identity="i", may_join=True)
    store.put([first])
    store.put([record(identity="i", may_join=True), record(identity="i", may_join=True)])
    (kept,) = store.query(Query())
    assert (kept.id, kept.attempts, len(kept.history), kept.version) == (first.id, 3, 3, 3)
    assert [group.count for group in store.groups(Query())] == [1]


@on_each
def test_a_redelivery_joins_the_newest_record_of_its_identity(store: Store):
    """The newest record may be in the same batch. An import changes no record."""
    first = record(id="a", identity="i", may_join=True)
    store.put([first])
    store.put([record(id="b", identity="i"), record(identity="i", may_join=True)])
    store.import_([record(id="c", identity="i")])
    store.put([record(identity="i", may_join=True)])
    assert {one.id: one.attempts for one in store.query(Query())} == {"a": 1, "b": 3, "c": 1}


@on_each
def test_services_share_no_record(store: Store):
    """The same identity at another service is another record."""
    store.put([record(identity="i", may_join=True)])
    store.put([record(identity="i", may_join=True, service="other")])
    assert len(list(store.query(Query()))) == 2


@on_each
def test_a_history_is_bounded(store: Store):
    """A message that fails forever has its first and last failures in the history, and all failures are counted."""
    first = record(identity="i", may_join=True)
    for n in range(60):
        store.put([record(id=new_id(), identity="i", may_join=True, history=(Attempt(float(n), "failed", n),))])
    (kept,) = store.query(Query())
    assert kept.attempts == 60
    assert [attempt.attempt for attempt in kept.history] == [0, 1, 2, *range(43, 60)]
    assert first.id != kept.id


@on_each
def test_queries_filter_and_page(store: Store):
    """All conditions hold, the newest record is first, and limit and offset select a page."""
    records = [record(last_at=float(n), reason=Reason.failed if n % 2 else Reason.unmatched) for n in range(10)]
    store.put(records)
    failed = [r.id for r in store.query(Query(reason="failed"))]
    assert failed == [r.id for r in reversed(records) if r.reason is Reason.failed]
    assert [r.id for r in store.query(Query(reason="failed"), limit=2, offset=1)] == failed[1:3]
    assert store.ids(Query(reason="failed")) == sorted(failed)
    assert list(store.query(Query(service="nobody"))) == []


@on_each
def test_a_query_yields_every_page(store: Store):
    """More records than one page has are yielded once each, in order."""
    records = [record(last_at=float(n // 3)) for n in range(1203)]
    store.put(records)
    expected = [r.id for r in sorted(records, key=lambda r: (r.last_at, r.id), reverse=True)]
    assert [r.id for r in store.query(Query())] == expected
    assert [r.id for r in store.query(Query(), limit=700, offset=2)] == expected[2:702]


@on_each
def test_groups_count_similar_failures(store: Store):
    """A group has the number of similar failures, with the first and last time."""
    store.put([record(first_at=float(n), last_at=float(n)) for n in range(5)])
    store.put([record(fingerprint="0" * 16)])
    large, small = store.groups(Query())
    assert (large.count, large.first_at, large.last_at, small.count) == (5, 0.0, 4.0, 1)
    assert store.stats() == [
        {"service": "shop", "status": "dead", "reason": "failed", "count": 6, "oldest_at": 0.0},
    ]


@on_each
def test_a_record_that_fails_again_is_dead_and_free(store: Store):
    """A new failure ends the lease, and the record can be selected again."""
    kept = record()
    store.put([kept])
    queued(store, [kept.id], "r1")
    store.lease_records("shop", "t", 10, lease=60)
    store.put([replace(kept, last_at=30.0)])
    again = store.get(kept.id)
    assert again is not None
    assert (again.status, again.attempts) == (Status.dead, 2)
    assert store.resolve([kept.id], "t", Status.resolved, "t") == set()
    assert queued(store, [kept.id], "r2") == 1


@on_each
def test_stopping_a_replay_makes_its_queued_records_dead(store: Store):
    """Stopping a replay changes the queued records of that replay only."""
    one, two, three = record(), record(), record()
    store.put([one, two, three])
    queued(store, [one.id, two.id], "r1")
    queued(store, [three.id], "r2")
    ((taken, _),) = store.lease_records("shop", "t", 1, lease=60, replay="r1")
    (other,) = {one.id, two.id} - {taken.id}
    store.resolve([taken.id], "t", Status.resolved, "t")
    store.set_replay("r1", "stopped")
    statuses = {r.id: str(r.status) for r in store.query(Query())}
    assert statuses == {taken.id: "resolved", other: "dead", three.id: "queued"}


@on_each
def test_only_free_records_are_queued_or_discarded(store: Store):
    """Resolved, queued and discarded records are neither queued nor discarded again."""
    kept = record()
    store.put([kept])
    assert store.discard([kept.id], "me") == 1
    assert (store.discard([kept.id], "me"), queued(store, [kept.id], "r")) == (0, 0)


@on_each
def test_a_checkpoint_belongs_to_a_service_and_source(store: Store):
    """A new checkpoint replaces the old one of the same service and source."""
    assert store.load_checkpoint("shop", "file:a") is None
    store.save_checkpoint("shop", "file:a", "1")
    store.save_checkpoint("shop", "file:a", "2")
    store.save_checkpoint("shop", "file:b", "3")
    assert (store.load_checkpoint("shop", "file:a"), store.load_checkpoint("other", "file:a")) == ("2", None)


@on_each
def test_attempts_are_counted_by_identity(store: Store):
    """Counts belong to a service. New counts replace them, and a drop deletes them."""
    store.count_attempts("shop", {"a": 1, "b": 2})
    store.count_attempts("shop", {"a": 3})
    store.count_attempts("other", {"a": 9})
    assert store.attempts("shop", ["a", "b", "c"]) == {"a": 3, "b": 2}
    store.drop_attempts("shop", ["a"])
    assert store.attempts("shop", ["a", "b"]) == {"b": 2}
    assert store.attempts("other", ["a"]) == {"a": 9}


def test_ids_ascend():
    """An id that would not sort after the last id is replaced by the id after the last one."""
    from missive.ids import after

    assert after("", "01") == "01"
    assert after("0A", "0B") == "0B"
    assert after("0Z", "0A") == "10"
    last = ""
    for _ in range(1000):
        made = after(last, new_id(5))
        assert last < made
        last = made


@on_each
def test_text_that_a_database_cannot_store_is_replaced(store: Store):
    """A record with NUL, lone surrogates or a long name is stored, and found by that name."""
    odd = record(detail="a\0b\ud800", message_id="\0", error_text="e" * 100_000, handler="h" * 300)
    store.put([odd])
    assert [r.id for r in store.query(Query(handler=odd.handler))] == [odd.id]
    kept = store.get(odd.id)
    assert kept is not None
    assert (kept.body, kept.error_text) == (odd.body, odd.error_text)
    nul = "\N{SYMBOL FOR NULL}" if store.url.startswith("postgresql") else "\0"
    half = "\ud800" if store.url.startswith("redis") else "\\ud800"
    assert (kept.detail, kept.message_id) == (f"a{nul}b{half}", nul)
