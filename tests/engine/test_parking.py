"""Parking: what is due late waits in the store, in order where that is asked for, and comes as its next attempt."""

from __future__ import annotations

import threading
import time

import pytest

from missive import Breaker, JSONMessage, Processor, RawMessage, Retry, UsageError, constant
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
from tests.support.engine import run, until
from tests.support.redis_store import check
from tests.support.stores import queued

RETRY = Retry(attempts=4, immediate=0, delays=constant(0.2))


on_both = pytest.mark.parametrize("store", ["sqlite", pytest.param("redis", marks=pytest.mark.redis)], indirect=True)


@pytest.fixture
def store(request, tmp_path):
    """Yield a store, closed in the end, when one in Redis has to hold together."""
    if getattr(request, "param", "sqlite") == "sqlite":
        made = SQLStore(f"sqlite:///{tmp_path}/dlq.db")
        yield made
    else:
        made = RedisStore(request.getfixturevalue("redis").store())
        yield made
        check(made)
    made.close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Hold nothing for longer than a twentieth of a second, so that what is parked is due soon."""
    monkeypatch.setattr(Runtime, "limits", Limits(hold_seconds=0.05))


class Flaky:
    """A handler that fails some messages some times; notes what it did."""

    def __init__(self, fails=2, which=lambda n: True):
        self.fails, self.which = fails, which
        self.runs: list[tuple[int, int]] = []
        self.done: list[int] = []
        self._left: dict[int, int] = {}
        self._lock = threading.Lock()

    def __call__(self, message, context):
        """Fail or not."""
        number = message.get_json()["n"]
        with self._lock:
            self.runs.append((number, context.attempt))
            left = self._left.setdefault(number, self.fails if self.which(number) else 0)
            self._left[number] = left - 1
            if left <= 0:
                self.done.append(number)
                return
        raise ConnectionError("down")


def bodies(count, keys=1):
    return [b'{"n":%d,"k":%d}' % (n, n % keys) for n in range(count)]


def processor(store, handler, **options):
    proc = Processor(JSONMessage, name="app", dlq=store, concurrency=4)
    options.setdefault("retry", RETRY)
    proc.add_handler(Everything(), handler, name="h", **options)
    return proc


def run_with_store(broker, store, *, meanwhile=None, runtime=None, **options):
    """Run a broker beside the store as a source, until all is handled and nothing waits in the store."""

    async def done(engine):
        if meanwhile is not None:
            await meanwhile(engine)
        await until(lambda: not broker.held and not broker.ready, "the broker to be empty", 20)
        waiting = Query(statuses=(Status.parked, Status.queued))
        await until(lambda: store.count(waiting) == 0, "nothing to be parked", 20)
        engine.stop()

    broker.ends = False
    return run(broker, ReplayAdapter(broker.processor, store), meanwhile=done, runtime=runtime, **options)


@on_both
def test_a_long_delay_is_parked_and_its_attempts_go_on(store):
    """The source is settled once the record is durable; the message comes back from the store as its next attempt."""
    handler = Flaky(2)
    broker = Broker(processor(store, handler), bodies(3))
    run_with_store(broker, store)
    assert sorted(handler.runs) == [(n, attempt) for n in range(3) for attempt in (1, 2, 3)]
    assert len(broker.acked) == 3
    records = list(store.query(Query()))
    assert {record.status for record in records} == {Status.resolved}
    assert [[(a.reason, a.attempt) for a in r.history] for r in records] == [[("retried", 1), ("retried", 2)]] * 3
    assert {r.error_type for r in records} == {"ConnectionError"}


def test_after_the_last_attempt_a_parked_message_is_a_dead_letter(store):
    """It is the same record, with the history of all its attempts."""
    handler = Flaky(100)
    broker = Broker(processor(store, handler), bodies(1))
    run_with_store(broker, store)
    (record,) = store.query(Query())
    assert record.status is Status.dead
    assert [a.attempt for a in record.history] == [1, 2, 3, 4]
    assert [attempt for _, attempt in handler.runs] == [1, 2, 3, 4]


def test_a_replay_of_a_dead_letter_begins_anew(store):
    """An operator's replay has all its attempts again."""
    handler = Flaky(5)
    broker = Broker(processor(store, handler), bodies(1))
    run_with_store(broker, store)
    (record,) = store.query(Query())
    assert queued(store, [record.id], "r1") == 1
    run_with_store(Broker(processor(store, handler), []), store)
    assert [attempt for _, attempt in handler.runs] == [1, 2, 3, 4, 1, 2]
    assert handler.done == [0]


