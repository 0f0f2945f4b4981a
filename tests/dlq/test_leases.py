"""Record leases and parked records, on each store."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import replace

from missive.dlq import Attempt, Replay, Status, Store
from tests.support.stores import Clock, on_each, opened_at, parked, queued, record


def leased(store: Store, token: str = "t", limit: int = 100, lease: float = 60) -> list[str]:
    """Lease records, and return their ids."""
    return [lease.record.id for lease in store.lease_records("shop", token, limit, lease)]


@on_each
def test_a_lease_is_exclusive_and_ends(store: Store, clock: Clock):
    """One worker holds a record until its lease ends. After that, the worker is fenced."""
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
def test_a_parked_record_is_leased_when_it_is_due(store: Store, clock: Clock):
    """The earliest due record is leased first, and none before its time. `next_due` returns that time."""
    late, early = parked(1020.0), parked(1010.0)
    store.put([late, early])
    assert leased(store) == []
    assert store.next_due("shop") == 1010.0
    clock.now = 1010.0
    assert leased(store) == [early.id]
    assert store.next_due("shop") == 1020.0
    clock.now = 1020.0
    assert leased(store) == [late.id]
    assert store.next_due("shop") == 1070.0, "the end of the first lease"
    assert store.next_due("other") is None


@on_each
def test_only_the_first_record_of_a_lane_is_leased(store: Store, clock: Clock):
    """The next record follows when the first is not parked any more, regardless of due times."""
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
def test_put_requires_the_lease_of_the_record(store: Store, clock: Clock):
    """`put` under a lost lease changes nothing. Under a valid lease, it ends the lease."""
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
def test_a_released_record_can_get_a_new_due_time(store: Store, clock: Clock):
    """A released record is due at the given time, or at its previous time."""
    one = parked(None)
    store.put([one])
    leased(store)
    assert store.release_records([one.id], "t", 1500.0) == {one.id}
    assert store.next_due("shop") == 1500.0


def test_a_parked_record_continues_its_attempts():
    """A nack spends no attempt. A replay of a dead letter starts at 1."""
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


@on_each
def test_the_earliest_due_record_is_leased_first(store: Store):
    """Records without a due time come first, then the others by their due time."""
    late, early, at_once, later = (
        record(status=Status.parked, due=due, lane=None) for due in (900.0, 800.5, None, 1000.5)
    )
    store.put([late, early, at_once, later])
    assert [c.record.id for c in store.lease_records("shop", "t", 2, 10.0)] == [at_once.id, early.id]
    assert [c.record.id for c in store.lease_records("shop", "u", 5, 10.0)] == [late.id]
    assert store.next_due("shop") == 1000.5


@on_each
def test_concurrent_leases_share_no_record(store: Store, url: str, clock: Clock):
    """Workers that lease concurrently get each record once, and no record remains."""
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


@on_each
def test_due_records_of_busy_handlers_are_postponed(store: Store):
    """Due records of some handlers wait longer, without a lease and without a change. Others can still be leased."""
    busy, first, second, later = (
        parked(due, lane, handler="h", id=f"R{number}")
        for number, (due, lane) in enumerate(((900.0, None), (800.0, "a"), (700.0, "a"), (2000.0, None)))
    )
    other, unmatched = parked(900.0, handler="other"), parked(900.0, handler=None)
    store.put([busy, first, second, later, other, unmatched])
    assert store.postpone("other", {"h": 1500.0}, 100) == 0
    assert store.postpone("shop", {"gone": 1500.0}, 100) == 0
    assert store.postpone("shop", {"h": 1500.0, "gone": 1600.0}, 100) == 2
    found = {one.id: store.get(one.id) for one in (busy, first, second, later)}
    assert [one.due for one in found.values()] == [1500.0, 1500.0, 700.0, 2000.0]
    assert {(one.version, one.attempts, one.history) for one in found.values()} == {(1, 1, busy.history)}
    assert set(leased(store)) == {other.id, unmatched.id}
    assert store.next_due("shop") == 1060.0


@on_each
def test_leased_records_are_not_postponed(store: Store, clock: Clock):
    """A record keeps its lease and its due time while a worker holds it."""
    one = parked(900.0, handler="h")
    store.put([one])
    assert leased(store) == [one.id]
    assert store.postpone("shop", {"h": 1500.0}, 100) == 0
    assert store.get(one.id).due == 900.0
    clock.now += 61
    assert store.postpone("shop", {"h": 1500.0}, 100) == 1


@on_each
def test_queued_records_of_busy_handlers_are_postponed(store: Store, clock: Clock):
    """Queued records of busy handlers wait, whether workers or a command run their replay."""
    one, two = record(handler="h"), record(handler="h")
    store.put([one, two])
    assert queued(store, [one.id], "r1") == 1
    store.start_replay(Replay("r2", "me", "chosen", by_command=True), [two.id])
    store.queue_remaining("r2")
    assert store.postpone("shop", {"h": 1500.0}, 100) == 1
    assert leased(store) == []
    assert store.postpone("shop", {"h": 1500.0}, 100, "r2") == 1
    assert store.lease_records("shop", "c", 10, 60, "r2") == []
    clock.now = 1500.0
    assert leased(store) == [one.id]
    assert [lease.record.id for lease in store.lease_records("shop", "c", 10, 60, "r2")] == [two.id]


@on_each
def test_a_message_that_waits_keeps_the_failure_of_its_record(store: Store):
    """A record that is parked without an attempt keeps its error, its group, its history and its version."""
    one = record(error_type="KeyError", fingerprint="a" * 16, handler="h")
    store.put([one])
    waits = {"status": Status.parked, "due": 5.0, "lane": "a", "waits": True, "history": (Attempt(20.0, "nacked", 2),)}
    store.put([replace(one, error_type=None, fingerprint="b" * 16, **waits)])
    there = store.get(one.id)
    assert (there.status, there.due, there.lane) == (Status.parked, 5.0, "a")
    assert (there.error_type, there.fingerprint, there.version) == ("KeyError", "a" * 16, 1)
    assert (there.attempts, there.history) == (1, one.history)
