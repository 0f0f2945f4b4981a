"""What every store does: what is put is there, and every state changes only as it may."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from missive.dlq import Attempt, Query, Status, Store
from missive.ids import new_id
from missive.outcome import Reason
from tests.support.stores import Clock, on_each, opened_at, parked, queued, record

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@on_each
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    body=st.binary(max_size=300),
    headers=st.lists(st.tuples(text, st.one_of(text, st.binary(max_size=20))), max_size=5),
    key=st.one_of(st.none(), text, st.binary(max_size=20)),
    detail=st.one_of(st.none(), text.map(lambda text: text.replace("\0", ""))),
)
def test_a_record_is_kept_to_the_byte(store: Store, body, headers, key, detail):
    """Whatever bytes and text a record has, it is read back equal."""
    kept = record(body=body, headers=tuple(headers), key=key, detail=detail)
    store.put([kept])
    assert store.get(kept.id) == kept


@on_each
def test_the_same_message_again_joins_its_record(store: Store):
    """Another arrival of the same position adds to the history; one that only shares an id does not."""
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
def test_arrivals_in_one_batch_join_too(store: Store):
    """The same message twice in one batch is one record."""
    first, second = record(identity="i", may_join=True), record(identity="i", may_join=True)
    store.put([first, second, record()])
    assert len(list(store.query(Query()))) == 2


@on_each
def test_redeliveries_in_one_batch_join_a_record_that_is_there(store: Store):
    """Each adds its line, and the group counts one record."""
    first = record(identity="i", may_join=True)
    store.put([first])
    store.put([record(identity="i", may_join=True), record(identity="i", may_join=True)])
    (kept,) = store.query(Query())
    assert (kept.id, kept.attempts, len(kept.history), kept.version) == (first.id, 3, 3, 3)
    assert [group.count for group in store.groups(Query())] == [1]


@on_each
def test_the_newest_that_looks_the_same_is_joined(store: Store):
    """Redeliveries join the newest record of their identity, though it came in their batch; an import changes none."""
    first = record(id="a", identity="i", may_join=True)
    store.put([first])
    store.put([record(id="b", identity="i"), record(identity="i", may_join=True)])
    store.import_([record(id="c", identity="i")])
    store.put([record(identity="i", may_join=True)])
    assert {one.id: one.attempts for one in store.query(Query())} == {"a": 1, "b": 3, "c": 1}


@on_each
def test_the_same_identity_of_another_service_is_another_record(store: Store):
    """Records of two services in one store never join."""
    store.put([record(identity="i", may_join=True)])
    store.put([record(identity="i", may_join=True, service="other")])
    assert len(list(store.query(Query()))) == 2


@on_each
def test_a_history_is_bounded(store: Store):
    """A message that fails for ever keeps its first and last failures, and all are counted."""
    first = record(identity="i", may_join=True)
    for n in range(60):
        store.put([record(id=new_id(), identity="i", may_join=True, history=(Attempt(float(n), "failed", n),))])
    (kept,) = store.query(Query())
    assert kept.attempts == 60
    assert [attempt.attempt for attempt in kept.history] == [0, 1, 2, *range(43, 60)]
    assert first.id != kept.id


@on_each
def test_queries_filter_and_page(store: Store):
    """Conditions hold together, newest come first, limit and offset cut."""
    records = [record(last_at=float(n), reason=Reason.failed if n % 2 else Reason.unmatched) for n in range(10)]
    store.put(records)
    failed = [r.id for r in store.query(Query(reason="failed"))]
    assert failed == [r.id for r in reversed(records) if r.reason is Reason.failed]
    assert [r.id for r in store.query(Query(reason="failed"), limit=2, offset=1)] == failed[1:3]
    assert store.ids(Query(reason="failed")) == sorted(failed)
    assert list(store.query(Query(service="nobody"))) == []


@on_each
def test_a_query_yields_every_page(store: Store):
    """More records than one page has come once each, in their order."""
    records = [record(last_at=float(n // 3)) for n in range(1203)]
    store.put(records)
    expected = [r.id for r in sorted(records, key=lambda r: (r.last_at, r.id), reverse=True)]
    assert [r.id for r in store.query(Query())] == expected
    assert [r.id for r in store.query(Query(), limit=700, offset=2)] == expected[2:702]


@on_each
def test_groups_count(store: Store):
    """A group counts what failed in the same way, with its first and last time."""
    store.put([record(first_at=float(n), last_at=float(n)) for n in range(5)])
    store.put([record(fingerprint="0" * 16)])
    large, small = store.groups(Query())
    assert (large.count, large.first_at, large.last_at, small.count) == (5, 0.0, 4.0, 1)
    assert store.stats() == [
        {"service": "shop", "status": "dead", "reason": "failed", "count": 6, "oldest_at": 0.0},
    ]


@on_each
def test_a_claim_is_exclusive_and_runs_out(store: Store, clock: Clock):
    """One claimant has a record until its lease is over; the first one is fenced from then on."""
    kept = record()
    store.put([kept])
    assert store.lease_records("shop", "first", 10, lease=60) == []
    assert queued(store, [kept.id], "r1") == 1
    assert [lease.record.id for lease in store.lease_records("shop", "first", 10, lease=60)] == [kept.id]
    assert store.lease_records("shop", "second", 10, lease=60) == []
    assert store.lease_records("other", "second", 10, lease=60) == []
    clock.now += 59
    assert store.extend_leases([kept.id], "first", 60) == {kept.id}
    clock.now += 61
    assert [lease.record.id for lease in store.lease_records("shop", "second", 10, lease=60)] == [kept.id]
    assert store.resolve([kept.id], "first", Status.resolved, "t") == set()
    assert store.extend_leases([kept.id], "first", 60) == set()
    assert store.resolve([kept.id], "second", Status.resolved, "t") == {kept.id}
    resolved = store.get(kept.id)
    assert resolved is not None
    assert (resolved.status, resolved.closed_by, resolved.closed_at) == (Status.resolved, "t", clock.now)


@on_each
def test_a_record_that_failed_again_is_dead_and_free(store: Store):
    """Filing a replayed record again takes it from its claimant, and it can be chosen once more."""
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
def test_what_is_left_of_a_replay_is_dead_again(store: Store):
    """Stopping a replay touches the records of that replay that are still queued, and no other."""
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
def test_only_dead_records_are_chosen(store: Store):
    """Resolved, queued and discarded records are neither queued nor discarded again."""
    kept = record()
    store.put([kept])
    assert store.discard([kept.id], "me") == 1
    assert (store.discard([kept.id], "me"), queued(store, [kept.id], "r")) == (0, 0)


@on_each
def test_checkpoints(store: Store):
    """A value is kept by service and source, and replaced."""
    assert store.load_checkpoint("shop", "file:a") is None
    store.save_checkpoint("shop", "file:a", "1")
    store.save_checkpoint("shop", "file:a", "2")
    store.save_checkpoint("shop", "file:b", "3")
    assert (store.load_checkpoint("shop", "file:a"), store.load_checkpoint("other", "file:a")) == ("2", None)


# Parked


def leased(store: Store, token: str = "t", limit: int = 100, lease: float = 60) -> list[str]:
    return [lease.record.id for lease in store.lease_records("shop", token, limit, lease)]


@on_each
def test_what_is_parked_is_claimed_when_it_is_due(store: Store, clock: Clock):
    """The oldest due first, and nothing before its time; `next_due` says when that is."""
    late, early = parked(1020.0), parked(1010.0)
    store.put([late, early])
    assert leased(store) == []
    assert store.next_due("shop") == 1010.0
    clock.now = 1010.0
    assert leased(store) == [early.id]
    assert store.next_due("shop") == 1020.0
    clock.now = 1020.0
    assert leased(store) == [late.id]
    assert store.next_due("shop") == 1070.0, "when the lease of the first ends"
    assert store.next_due("other") is None


@on_each
def test_only_the_first_of_a_lane_is_claimed(store: Store, clock: Clock):
    """The next one follows when the first is parked no more, whatever their times are."""
    first, second, other = sorted((parked(None) for _ in range(3)), key=lambda one: one.id)
    first, second, other = replace(first, lane="a", due=1010.0), replace(second, lane="a"), replace(other, lane="b")
    store.put([first, second, other])
    assert store.lanes("shop") == {"a": 2, "b": 1}
    assert leased(store) == [other.id]
    clock.now = 1010.0
    assert leased(store) == [first.id]
    assert leased(store) == []
    store.resolve([first.id], "t", Status.resolved, "x")
    assert leased(store) == [second.id]
    assert store.lanes("shop") == {"a": 1, "b": 1}


@on_each
def test_a_record_that_somebody_else_has_is_left_as_it_is(store: Store, clock: Clock):
    """Putting under a claim that was lost changes nothing; under one that holds, it clears it."""
    one = parked(None)
    store.put([one])
    assert leased(store, "slow", lease=10) == [one.id]
    clock.now += 11
    assert leased(store, "quick") == [one.id]
    store.put([replace(one, lease_token="slow", status=Status.dead, last_at=2000.0)])
    assert store.get(one.id).status is Status.parked
    store.put([replace(one, lease_token="quick", due=5000.0, last_at=2000.0)])
    there = store.get(one.id)
    assert (there.status, there.due, there.attempts) == (Status.parked, 5000.0, 2)
    assert store.resolve([one.id], "quick", Status.resolved, "x") == set()


@on_each
def test_a_claim_can_be_given_back_for_later(store: Store, clock: Clock):
    """What is not handled now is due when it is said, or as it was."""
    one = parked(None)
    store.put([one])
    leased(store)
    assert store.release_records([one.id], "t", 1500.0) == {one.id}
    assert store.next_due("shop") == 1500.0


@on_each
def test_attempts_are_kept_by_identity(store: Store):
    """Counts are of a service, replaced by newer ones, and gone when they are dropped."""
    store.count_attempts("shop", {"a": 1, "b": 2})
    store.count_attempts("shop", {"a": 3})
    store.count_attempts("other", {"a": 9})
    assert store.attempts("shop", ["a", "b", "c"]) == {"a": 3, "b": 2}
    store.drop_attempts("shop", ["a"])
    assert store.attempts("shop", ["a", "b"]) == {"b": 2}
    assert store.attempts("other", ["a"]) == {"a": 9}


def test_the_next_attempt_of_a_parked_record():
    """Attempts go on while it is parked; nacks spend none, and a dead letter's replay begins anew."""
    lines = [
        Attempt(1.0, "failed", 10),
        Attempt(2.0, "retried", 1),
        Attempt(3.0, "nacked", 2),
        Attempt(4.0, "retried", 2),
    ]
    one = parked(None, history=tuple(lines))
    assert (one.next_attempt, one.failed_at) == (3, 2.0)
    assert replace(one, history=tuple(lines[:3])).next_attempt == 2
    assert replace(one, history=tuple(lines[:1])).next_attempt == 1
    assert replace(one, status=Status.queued).next_attempt == 1


