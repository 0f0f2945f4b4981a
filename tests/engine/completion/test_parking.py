"""Parking: messages with long delays wait in the store, optionally with their lane, for their next attempt."""

from __future__ import annotations

import threading
import time

import pytest
import sqlalchemy as sa

from missive import Breaker, JSONMessage, Processor, RawMessage, Retry, StoreError, UsageError, constant
from missive.adapters.replay import ReplayAdapter
from missive.dlq import Query, Status
from missive.dlq.redis import RedisStore
from missive.dlq.sql import SQLStore
from missive.engine.limits import Limits
from missive.engine.runtime import Runtime
from missive.matchers import Everything, Field, Range, by_field
from missive.testing import MemoryAdapter
from missive.transport import Capabilities, Delivery, Disposition
from tests.support.broker import Broker
from tests.support.engine import keyed_bodies, processor, run, until
from tests.support.redis_store import check
from tests.support.stores import queued

RETRY = Retry(attempts=4, immediate=0, delays=constant(0.2))


on_both = pytest.mark.parametrize("store", ["sqlite", pytest.param("redis", marks=pytest.mark.redis)], indirect=True)


@pytest.fixture
def store(request, tmp_path):
    """Yield a store and close it. Check the keys of a store in Redis first."""
    if getattr(request, "param", "sqlite") == "sqlite":
        opened = SQLStore(f"sqlite:///{tmp_path}/dlq.db")
        yield opened
    else:
        opened = RedisStore(request.getfixturevalue("redis").store())
        yield opened
        check(opened)
    opened.close()


@pytest.fixture(autouse=True)
def short_hold(monkeypatch):
    """Hold messages in memory for at most 50 ms, so that parked messages are due soon."""
    monkeypatch.setattr(Runtime, "limits", Limits(hold_seconds=0.05))


class Flaky:
    """A handler that fails `fails` attempts of each message that `which` selects, and records its runs."""

    def __init__(self, fails=2, which=lambda n: True):
        self.fails, self.which = fails, which
        self.runs: list[tuple[int, int]] = []
        self.done: list[int] = []
        self._left: dict[int, int] = {}
        self._lock = threading.Lock()

    def __call__(self, message, context):
        """Handle a message, or raise ConnectionError."""
        number = message.get_json()["n"]
        with self._lock:
            self.runs.append((number, context.attempt))
            left = self._left.setdefault(number, self.fails if self.which(number) else 0)
            self._left[number] = left - 1
            if left <= 0:
                self.done.append(number)
                return
        raise ConnectionError("down")


def retrying(store, handler, **options):
    """Return a processor with one handler, which retries."""
    proc = processor(dlq=store)
    options.setdefault("retry", RETRY)
    proc.add_handler(Everything(), handler, name="h", **options)
    return proc


def run_with_store(broker, store, *, meanwhile=None, runtime=None, **options):
    """Run a broker and a store as two sources, until the broker is empty and no record of the store waits."""

    async def done(engine):
        if meanwhile is not None:
            await meanwhile(engine)
        await until(lambda: not broker.held and not broker.ready, "the broker to be empty", 20)
        waiting = Query(statuses=(Status.parked, Status.queued))
        await until(lambda: store.count(waiting) == 0, "parked messages to be handled", 20)
        engine.stop()

    broker.ends = False
    return run(broker, ReplayAdapter(broker.processor, store), meanwhile=done, runtime=runtime, **options)


@on_both
def test_a_parked_message_continues_with_its_next_attempt(store):
    """A message with a long delay is parked, settled at its source, and runs its next attempt from the store."""
    handler = Flaky(2)
    broker = Broker(retrying(store, handler), keyed_bodies(3))
    run_with_store(broker, store)
    assert sorted(handler.runs) == [(n, attempt) for n in range(3) for attempt in (1, 2, 3)]
    assert len(broker.acked) == 3
    records = list(store.query(Query()))
    assert {record.status for record in records} == {Status.resolved}
    assert [[(a.reason, a.attempt) for a in r.history] for r in records] == [[("retried", 1), ("retried", 2)]] * 3
    assert {r.error_type for r in records} == {"ConnectionError"}