@on_both
def test_what_is_parked_is_taken_up_by_the_next_start(store):
    """A worker that is gone left it in the store, where the next one finds it when it is due."""
    first = Flaky(1)
    broker = Broker(processor(store, first), bodies(5))
    run(broker)
    assert len(broker.acked) == 5
    assert store.count(Query(statuses=(Status.parked,))) == 5
    assert store.next_due("app") > 0
    again = Flaky(0)
    run_with_store(Broker(processor(store, again), []), store)
    assert sorted(again.runs) == [(n, 2) for n in range(5)]


def test_the_total_time_counts_what_was_parked(store):
    """`within` is counted from the first failure, wherever the message waited since."""
    policy = Retry(attempts=None, immediate=0, delays=constant(0.2), within=0.5)
    handler = Flaky(100)
    run_with_store(Broker(processor(store, handler, retry=policy), bodies(1)), store)
    assert 2 <= len(handler.runs) <= 3
    assert store.count(Query(statuses=(Status.dead,))) == 1


def test_a_store_that_is_down_keeps_its_source_unsettled(store, monkeypatch):
    """Nothing is settled before it is parked durably."""
    handler, put = Flaky(1), store.put
    fails = []

    def down(records):
        if len(fails) < 3:
            fails.append(len(broker.acked))
            from missive import StoreError

            raise StoreError("down")
        put(records)

    monkeypatch.setattr(store, "put", down)
    broker = Broker(processor(store, handler), bodies(2))
    run_with_store(broker, store)
    assert fails == [0, 0, 0]
    assert sorted(handler.done) == [0, 1]


def test_short_delays_are_held_and_not_parked(store):
    """What is due soon is not worth a record."""
    handler = Flaky(2)
    broker = Broker(processor(store, handler, retry=Retry(immediate=1, delays=constant(0.01))), bodies(3))
    run_with_store(broker, store)
    assert sorted(handler.done) == [0, 1, 2]
    assert store.count(Query()) == 0


def test_without_a_store_long_delays_are_held():
    """There is nowhere to park: the message stays unsettled here."""
    handler = Flaky(1)
    proc = Processor(JSONMessage, name="app", dlq={})
    proc.add_handler(Everything(), handler, name="h", retry=RETRY)
    broker = Broker(proc, bodies(3))
    run(broker)
    assert sorted(handler.runs) == [(n, attempt) for n in range(3) for attempt in (1, 2)]


# Lanes


def test_block_holds_the_lane_here(store):
    """A lane that blocks waits in memory, in order, however long the delay."""
    handler = Flaky(1, lambda n: n < 3)
    broker = Broker(processor(store, handler, ordered_by=by_field("k")), bodies(30, 3))
    run_with_store(broker, store)
    assert store.count(Query()) == 0
    in_order(handler, 3, 30)


def in_order(handler, keys, count):
    assert sorted(handler.done) == list(range(count))
    for key in range(keys):
        mine = [n for n in handler.done if n % keys == key]
        assert mine == sorted(mine)


@on_both
def test_park_parks_the_rest_of_the_lane_behind(store):
    """The held message, what is behind it and what comes later of its lane are parked, and handled in order."""
    handler = Flaky(2, lambda n: n < 3)
    proc = processor(store, handler, ordered_by=by_field("k"), on_lane_retry="park")
    broker = Broker(proc, bodies(30, 4))
    parked = []

    async def meanwhile(engine):
        await until(lambda: len(broker.acked) == 30, "all to be parked or handled")
        parked.append(store.lanes("app"))
        broker.send(*[b'{"n":%d,"k":%d}' % (n, n % 4) for n in range(30, 40)])

    run_with_store(broker, store, meanwhile=meanwhile)
    assert len(parked[0]) == 3, "and not the lane of which nothing failed"
    in_order(handler, 4, 40)
    assert store.lanes("app") == {}


