"""Replays in the store and through the engine: snapshots, canaries, limits of failures, cancelling and resuming."""

from __future__ import annotations

import pytest

import missive
from missive.dlq import Query, Replay, Status, Store
from missive.dlq.sql import SQLStore
from missive.errors import ProcessingFailed, UsageError
from missive.operations.replay import cancel_replay, resume_replay, run_replay, start_replay
from missive.operations.selection import REPLAYABLE, Selection
from tests.support.stores import Clock, on_each, record


def letters(count: int, *, bad: tuple[int, ...] = ()) -> list:
    """Return dead letters with the ids 000, 001, …; those numbered in `bad` fail again."""
    return [record(id=f"{n:03}", body=b'{"bad": %s}' % (b"true" if n in bad else b"false")) for n in range(count)]


def started(store: Store, ids: list[str] | None = None, **terms: object) -> Replay:
    """Start a replay of some records, or of all that can be replayed."""
    chosen = tuple(store.ids(Query(statuses=REPLAYABLE)) if ids is None else ids)
    return start_replay(
        store, Selection(chosen, tuple(store.services(Query()))), Replay("", "me@host", "reason:failed", **terms)
    )


def by_status(store: Store) -> dict[str, list[str]]:
    """Return the ids of all records by status, sorted."""
    found: dict[str, list[str]] = {}
    for one in sorted(store.query(Query()), key=lambda one: one.id):
        found.setdefault(str(one.status), []).append(one.id)
    return found


@on_each
def test_a_replay_runs_only_its_snapshot(store: SQLStore, clock: Clock):
    """Later arrivals are not in the replay, and its counts tell the results of its records."""
    store.put(letters(4))
    replay = started(store)
    store.put([record(id="later")])
    assert (replay.total, store.lease_records("shop", "t", 9, 60)) == (4, [])
    assert store.queue_remaining(replay.id) == 4
    leases = store.lease_records("shop", "t", 9, 60)
    assert [lease.record.id for lease in leases] == ["000", "001", "002", "003"]
    store.resolve(["000"], "t", Status.resolved, "x")
    store.resolve(["001"], "t", Status.discarded, "x")
    store.put([record(id="002", lease_token="t")])
    (now,) = store.replays(limit=1)
    assert (now.total, now.resolved, now.discarded, now.failed, now.queued, now.left) == (4, 1, 1, 1, 1, 0)
    assert (now.by, now.query, now.status, now.created_at) == ("me@host", "reason:failed", "running", clock.now)
    store.resolve(["003"], "t", Status.resolved, "x")
    assert store.replays(replay.id)[0].status == "done"


@on_each
def test_a_cancelled_replay_can_be_resumed(store: SQLStore):
    """Unstarted records become dead; a resume skips records that failed since or belong to another replay."""
    store.put(letters(5))
    replay = started(store)
    store.queue_remaining(replay.id)
    store.lease_records("shop", "t", 2, 60)
    assert cancel_replay(store, replay.id).left == 3
    assert by_status(store) == {"dead": ["002", "003", "004"], "queued": ["000", "001"]}
    with pytest.raises(UsageError, match="is cancelled: there is nothing to cancel"):
        cancel_replay(store, replay.id)
    assert store.queue_remaining(replay.id) == 0
    store.put([record(id="000", lease_token="t")])
    store.resolve(["001"], "t", Status.resolved, "x")
    started(store, ["004"])
    assert resume_replay(store, replay.id, by_command=False).queued == 2
    assert by_status(store) == {"dead": ["000", "004"], "queued": ["002", "003"], "resolved": ["001"]}
    with pytest.raises(UsageError, match="there is no replay 01NONE"):
        resume_replay(store, "01NONE", by_command=False)


@on_each
def test_workers_do_not_lease_records_that_a_command_replays(store: SQLStore):
    """Only the command leases the records while it runs; afterwards they are dead."""
    store.put(letters(2))
    replay = started(store, by_command=True)
    store.queue_remaining(replay.id)
    assert store.lease_records("shop", "w", 9, 60) == []
    assert store.next_due("shop") is None
    assert len(store.lease_records("shop", "t", 1, 60, replay.id)) == 1
    store.set_replay(replay.id, "stopped")
    assert by_status(store) == {"dead": ["001"], "queued": ["000"]}