def test_after_the_last_attempt_a_parked_message_is_a_dead_letter(store):
    """After its last attempt, the record of a parked message is a dead letter with the history of all attempts."""
    handler = Flaky(100)
    broker = Broker(retrying(store, handler), keyed_bodies(1))
    run_with_store(broker, store)
    (record,) = store.query(Query())
    assert record.status is Status.dead
    assert [a.attempt for a in record.history] == [1, 2, 3, 4]
    assert [attempt for _, attempt in handler.runs] == [1, 2, 3, 4]


def test_a_replay_restarts_the_attempts(store):
    """A replay of a dead letter restarts its attempts at 1."""
    handler = Flaky(5)
    broker = Broker(retrying(store, handler), keyed_bodies(1))
    run_with_store(broker, store)
    (record,) = store.query(Query())
    assert queued(store, [record.id], "r1") == 1
    run_with_store(Broker(retrying(store, handler), []), store)
    assert [attempt for _, attempt in handler.runs] == [1, 2, 3, 4, 1, 2]
    assert handler.done == [0]


@on_both
def test_the_next_process_runs_parked_messages(store):
    """Messages that a stopped process parked run in the next process when they are due."""
    first = Flaky(1)
    broker = Broker(retrying(store, first), keyed_bodies(5))
    run(broker)
    assert len(broker.acked) == 5
    assert store.count(Query(statuses=(Status.parked,))) == 5
    assert store.next_due("app") > 0
    second = Flaky(0)
    run_with_store(Broker(retrying(store, second), []), store)
    assert sorted(second.runs) == [(n, 2) for n in range(5)]


def test_within_includes_the_time_in_the_store(store):
    """`within` counts from the first failure and includes the time in the store."""
    policy = Retry(attempts=None, immediate=0, delays=constant(0.2), within=0.5)
    handler = Flaky(100)
    run_with_store(Broker(retrying(store, handler, retry=policy), keyed_bodies(1)), store)
    assert 2 <= len(handler.runs) <= 3
    assert store.count(Query(statuses=(Status.dead,))) == 1


def test_a_message_is_settled_after_it_is_parked(store, monkeypatch):
    """While the store is down, messages that wait to be parked stay unsettled."""
    handler, put = Flaky(1), store.put
    fails = []

    def down(records):
        if len(fails) < 3:
            fails.append(len(broker.acked))
            raise StoreError("down")
        put(records)

    monkeypatch.setattr(store, "put", down)
    broker = Broker(retrying(store, handler), keyed_bodies(2))
    run_with_store(broker, store)
    assert fails == [0, 0, 0]
    assert sorted(handler.done) == [0, 1]


def test_messages_with_short_delays_are_held_in_memory(store):
    """A message with a short delay is held in memory and not parked."""
    handler = Flaky(2)
    broker = Broker(retrying(store, handler, retry=Retry(immediate=1, delays=constant(0.01))), keyed_bodies(3))
    run_with_store(broker, store)
    assert sorted(handler.done) == [0, 1, 2]
    assert store.count(Query()) == 0


def test_without_a_store_long_delays_are_held_in_memory():
    """Without a store, a message with a long delay is held in memory."""
    handler = Flaky(1)
    proc = Processor(JSONMessage, name="app", dlq={})
    proc.add_handler(Everything(), handler, name="h", retry=RETRY)
    broker = Broker(proc, keyed_bodies(3))
    run(broker)
    assert sorted(handler.runs) == [(n, attempt) for n in range(3) for attempt in (1, 2)]


# Lanes


