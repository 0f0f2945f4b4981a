"""Counts of groups: they always equal the counts of records."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from missive.dlq import Query, Record, Replay, Status, Store
from missive.dlq.contract import DAY
from missive.dlq.sql import SQLStore
from missive.ids import new_id
from missive.operations.edit import edit_record
from missive.operations.replay import hand_over_replay
from missive.outcome import Reason
from tests.support.stores import Clock, on_each, on_servers, queued, record


def record_counts(store: Store) -> Counter[tuple[str, str]]:
    return Counter((one.fingerprint, str(one.status)) for one in store.query(Query()))


def group_counts(store: Store) -> Counter[tuple[str, str]]:
    return Counter({(group.fingerprint, group.status): group.count for group in store.groups(Query())})


class Life(RuleBasedStateMachine):
    """Put, lease, close, restore, edit and delete records in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = contextlib.ExitStack()
        from tempfile import TemporaryDirectory

        directory = self.stack.enter_context(TemporaryDirectory())
        self.clock = Clock()
        url = f"sqlite:///{directory}/dlq.db?keep_resolved=1h&keep_discarded=1h"
        self.store = self.stack.enter_context(contextlib.closing(SQLStore(url, clock=self.clock)))
        self.ids: list[str] = []

    def some(self, numbers: list[int]) -> list[str]:
        return [self.ids[n % len(self.ids)] for n in numbers] if self.ids else []

    chosen = st.lists(st.integers(0, 50), min_size=1, max_size=6)

    @rule(
        group=st.sampled_from("abc"),
        identity=st.sampled_from([None, "i", "j"]),
        status=st.sampled_from([Status.dead, Status.parked]),
        lane=st.sampled_from([None, "l"]),
        may_join=st.booleans(),
        label=st.sampled_from([None, "x" * 300, "y\ud800"]),
    )
    def put(
        self, group: str, identity: str | None, status: Status, lane: str | None, may_join: bool, label: str | None
    ):
        parked = {"status": status, "lane": lane if status is Status.parked else None}
        one = record(
            fingerprint=group, identity=identity, may_join=may_join, label=label, last_at=self.clock.now, **parked
        )
        self.store.put([one, record(fingerprint=group)])
        self.ids = self.store.ids(Query())

    @rule(numbers=chosen)
    def fail_again(self, numbers: list[int]):
        self.store.put([record(id=one, fingerprint="c", last_at=self.clock.now) for one in set(self.some(numbers))])

    @rule(numbers=chosen, pace=st.sampled_from([{}, {"canary": 1}, {"until_failures": 2}]))
    def replay(self, numbers: list[int], pace: dict[str, int]):
        replay = Replay(new_id(), "me", "q", **pace)
        self.store.start_replay(replay, self.some(numbers))
        hand_over_replay(self.store, replay)

    @rule(status=st.sampled_from([Status.resolved, Status.discarded, None]))
    def work(self, status: Status | None):
        ids = [lease.record.id for lease in self.store.lease_records("shop", "t", 2, 60)]
        if status is None:
            self.store.release_records(ids, "t")
        else:
            self.store.resolve(ids, "t", status, "t")

    @rule()
    def cancel(self):
        for replay in self.store.replays(limit=1):
            self.store.set_replay(replay.id, "cancelled")

    @rule(numbers=chosen)
    def discard(self, numbers: list[int]):
        self.store.discard(self.some(numbers), "me")

    @rule(numbers=chosen)
    def restore(self, numbers: list[int]):
        self.store.restore(self.some(numbers), "me")

    @rule(number=st.integers(0, 50))
    def edit(self, number: int):
        for one in self.some([number]):
            if (there := self.store.get(one)) is not None and there.status is Status.dead:
                edit_record(self.store, one, "me", body=there.body + b"!")

    @rule(numbers=chosen)
    def purge(self, numbers: list[int]):
        self.store.purge(Query(ids=tuple(self.some(numbers)) or ("none",)))

    @rule(seconds=st.sampled_from([1, 61, 4000]))
    def wait(self, seconds: int):
        self.clock.now += seconds
        self.store.expire()
        self.store.advance()

    @invariant()
    def counts_are_right(self):
        assert group_counts(self.store) == +record_counts(self.store)
        assert sum(row["count"] for row in self.store.stats()) == self.store.count(Query(text=("",)))

    def teardown(self):
        self.stack.close()