@on_both
def test_a_parked_lane_is_remembered_by_the_next_start(store):
    """What comes after a restart waits behind what was parked before it."""
    first = Flaky(1, lambda n: n == 0)
    run(Broker(processor(store, first, ordered_by=by_field("k"), on_lane_retry="park"), bodies(5)))
    assert store.count(Query(statuses=(Status.parked,))) == 5
    again = Flaky(0)
    proc = processor(store, again, ordered_by=by_field("k"), on_lane_retry="park")
    broker = Broker(proc, [b'{"n":%d,"k":0}' % n for n in range(5, 9)])
    run_with_store(broker, store)
    assert again.done == list(range(9))


def test_a_natural_lane_can_be_parked(store):
    """A transport's own lane is parked like one by key."""
    handler = Flaky(1, lambda n: n == 0)
    proc = processor(store, handler, on_lane_retry="park")
    broker = Broker(proc, [Delivery(body, lane="p0", position=n) for n, body in enumerate(bodies(10))])
    run_with_store(broker, store)
    assert handler.done == list(range(10))
    assert store.count(Query()) == 10


def test_a_lane_goes_on_when_its_first_is_a_dead_letter(store):
    """The message that fails for good is dead, and the others of its lane are handled."""
    handler = Flaky(100, lambda n: n == 0)
    proc = processor(store, handler, ordered_by=by_field("k"), on_lane_retry="park")
    run_with_store(Broker(proc, bodies(5)), store)
    assert handler.done == [1, 2, 3, 4]
    (dead,) = store.query(Query(statuses=(Status.dead,)))
    assert dead.lane is None


def test_park_needs_a_store():
    """Without one it is refused at the start, with the handler's name and the way out."""
    for dlq in (None, {}):
        proc = Processor(JSONMessage, name="app", dlq=dlq)
        proc.add_handler(Everything(), Flaky(0), name="h", on_lane_retry="park")
        with pytest.raises(UsageError, match=r"^h: on_lane_retry='park'.*sqlite:///dlq.db"):
            run(MemoryAdapter(proc, [b"{}"]), check_left=False)


def test_a_key_that_cannot_be_remembered_is_a_failure(store):
    """A key of an object's own has no name in the store: the message is a dead letter, and the others go on."""

    class Key:
        def __hash__(self):
            return 1

        def __eq__(self, other):
            return isinstance(other, Key)

    handler = Flaky(1, lambda n: n == 0)
    run_with_store(
        Broker(processor(store, handler, ordered_by=lambda m: Key(), on_lane_retry="park"), bodies(3)), store
    )
    assert handler.done == [1, 2]
    (dead,) = store.query(Query())
    assert dead.error_type == "TypeError"


# Attempts


@on_both
def test_attempts_outlive_a_process_that_holds_the_message(store):
    """What was spent while the message stayed unsettled is counted in the store, and not begun anew."""
    policy = Retry(attempts=4, immediate=0, delays=constant(0.3))
    positions = [Delivery(body, position=n, lane="p0") for n, body in enumerate(bodies(2))]
    first, broker = Flaky(100, lambda n: n == 0), None
    broker = Broker(processor(store, first, retry=policy), positions, capabilities=Capabilities(lease=30.0), ends=False)

    async def meanwhile(engine):
        await until(lambda: len(first.runs) == 2, "two attempts")
        await until(lambda: bool(spent(store) == [2]), "them to be counted")
        engine.stop()

    run(broker, meanwhile=meanwhile)
    again = Flaky(100, lambda n: n == 0)
    run(Broker(processor(store, again, retry=policy), positions))
    assert [attempt for n, attempt in again.runs if n == 0] == [3, 4]
    assert again.done == [1]
    assert spent(store) == [], "it is done with"