def test_a_blocked_lane_is_held_in_memory(store):
    """A lane with `on_lane_retry="block"` is held in memory and in order, however long the delay."""
    handler = Flaky(1, lambda n: n < 3)
    broker = Broker(retrying(store, handler, ordered_by=by_field("k")), keyed_bodies(30, 3))
    run_with_store(broker, store)
    assert store.count(Query()) == 0
    check_order(handler, 3, 30)


def check_order(handler, keys, count):
    """Check that all messages were handled, in order by key."""
    assert sorted(handler.done) == list(range(count))
    for key in range(keys):
        mine = [n for n in handler.done if n % keys == key]
        assert mine == sorted(mine)


@on_both
def test_a_parked_message_parks_the_rest_of_its_lane(store):
    """Waiting and new messages of a lane with a parked message are parked too, and all run in order."""
    handler = Flaky(2, lambda n: n < 3)
    proc = retrying(store, handler, ordered_by=by_field("k"), on_lane_retry="park")
    broker = Broker(proc, keyed_bodies(30, 4))
    parked = []

    async def meanwhile(engine):
        await until(lambda: len(broker.acked) == 30, "all messages to be parked or handled")
        parked.append(store.lanes("app"))
        broker.send(*[b'{"n":%d,"k":%d}' % (n, n % 4) for n in range(30, 40)])

    run_with_store(broker, store, meanwhile=meanwhile)
    assert len(parked[0]) == 3, "the lane without a failure was parked"
    check_order(handler, 4, 40)
    assert store.lanes("app") == {}


@on_both
def test_a_lane_stays_parked_after_a_restart(store):
    """After a restart, new messages wait behind the parked messages of their lane."""
    first = Flaky(1, lambda n: n == 0)
    run(Broker(retrying(store, first, ordered_by=by_field("k"), on_lane_retry="park"), keyed_bodies(5)))
    assert store.count(Query(statuses=(Status.parked,))) == 5
    second = Flaky(0)
    proc = retrying(store, second, ordered_by=by_field("k"), on_lane_retry="park")
    broker = Broker(proc, [b'{"n":%d,"k":0}' % n for n in range(5, 9)])
    run_with_store(broker, store)
    assert second.done == list(range(9))


def test_a_lane_of_the_transport_can_be_parked(store):
    """A lane of the transport can be parked, and its messages run in order."""
    handler = Flaky(1, lambda n: n == 0)
    proc = retrying(store, handler, on_lane_retry="park")
    broker = Broker(proc, [Delivery(body, lane="p0", position=n) for n, body in enumerate(keyed_bodies(10))])
    run_with_store(broker, store)
    assert handler.done == list(range(10))
    assert store.count(Query()) == 10


def test_a_parked_lane_continues_after_a_dead_letter(store):
    """When the first message of a parked lane becomes a dead letter, the rest of the lane runs."""
    handler = Flaky(100, lambda n: n == 0)
    proc = retrying(store, handler, ordered_by=by_field("k"), on_lane_retry="park")
    run_with_store(Broker(proc, keyed_bodies(5)), store)
    assert handler.done == [1, 2, 3, 4]
    (dead,) = store.query(Query(statuses=(Status.dead,)))
    assert dead.lane is None


def test_park_requires_a_store():
    """Without a store, `on_lane_retry="park"` is a UsageError that names the handler and the remedy."""
    for dlq in (None, {}):
        proc = Processor(JSONMessage, name="app", dlq=dlq)
        proc.add_handler(Everything(), Flaky(0), name="h", on_lane_retry="park")
        with pytest.raises(UsageError, match=r"^h: on_lane_retry='park'.*sqlite:///dlq.db"):
            run(MemoryAdapter(proc, [b"{}"]), check_left=False)


