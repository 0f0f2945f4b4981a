"""Replays in the store and through the engine: a snapshot, canaries, a limit of failures, cancelled and resumed."""

from __future__ import annotations

import pytest

import missive
from missive import operations
from missive.dlq import Query, Replay, Status, Store
from missive.dlq.sql import SQLStore
from missive.errors import ProcessingFailed, UsageError
from missive.operations import Selection
from tests.dlq.conftest import Clock
from tests.dlq.test_store import on_each, record


def letters(count: int, *, bad: tuple[int, ...] = ()) -> list:
    return [record(id=f"{n:03}", body=b'{"bad": %s}' % (b"true" if n in bad else b"false")) for n in range(count)]


def started(store: Store, ids: list[str] | None = None, **terms: object) -> Replay:
    chosen = tuple(store.ids(Query(statuses=operations.REPLAYABLE)) if ids is None else ids)
    return operations.start_replay(
        store, Selection(chosen, tuple(store.services(Query()))), Replay("", "me@host", "reason:failed", **terms)
    )


def by_status(store: Store) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for one in sorted(store.query(Query()), key=lambda one: one.id):
        found.setdefault(str(one.status), []).append(one.id)
    return found


@on_each
def test_only_the_snapshot_is_replayed(store: SQLStore, clock: Clock):
    """What arrives later is not a replay's; counts say what became of those that are."""
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
def test_a_replay_that_is_cancelled_and_resumed(store: SQLStore):
    """What nobody has is dead again; what failed since is not run again, and what is elsewhere now is left alone."""
    store.put(letters(5))
    replay = started(store)
    store.queue_remaining(replay.id)
    store.lease_records("shop", "t", 2, 60)
    assert operations.cancel_replay(store, replay.id).left == 3
    assert by_status(store) == {"dead": ["002", "003", "004"], "queued": ["000", "001"]}
    with pytest.raises(UsageError, match="is cancelled: there is nothing to cancel"):
        operations.cancel_replay(store, replay.id)
    assert store.queue_remaining(replay.id) == 0
    store.put([record(id="000", lease_token="t")])
    store.resolve(["001"], "t", Status.resolved, "x")
    started(store, ["004"])
    assert operations.resume_replay(store, replay.id, by_command=False).queued == 2
    assert by_status(store) == {"dead": ["000", "004"], "queued": ["002", "003"], "resolved": ["001"]}
    with pytest.raises(UsageError, match="there is no replay 01NONE"):
        operations.resume_replay(store, "01NONE", by_command=False)


@on_each
def test_workers_leave_a_replay_of_a_command_alone(store: SQLStore):
    """While a command runs it, only that command takes its records up; afterwards they are dead."""
    store.put(letters(2))
    replay = started(store, by_command=True)
    store.queue_remaining(replay.id)
    assert store.lease_records("shop", "w", 9, 60) == []
    assert store.next_due("shop") is None
    assert len(store.lease_records("shop", "t", 1, 60, replay.id)) == 1
    store.set_replay(replay.id, "stopped")
    assert by_status(store) == {"dead": ["001"], "queued": ["000"]}


@on_each
def test_what_a_killed_command_had_queued_is_taken_up_by_workers(store: SQLStore, clock: Clock):
    """Once the replay is left to them: at once what nobody had, and what the command had when its lease is over."""
    store.put(letters(3))
    replay = started(store, by_command=True)
    store.queue_remaining(replay.id)
    assert len(store.lease_records("shop", "killed", 1, 60, replay.id)) == 1
    assert operations.resume_replay(store, replay.id, by_command=False).queued == 3
    assert [lease.record.id for lease in store.lease_records("shop", "w", 9, 60)] == ["001", "002"]
    assert store.next_due("shop") == clock.now + 60
    clock.now += 60
    assert "000" in [lease.record.id for lease in store.lease_records("shop", "w", 9, 60)]


@on_each
def test_what_a_killed_command_had_is_not_stuck(store: SQLStore, clock: Clock):
    """When its replay is cancelled, what it had taken up is dead after its lease, and no worker runs it."""
    store.put(letters(2))
    replay = started(store, by_command=True)
    store.queue_remaining(replay.id)
    store.lease_records("shop", "killed", 1, 60, replay.id)
    operations.cancel_replay(store, replay.id)
    assert store.lease_records("shop", "w", 9, 60) == []
    clock.now += 60
    assert store.lease_records("shop", "w", 9, 60) == []
    assert by_status(store) == {"dead": ["000", "001"]}
    assert [(group.status, group.count) for group in store.groups(Query())] == [("dead", 2)]
    assert store.next_due("shop") is None
    assert operations.resume_replay(store, replay.id, by_command=False).queued == 2
    assert [lease.record.id for lease in store.lease_records("shop", "w", 9, 60)] == ["000", "001"]


def processor(handled: list[str], name: str = "shop") -> missive.Processor:
    proc = missive.Processor(missive.JSONMessage, name=name)

    @proc.handle_for(lambda message: True, name="handler")
    def handle(message, context):
        handled.append(context.native._where)
        if message.get_json()["bad"]:
            raise ValueError

    return proc