TestLife = pytest.mark.slow(Life.TestCase)
TestLife.settings = settings(
    max_examples=25, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
TestLife.__doc__ = "Whatever is done with records, groups and statistics say what counting them would."


@on_each
def test_counts_follow_every_change(store: SQLStore):
    """On every database, each change of a status changes the counts of groups."""
    records = [record(id=f"{n}", fingerprint="ab"[n % 2]) for n in range(8)]
    store.put(records)
    assert group_counts(store) == {("a", "dead"): 4, ("b", "dead"): 4}
    queued(store, ["0", "1", "2"], "r")
    store.lease_records("shop", "t", 2, 60)
    store.resolve(["0"], "t", Status.resolved, "x")
    store.discard(["3", "4"], "me", "of no use")
    assert group_counts(store) == record_counts(store)
    assert store.get("3").closed_why == "of no use"
    store.put([replace(records[1], lease_token="t", fingerprint="c")])
    store.restore(["3"], "me")
    store.set_replay("r", "cancelled")
    store.purge(Query(statuses=(Status.discarded,)))
    assert group_counts(store) == record_counts(store)
    assert sum(row["count"] for row in store.stats("shop")) == store.count(Query()) == 7


@on_each
def test_groups_and_records_agree_on_a_query(store: SQLStore):
    """Conditions on groups are answered by the counts, others by the records. Both results agree."""
    store.put([record(fingerprint="a", handler="h", last_at=5.0), record(fingerprint="b", reason=Reason.timeout)])
    for query in (Query(handler="h"), Query(without=(Query(reason="timeout"),)), Query(last_before=6.0)):
        (group,) = store.groups(query)
        assert (group.fingerprint, group.count, store.count(query)) == ("a", 1, 1)
        assert store.services(query) == ["shop"]
    assert store.groups(Query(handler="other")) == []
    assert store.groups(Query(without=(Query(handler="h"),)))[0].fingerprint == "b"


@on_each
def test_the_trend_counts_failures_by_day(store: SQLStore, clock: Clock):
    """The trend counts the failures of the last seven days by day, including repeated failures of a record."""
    clock.now = 100 * DAY + 5.0
    for day, count in ((93, 5), (94, 2), (99, 1), (100, 3)):
        store.put([record(last_at=day * DAY + 1.0) for _ in range(count)])
    again = record(last_at=100 * DAY + 1.0, identity="i", may_join=True)
    store.put([again, replace(again, id=new_id(), last_at=100 * DAY + 2.0)])
    (group,) = store.groups(Query())
    assert group.trend == (2, 0, 0, 0, 0, 1, 5)
    edit_record(store, store.ids(Query())[-1], "me", body=b"new")
    (dead,) = store.groups(Query(statuses=(Status.dead,)))
    assert dead.trend == group.trend, "an edit is not a failure"


@on_each
def test_a_group_that_fails_after_a_resolution_has_regressed(store: SQLStore, clock: Clock):
    """A group has regressed if a dead record is newer than the latest resolution."""
    old, more = record(last_at=10.0), record(last_at=11.0)
    store.put([old, more])
    queued(store, [old.id], "r")
    store.lease_records("shop", "t", 1, 60)
    store.resolve([old.id], "t", Status.resolved, "x")
    assert [group.regressed for group in store.groups(Query(statuses=(Status.dead,)))] == [False]
    store.put([record(last_at=clock.now + 1)])
    assert [group.regressed for group in store.groups(Query(statuses=(Status.dead,)))] == [True]
    clock.now += 100
    assert store.purge(Query()) == 1
    assert [group.regressed for group in store.groups(Query())] == [True], (
        "deleting resolved records does not hide the regression"
    )


@on_servers
def test_two_processes_that_put_one_message_make_one_record(store: SQLStore, url: str, clock: Clock):
    """Concurrent calls of `put` for one position make one record, and count every failure."""
    rounds, barrier = 30, threading.Barrier(2)
    failed: list[BaseException] = []

    def put() -> None:
        try:
            with contextlib.closing(SQLStore(url, clock=clock)) as mine:
                for n in range(rounds):
                    both: list[Record] = [record(identity=f"{n}-{m}", may_join=True) for m in range(3)]
                    barrier.wait(20)
                    mine.put(both)
        except BaseException as error:  # noqa: BLE001 - asserted below
            failed.append(error)

    threads = [threading.Thread(target=put) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failed == []
    assert Counter(one.attempts for one in store.query(Query())) == {2: 3 * rounds}
    assert group_counts(store) == record_counts(store)