def test_a_key_that_cannot_be_stored_fails_its_message(store):
    """A message whose key cannot be stored is a dead letter, and the rest of its lane runs."""

    class Key:
        def __hash__(self):
            return 1

        def __eq__(self, other):
            return isinstance(other, Key)

    handler = Flaky(1, lambda n: n == 0)
    run_with_store(
        Broker(retrying(store, handler, ordered_by=lambda m: Key(), on_lane_retry="park"), keyed_bodies(3)), store
    )
    assert handler.done == [1, 2]
    (dead,) = store.query(Query())
    assert dead.error_type == "TypeError"


# Attempts


@on_both
def test_attempts_of_held_messages_survive_a_restart(store):
    """The attempts of an unsettled message are counted in the store, and the next process continues the count."""
    policy = Retry(attempts=4, immediate=0, delays=constant(0.3))
    positions = [Delivery(body, position=n, lane="p0") for n, body in enumerate(keyed_bodies(2))]
    first, broker = Flaky(100, lambda n: n == 0), None
    broker = Broker(retrying(store, first, retry=policy), positions, capabilities=Capabilities(lease=30.0), ends=False)

    async def meanwhile(engine):
        await until(lambda: len(first.runs) == 2, "two attempts")
        await until(lambda: counted_attempts(store) == [2], "the count of the attempts")
        engine.stop()

    run(broker, meanwhile=meanwhile)
    second = Flaky(100, lambda n: n == 0)
    run(Broker(retrying(store, second, retry=policy), positions))
    assert [attempt for n, attempt in second.runs if n == 0] == [3, 4]
    assert second.done == [1]
    assert counted_attempts(store) == [], "the attempts of handled messages remain"


def counted_attempts(store):
    """Return the counts of attempts in the store."""
    if isinstance(store, RedisStore):
        return [
            int(count) for key in store._client.keys(store._key("attempts:*")) for count in store._client.hvals(key)
        ]
    with store._engine.connect() as connection:
        return list(connection.execute(sa.text("SELECT attempt FROM missive_attempts")).scalars())


def test_successful_messages_write_no_attempts(store, monkeypatch):
    """Successful messages write no attempts to the store."""
    monkeypatch.setattr(store, "count_attempts", lambda *_: pytest.fail("counted"))
    monkeypatch.setattr(store, "drop_attempts", lambda *_: pytest.fail("dropped"))
    handler = Flaky(0)
    run(Broker(retrying(store, handler), keyed_bodies(50)))
    assert len(handler.done) == 50


# Delays of the transport


def test_a_transport_with_delays_delays_the_message(store):
    """The transport delays a message within its limit. Attempts continue, and no message is parked."""
    handler = Flaky(2)
    with_delays = Capabilities(max_delay=60)
    adapter = MemoryAdapter(retrying(store, handler), keyed_bodies(3), capabilities=with_delays, ends=False)

    async def meanwhile(engine):
        await until(lambda: len(handler.done) == 3, "all messages to be handled")
        engine.stop()

    run(adapter, meanwhile=meanwhile)
    assert sorted(handler.runs) == [(n, attempt) for n in range(3) for attempt in (1, 2, 3)]
    assert {(one.delay, one.attempt) for one in adapter.settled if one.disposition is Disposition.delay} == {
        (0.2, 1),
        (0.2, 2),
    }
    assert store.count(Query()) == 0


def test_a_delay_beyond_the_limit_of_the_transport_is_parked(store):
    """A message with a delay beyond the limit of the transport is parked."""
    handler = Flaky(1)
    adapter = MemoryAdapter(retrying(store, handler), keyed_bodies(3), capabilities=Capabilities(max_delay=0.1))
    run(adapter)
    assert [settlement.disposition for settlement in adapter.settled] == [Disposition.ack] * 3
    assert store.count(Query(statuses=(Status.parked,))) == 3


def test_a_parked_record_has_its_times_from_one_look_at_the_clock(store):
    """The due time is the time of the failure and the delay, so that a clock that jumps afterwards moves both."""
    retry = Retry(immediate=0, delays=constant(600.0))
    run(MemoryAdapter(retrying(store, Flaky(1), retry=retry), keyed_bodies(20)))
    records = list(store.query(Query()))
    assert len(records) == 20
    assert max(abs(record.due - record.last_at - 600.0) for record in records) < 1e-5  # the precision of a time