def ran(store: Store, replay: Replay, **settings: object) -> tuple[Replay, int]:
    handled: list[str] = []
    done = operations.run_replay(store, replay, processor(handled), **settings)
    return done, len(handled)


@pytest.mark.parametrize("failures", [1, 3])
def test_a_replay_stops_at_its_limit_of_failures(store: SQLStore, failures: int):
    """No more fail than it bears, whatever the concurrency; the rest is left, and dead."""
    store.put(letters(30, bad=tuple(range(5, 30))))
    done, _ = ran(store, started(store, by_command=True, until_failures=failures), concurrency=8)
    assert (done.status, done.failed) == ("stopped", failures)
    assert done.resolved + done.failed + done.left == 30
    assert done.queued == 0


def test_canaries_go_first(store: SQLStore):
    """When a canary fails, nothing else runs; when they are resolved, all do."""
    store.put(letters(10, bad=(1,)))
    done, handled = ran(store, started(store, by_command=True, canary=2))
    assert (done.status, done.resolved, done.failed, done.left, handled) == ("stopped", 1, 1, 8, 2)
    done, handled = ran(store, operations.resume_replay(store, done.id, by_command=True))
    assert (done.status, done.resolved, done.failed, done.left, handled) == ("done", 9, 1, 0, 8)


def test_what_another_command_has_in_hand_is_left_to_it(store: SQLStore):
    """Of two that run one replay, the first to stop makes dead what nobody runs, and no more."""
    store.put(letters(5, bad=(2,)))
    replay = started(store, by_command=True, until_failures=1)
    store.queue_remaining(replay.id)
    store.lease_records("shop", "other", 2, 60, replay.id)
    done, handled = ran(store, replay)
    assert (done.status, done.failed, handled, done.queued, done.left) == ("stopped", 1, 1, 2, 2)
    assert store.resolve(["000", "001"], "other", Status.resolved, "x") == {"000", "001"}


def test_what_an_engine_cannot_give_back_is_given_back(store: SQLStore, monkeypatch: pytest.MonkeyPatch):
    """A replay that is cut short leaves nothing that it had in hand queued."""
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


def test_a_replay_of_a_rate(store: SQLStore):
    """A rate holds, and is for one service."""
    store.put(letters(3))
    done, handled = ran(store, started(store, by_command=True, rate="100/s"))
    assert (done.status, done.resolved, handled) == ("done", 3, 3)
    store.put([record(id="x"), record(id="y", service="other")])
    with pytest.raises(UsageError, match="--rate works for one service at a time: add service:other"):
        started(store, by_command=True, rate="100/s")
    assert [replay.status for replay in store.replays()] == ["done"], "none was begun"
    left = started(store, rate="100/s")
    with pytest.raises(UsageError, match="--rate works for one service"):
        operations.resume_replay(store, left.id, by_command=True)
    assert [replay.by_command for replay in store.replays(left.id)] == [False], "it is still the workers'"


def test_a_replay_that_fails_again_can_be_replayed_and_ends(store: SQLStore):
    """Each replay runs each record once: what fails is counted, and is no loop."""
    store.put(letters(2, bad=(0, 1)))
    for turn in (1, 2):
        done, handled = ran(store, started(store, by_command=True))
        assert (done.status, done.failed, handled) == ("done", 2, 2)
        assert {one.attempts for one in store.query(Query())} == {1 + turn}


@on_each
def test_what_is_restored_is_not_run_again_by_its_replay(store: SQLStore, clock: Clock):
    """A replay that is still going on at its pace leaves what an operator has taken out of it alone."""
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


def test_a_commands_replay_is_left_to_workers(store: SQLStore):
    """A replay that a command began with a canary goes on at that pace in the workers."""
    store.put(letters(3))
    replay = started(store, by_command=True, canary=1)
    store.set_replay(replay.id, "stopped")
    assert operations.resume_replay(store, replay.id, by_command=False).queued == 1
    assert [lease.record.id for lease in store.lease_records("shop", "t", 9, 60)] == ["000"]


def test_a_replay_of_more_than_one_step(store: SQLStore):
    """It is begun, queued and cancelled in several transactions, and none of its records is forgotten."""
    store.put([record(id=f"{n:05}") for n in range(5001)])
    replay = started(store)
    assert (replay.total, store.queue_remaining(replay.id, 4500), store.queue_remaining(replay.id)) == (5001, 4500, 501)
    assert operations.cancel_replay(store, replay.id).left == 5001
    assert store.count(Query(statuses=(Status.queued,))) == 0
    assert operations.resume_replay(store, replay.id, by_command=False).queued == 5001
    store.set_replay(replay.id, "stopped")
    (replay,) = store.replays()
    assert (replay.queued, replay.left) == (0, 5001)
    assert (store.discard(store.ids(Query()), "me"), store.restore(store.ids(Query()), "me")) == (5001, 5001)