@on_each
def test_workers_continue_a_replay_of_a_killed_command(store: SQLStore, clock: Clock):
    """Workers lease its queued records at once, and its leased records when their lease expires."""
    store.put(letters(3))
    replay = started(store, by_command=True)
    store.queue_remaining(replay.id)
    assert len(store.lease_records("shop", "killed", 1, 60, replay.id)) == 1
    assert resume_replay(store, replay.id, by_command=False).queued == 3
    assert [lease.record.id for lease in store.lease_records("shop", "w", 9, 60)] == ["001", "002"]
    assert store.next_due("shop") == clock.now + 60
    clock.now += 60
    assert "000" in [lease.record.id for lease in store.lease_records("shop", "w", 9, 60)]


@on_each
def test_records_leased_by_a_killed_command_become_dead(store: SQLStore, clock: Clock):
    """After a cancel, leased records become dead when their lease expires, and no worker runs them."""
    store.put(letters(2))
    replay = started(store, by_command=True)
    store.queue_remaining(replay.id)
    store.lease_records("shop", "killed", 1, 60, replay.id)
    cancel_replay(store, replay.id)
    assert store.lease_records("shop", "w", 9, 60) == []
    clock.now += 60
    assert store.lease_records("shop", "w", 9, 60) == []
    assert by_status(store) == {"dead": ["000", "001"]}
    assert [(group.status, group.count) for group in store.groups(Query())] == [("dead", 2)]
    assert store.next_due("shop") is None
    assert resume_replay(store, replay.id, by_command=False).queued == 2
    assert [lease.record.id for lease in store.lease_records("shop", "w", 9, 60)] == ["000", "001"]


def processor(handled: list[str], name: str = "shop") -> missive.Processor:
    """Return a processor that notes the record of each call, and fails for bad ones."""
    proc = missive.Processor(missive.JSONMessage, name=name)

    @proc.handle_for(lambda message: True, name="handler")
    def handle(message, context):
        handled.append(context.native._where)
        if message.get_json()["bad"]:
            raise ValueError

    return proc


def ran(store: Store, replay: Replay, **settings: object) -> tuple[Replay, int]:
    """Run a replay; return it and the number of calls."""
    handled: list[str] = []
    done = run_replay(store, replay, processor(handled), **settings)
    return done, len(handled)


@pytest.mark.parametrize("failures", [1, 3])
def test_a_replay_stops_at_its_limit_of_failures(store: SQLStore, failures: int):
    """No more records fail than the limit, at any concurrency; the others are dead."""
    store.put(letters(30, bad=tuple(range(5, 30))))
    done, _ = ran(store, started(store, by_command=True, until_failures=failures), concurrency=8)
    assert (done.status, done.failed) == ("stopped", failures)
    assert done.resolved + done.failed + done.left == 30
    assert done.queued == 0


def test_canaries_run_first(store: SQLStore):
    """When a canary fails, nothing else runs; when all are resolved, the others run."""
    store.put(letters(10, bad=(1,)))
    done, handled = ran(store, started(store, by_command=True, canary=2))
    assert (done.status, done.resolved, done.failed, done.left, handled) == ("stopped", 1, 1, 8, 2)
    done, handled = ran(store, resume_replay(store, done.id, by_command=True))
    assert (done.status, done.resolved, done.failed, done.left, handled) == ("done", 9, 1, 0, 8)


def test_records_leased_by_another_command_stay_queued(store: SQLStore):
    """Of two commands that run one replay, the first to stop returns only unleased records to dead."""
    store.put(letters(5, bad=(2,)))
    replay = started(store, by_command=True, until_failures=1)
    store.queue_remaining(replay.id)
    store.lease_records("shop", "other", 2, 60, replay.id)
    done, handled = ran(store, replay)
    assert (done.status, done.failed, handled, done.queued, done.left) == ("stopped", 1, 1, 2, 2)
    assert store.resolve(["000", "001"], "other", Status.resolved, "x") == {"000", "001"}