def test_a_nacked_message_is_parked_when_the_transport_cannot_redeliver(store):
    """When the transport cannot redeliver, a nacked message is parked and runs again with the same attempt number."""
    attempts = []

    def handle(message, context):
        attempts.append(context.attempt)
        if len(attempts) == 1:
            context.nack()

    proc = Processor(RawMessage, name="app", dlq=store)
    proc.add_handler(Everything(), handle, name="h")
    run(MemoryAdapter(proc, [b"x"], capabilities=Capabilities(release="none")))
    (record,) = store.query(Query())
    assert record.status is Status.parked
    assert record.due > time.time() - 5
    run_with_store(Broker(proc, []), store)
    assert attempts == [1, 1]


# Breakers


@on_both
def test_an_open_breaker_parks_lanes(store):
    """An open breaker parks the lanes beyond the held 100, each in order. Messages of other handlers run."""
    down = threading.Event()
    down.set()
    done, others = [], []

    def handle(message, context):
        if down.is_set():
            raise ConnectionError("down")
        done.append(message.get_json()["n"])

    proc = Processor(JSONMessage, name="app", dlq=store, concurrency=4)
    terms = {"ordered_by": by_field("k"), "on_lane_retry": "park", "retry": Retry(attempts=20)}
    proc.add_handler(Field("k", Range(ge=0)), handle, name="h", breaker=Breaker("b", after=3, probe=0.3), **terms)
    proc.add_handler(Field("k", -1), lambda message, context: others.append(message.get_json()["n"]), name="other")
    keys, count = 150, 450
    keyed = [b'{"n":%d,"k":%d}' % (n, n % keys) for n in range(count)]
    broker = Broker(proc, [*keyed, *(b'{"n":%d,"k":-1}' % n for n in range(count, count + 20))])

    async def recover(engine):
        await until(lambda: len(others) == 20, "the messages of the other handler", 20)
        assert done == []
        parked = Query(statuses=(Status.parked,))
        await until(lambda: store.count(parked) >= keys - 100, "lanes to be parked", 20)
        down.clear()

    run_with_store(broker, store, meanwhile=recover)
    assert sorted(set(done)) == list(range(count))
    first = list(dict.fromkeys(done))
    for key in range(keys):
        assert (mine := [n for n in first if n % keys == key]) == sorted(mine), "the key is not in order"
    assert store.count(Query(statuses=(Status.dead,))) == 0


def test_an_open_breaker_parks_messages(store):
    """An open breaker holds a hundred messages and parks the others. Messages of other handlers run."""
    down, others = threading.Event(), []
    handled = []

    def handle(message, context):
        if not down.is_set():
            raise ConnectionError("down")
        handled.append((message.get_json()["n"], context.attempt))

    proc = Processor(JSONMessage, name="app", dlq=store, concurrency=4, on_overlap="ignore")
    breaker = Breaker("b", after=3, probe=0.5)
    proc.add_handler(Field("k", 0), handle, name="h", breaker=breaker, retry=Retry(attempts=20))
    proc.add_handler(Field("k", 1), lambda m, c: others.append(m.get_json()["n"]), name="others")
    broker = Broker(proc, keyed_bodies(1000, 2))

    async def meanwhile(engine):
        await until(lambda: len(others) == 500, "the messages of the other handler")
        await until(lambda: store.count(Query(statuses=(Status.parked,))) >= 300, "messages to be parked")
        await until(lambda: len(broker.held) <= 130, "all but a hundred messages to be settled")
        down.set()

    run_with_store(broker, store, meanwhile=meanwhile)
    assert sorted(n for n, _ in handled) == list(range(0, 1000, 2))
    assert store.count(Query(statuses=(Status.dead,))) == 0