def spent(store):
    if isinstance(store, RedisStore):
        return [
            int(count) for key in store._client.keys(store._key("attempts:*")) for count in store._client.hvals(key)
        ]
    import sqlalchemy as sa

    with store._engine.connect() as connection:
        return list(connection.execute(sa.text("SELECT attempt FROM missive_attempts")).scalars())


def test_nothing_is_counted_where_nothing_fails(store, monkeypatch):
    """The happy path writes no attempts."""
    monkeypatch.setattr(store, "count_attempts", lambda *_: pytest.fail("counted"))
    monkeypatch.setattr(store, "drop_attempts", lambda *_: pytest.fail("dropped"))
    handler = Flaky(0)
    run(Broker(processor(store, handler), bodies(50)))
    assert len(handler.done) == 50


# Native delays


def test_a_transport_that_can_delay_is_asked_to(store):
    """A long delay within the transport's limit is its own; attempts go on, and nothing is parked."""
    handler = Flaky(2)
    able = Capabilities(max_delay=60)
    adapter = MemoryAdapter(processor(store, handler), bodies(3), capabilities=able, ends=False)

    async def meanwhile(engine):
        await until(lambda: len(handler.done) == 3, "all to be handled")
        engine.stop()

    run(adapter, meanwhile=meanwhile)
    assert sorted(handler.runs) == [(n, attempt) for n in range(3) for attempt in (1, 2, 3)]
    assert {(item.delay, item.attempt) for item in adapter.settled if item.disposition is Disposition.delay} == {
        (0.2, 1),
        (0.2, 2),
    }
    assert store.count(Query()) == 0


def test_a_delay_beyond_the_transports_limit_is_parked(store):
    """What a transport cannot hold for so long waits in the store."""
    handler = Flaky(1)
    adapter = MemoryAdapter(processor(store, handler), bodies(3), capabilities=Capabilities(max_delay=0.1))
    run(adapter)
    assert [item.disposition for item in adapter.settled] == [Disposition.ack] * 3
    assert store.count(Query(statuses=(Status.parked,))) == 3


def test_a_nack_is_parked_where_the_transport_cannot_redeliver(store):
    """Standard input cannot take a message back: the store does, and the attempt is not spent."""
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
def test_lanes_that_an_open_breaker_cannot_hold_are_parked(store):
    """Where lanes are parked, more of them than are held wait in the store, in their order; others go on meanwhile."""
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
    made = [b'{"n":%d,"k":%d}' % (n, n % keys) for n in range(count)]
    broker = Broker(proc, [*made, *(b'{"n":%d,"k":-1}' % n for n in range(count, count + 20))])

    async def mend(engine):
        await until(lambda: len(others) == 20, "others to be handled", 20)
        assert done == []
        parked = Query(statuses=(Status.parked,))
        await until(lambda: store.count(parked) >= keys - 100, "lanes to be parked", 20)
        down.clear()

    run_with_store(broker, store, meanwhile=mend)
    assert sorted(set(done)) == list(range(count))
    first = list(dict.fromkeys(done))
    for key in range(keys):
        assert (mine := [n for n in first if n % keys == key]) == sorted(mine), "in order by key"
    assert store.count(Query(statuses=(Status.dead,))) == 0


def test_what_an_open_breaker_cannot_hold_is_parked(store):
    """A hundred wait here, the rest in the store, and all is handled in the end; others are not in the way."""
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
    broker = Broker(proc, bodies(1000, 2))

    async def meanwhile(engine):
        await until(lambda: len(others) == 500, "the others")
        await until(lambda: store.count(Query(statuses=(Status.parked,))) >= 300, "the rest to be parked")
        await until(lambda: len(broker.held) <= 130, "all but a hundred to be settled")
        down.set()

    run_with_store(broker, store, meanwhile=meanwhile)
    assert sorted(n for n, _ in handled) == list(range(0, 1000, 2))
    assert store.count(Query(statuses=(Status.dead,))) == 0