def test_ids_that_ascend():
    """An id that does not sort after the last one is replaced by the one that follows it."""
    from missive.ids import after

    assert after("", "01") == "01"
    assert after("0A", "0B") == "0B"
    assert after("0Z", "0A") == "10"
    last = ""
    for _ in range(1000):
        made = after(last, new_id(5))
        assert last < made
        last = made


# Each database


@on_each
def test_text_that_a_database_has_no_sign_for(store: Store):
    """NUL, half a surrogate and too long a name keep no record from being filed, and it is found by that name."""
    odd = record(detail="a\0b\ud800", message_id="\0", error_text="e" * 100_000, handler="h" * 300)
    store.put([odd])
    assert [r.id for r in store.query(Query(handler=odd.handler))] == [odd.id]
    kept = store.get(odd.id)
    assert kept is not None
    assert (kept.body, kept.error_text) == (odd.body, odd.error_text)
    nul = "\N{SYMBOL FOR NULL}" if store.url.startswith("postgresql") else "\0"
    half = "\ud800" if store.url.startswith("redis") else "\\ud800"
    assert (kept.detail, kept.message_id) == (f"a{nul}b{half}", nul)


@on_each
def test_what_is_due_first_is_claimed_first(store: Store):
    """Records without a time come before those with one, and those by their time."""
    late, early, at_once, later = (
        record(status=Status.parked, due=due, lane=None) for due in (900.0, 800.5, None, 1000.5)
    )
    store.put([late, early, at_once, later])
    assert [c.record.id for c in store.lease_records("shop", "t", 2, 10.0)] == [at_once.id, early.id]
    assert [c.record.id for c in store.lease_records("shop", "u", 5, 10.0)] == [late.id]
    assert store.next_due("shop") == 1000.5


@on_each
def test_claims_of_several_at_a_time_share_no_record(store: Store, url: str, clock: Clock):
    """Processes that claim at the same time have each record once, and none is left."""
    store.put([record(status=Status.queued) for _ in range(300)])
    taken: list[str] = []

    def lease(name: int) -> None:
        with contextlib.closing(opened_at(url, clock)) as other:
            while leases := other.lease_records("shop", f"t{name}", 7, 60.0):
                taken.extend(c.record.id for c in leases)

    threads = [threading.Thread(target=lease, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30.0)
    assert (len(taken), len(set(taken))) == (300, 300)