def test_a_failed_engine_leaves_no_record_queued(store: SQLStore, monkeypatch: pytest.MonkeyPatch):
    """After an engine that fails with leased records, all unhandled records are dead."""
    store.put(letters(5))
    replay = started(store, by_command=True)

    def cut_short(adapters, **_: object) -> None:
        for adapter in adapters:
            adapter.add_leases(store.lease_records(adapter.service, "t", 3, 60, adapter.replay))
            adapter.drop_leases(store.resolve(["000"], "t", Status.resolved, "x"))
        raise ProcessingFailed

    monkeypatch.setattr("missive.engine.runner.execute", cut_short)
    with pytest.raises(ProcessingFailed):
        ran(store, replay)
    assert by_status(store) == {"resolved": ["000"], "dead": ["001", "002", "003", "004"]}


def test_a_rate_applies_to_one_service(store: SQLStore):
    """A replay keeps its rate, and a rate for two services is refused before the replay starts."""
    store.put(letters(3))
    done, handled = ran(store, started(store, by_command=True, rate="100/s"))
    assert (done.status, done.resolved, handled) == ("done", 3, 3)
    store.put([record(id="x"), record(id="y", service="other")])
    with pytest.raises(UsageError, match="--rate works for one service at a time: add service:other"):
        started(store, by_command=True, rate="100/s")
    assert [replay.status for replay in store.replays()] == ["done"], "no replay was started"
    left = started(store, rate="100/s")
    with pytest.raises(UsageError, match="--rate works for one service"):
        resume_replay(store, left.id, by_command=True)
    assert [replay.by_command for replay in store.replays(left.id)] == [False], "the workers still run it"


def test_a_replay_runs_each_record_once(store: SQLStore):
    """A record that fails again is counted, and does not run in a loop."""
    store.put(letters(2, bad=(0, 1)))
    for turn in (1, 2):
        done, handled = ran(store, started(store, by_command=True))
        assert (done.status, done.failed, handled) == ("done", 2, 2)
        assert {one.attempts for one in store.query(Query())} == {1 + turn}


@on_each
def test_a_restored_record_leaves_its_replay(store: SQLStore, clock: Clock):
    """A paced replay that still runs does not run a record that an operator restored."""
    store.put(letters(3))
    replay = started(store, canary=1)
    store.advance()
    assert [lease.record.id for lease in store.lease_records("shop", "t", 9, 60)] == ["000"]
    store.resolve(["000"], "t", Status.resolved, "x")
    store.restore(["000"], "me")
    clock.now += 1
    store.advance()
    assert [lease.record.id for lease in store.lease_records("shop", "t", 9, 60)] == ["001"]
    store.resolve(["001"], "t", Status.resolved, "x")
    store.advance()
    assert [lease.record.id for lease in store.lease_records("shop", "t", 9, 60)] == ["002"]
    store.resolve(["002"], "t", Status.resolved, "x")
    store.advance()
    (now,) = store.replays(replay.id)
    assert (now.status, now.total, now.resolved, now.left, now.failed) == ("done", 3, 2, 0, 0)
    assert store.get("000").replay is None


def test_workers_keep_the_canary_of_a_resumed_replay(store: SQLStore):
    """A replay that a command started with a canary continues with that canary in the workers."""
    store.put(letters(3))
    replay = started(store, by_command=True, canary=1)
    store.set_replay(replay.id, "stopped")
    assert resume_replay(store, replay.id, by_command=False).queued == 1
    assert [lease.record.id for lease in store.lease_records("shop", "t", 9, 60)] == ["000"]


def test_a_large_replay_takes_several_transactions(store: SQLStore):
    """Starting, queueing and cancelling in several transactions miss no record."""
    store.put([record(id=f"{n:05}") for n in range(5001)])
    replay = started(store)
    assert (replay.total, store.queue_remaining(replay.id, 4500), store.queue_remaining(replay.id)) == (5001, 4500, 501)
    assert cancel_replay(store, replay.id).left == 5001
    assert store.count(Query(statuses=(Status.queued,))) == 0
    assert resume_replay(store, replay.id, by_command=False).queued == 5001
    store.set_replay(replay.id, "stopped")
    (replay,) = store.replays()
    assert (replay.queued, replay.left) == (0, 5001)
    assert (store.discard(store.ids(Query()), "me"), store.restore(store.ids(Query()), "me")) == (5001, 5001)
