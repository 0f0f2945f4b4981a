"""Messages that wait on RabbitMQ: they take no room from the others, whatever the prefetch, and keep their order."""

from __future__ import annotations

import threading
import time

import pytest

from missive import JSONMessage, Processor, Retry, constant
from missive.adapters import RabbitMQAdapter
from missive.adapters.replay import ReplayAdapter
from missive.dlq import Query, Status
from missive.dlq.sql import SQLStore
from missive.engine.limits import Limits
from missive.engine.runtime import Runtime
from missive.matchers import Everything, Field, Range, by_field
from tests.adapters.test_rabbitmq import Queue
from tests.support.engine import run, until

pytestmark = pytest.mark.rabbitmq

QUICK = b'{"n":-1,"k":"quick"}'
WAITING = Query(statuses=(Status.parked, Status.queued))


@pytest.fixture
def store(tmp_path):
    """Yield a store and close it."""
    opened = SQLStore(f"sqlite:///{tmp_path}/dlq.db")
    yield opened
    opened.close()


class Handler:
    """A handler that takes `seconds` for each slow message, and records the time of the quick one."""

    def __init__(self, seconds):
        self.seconds = seconds
        self.started = time.monotonic()
        self.quick_after = None
        self.done: list[int] = []
        self.enough = threading.Event()

    def __call__(self, message, context):
        """Handle a message."""
        content = message.get_json()
        if content["k"] == "quick":
            self.quick_after = time.monotonic() - self.started
            return
        self.enough.wait(self.seconds)
        self.done.append(content["n"])


def slow(count):
    """Return messages of one key."""
    return [b'{"n":%d,"k":"slow"}' % n for n in range(count)]


def go(store, queue, handler, *, prefetch=250, seconds=10.0, wait=True, register=None, **terms):
    """Run a worker until the quick message is handled, and then, with `wait`, until all messages are."""
    proc = Processor(JSONMessage, name="app", dlq=store, concurrency=4, on_overlap="ignore")
    if register is not None:
        register(proc)
    else:
        proc.add_handler(Everything(), handler, name="h", ordered_by=by_field("k"), **terms)
    adapter = RabbitMQAdapter(proc, queue.name, host="127.0.0.1", port=queue.broker.port, prefetch=prefetch)

    async def meanwhile(engine):
        handler.started = time.monotonic()
        await until(lambda: handler.quick_after is not None, "the quick message", seconds)
        handler.enough.set()
        if wait:
            await until(lambda: not engine.stations.dispatcher.lanes, "the lanes to be empty", 60)
            if isinstance(store, SQLStore):
                await until(lambda: not store.count(WAITING), "parked messages to be handled", 60)
        engine.stop()

    run(
        adapter, *([ReplayAdapter(proc, store)] if isinstance(store, SQLStore) else []), meanwhile=meanwhile, seconds=90
    )


def test_a_slow_key_does_not_starve_the_others(rabbitmq, store):
    """A quick message behind 400 messages of a slow key does not wait for the prefetch of 250."""
    queue, handler = Queue(rabbitmq), Handler(0.08)
    queue.publish(*slow(400), QUICK)
    go(store, queue, handler)
    assert handler.quick_after < 1.5
    assert handler.done == list(range(400))
    assert store.count(Query()) == 0, "the adapter raises its prefetch before messages move to the store"


@pytest.fixture
def small_limits(monkeypatch):
    """Let the engine hold 100 messages."""
    monkeypatch.setattr(Runtime, "limits", Limits(items=40, total_items=100))


@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize("prefetch", [3, 250])
def test_a_handler_that_runs_long_does_not_starve_other_keys(rabbitmq, store, prefetch):
    """Past the limit, the messages behind a long handler move to the store with their order; the handler goes on."""
    queue, handler = Queue(rabbitmq), Handler(60)
    queue.publish(*slow(150), QUICK)
    go(store, queue, handler, prefetch=prefetch, seconds=15)
    assert handler.done == list(range(150))
    assert store.count(Query(statuses=(Status.dead,))) == 0


@pytest.mark.usefixtures("small_limits")
def test_a_single_active_consumer_stays_active(rabbitmq, store):
    """On a queue with a single active consumer, the consumer stays, and waiting messages move to the store at once."""
    queue, handler = Queue(rabbitmq, {"x-single-active-consumer": True}), Handler(60)
    queue.publish(*slow(60), QUICK)
    go(store, queue, handler, prefetch=10)
    assert handler.done == list(range(60))


def fail(message, context):
    """Fail, so that the message is retried."""
    raise ConnectionError


MINUTES = Retry(attempts=10, immediate=0, delays=constant(300))
WAITS = {
    "rate": {"rate_limit": "2/min"},
    "cap": {"concurrency": 1},
    "ordered rate": {"rate_limit": "2/min", "ordered_by": by_field("k")},
    "ordered cap": {"concurrency": 1, "ordered_by": by_field("k")},
    "lane behind a retry": {"retry": MINUTES, "ordered_by": by_field("k")},
    "lane parked behind a retry": {"retry": MINUTES, "ordered_by": by_field("k"), "on_lane_retry": "park"},
    "retries of ten seconds": {"retry": Retry(attempts=10, immediate=0, delays=constant(9))},
}


@pytest.mark.parametrize("prefetch", [5, 250])
@pytest.mark.parametrize("wait", WAITS)
def test_messages_that_wait_do_not_starve_other_handlers(rabbitmq, store, wait, prefetch):
    """400 messages that wait for a rate, a cap or a retry do not delay a message of another handler."""
    terms, queue, handler = WAITS[wait], Queue(rabbitmq), Handler(60)
    queue.publish(*slow(400), QUICK)

    def register(proc):
        proc.add_handler(Field("k", "slow"), fail if "retry" in terms else handler, name="slow", **terms)
        proc.add_handler(Field("k", "quick"), handler, name="quick")

    go(store, queue, handler, prefetch=prefetch, seconds=8, wait=False, register=register)
    assert handler.quick_after < 5


def test_without_a_store_the_starvation_is_logged(rabbitmq, caplog):
    """Without a store, the prefetch stays, one line says that messages wait, and all are handled in their order."""
    queue, handler = Queue(rabbitmq), Handler(0.02)
    queue.publish(*slow(400), QUICK)
    go(None, queue, handler, seconds=60)
    assert handler.done == list(range(400))
    assert handler.quick_after > 2, "only the messages of the prefetch are taken"
    lines = [record.getMessage() for record in caplog.records if "keep others out" in record.getMessage()]
    assert len(lines) == 1
    assert lines[0].endswith("set a dead letter store with dlq= or --dlq, so that they can wait there")


def test_a_limit_on_a_single_active_consumer_does_not_starve_other_handlers(rabbitmq, store):
    """Where the prefetch cannot grow and is small, few messages stay at a limit, and the others move to the store."""
    queue, handler = Queue(rabbitmq, {"x-single-active-consumer": True}), Handler(60)
    queue.publish(*slow(60), QUICK)

    def register(proc):
        for name, numbers in (("first", Range(ge=0, lt=30)), ("second", Range(ge=30))):
            matcher = Field("k", "slow") & Field("n", numbers)
            proc.add_handler(matcher, handler, name=name, rate_limit="1/min")
        proc.add_handler(Field("k", "quick"), handler, name="quick")

    go(store, queue, handler, prefetch=4, wait=False, register=register)
    assert handler.quick_after < 8


@pytest.mark.parametrize("arguments", [{}, {"x-single-active-consumer": True}], ids=["many", "single"])
def test_running_messages_and_one_that_waits_do_not_use_up_the_prefetch(rabbitmq, store, arguments):
    """When three long handlers run and one message waits behind them with a prefetch of 4, other messages are taken."""
    queue, handler = Queue(rabbitmq, arguments), Handler(60)
    queue.publish(*[b'{"n":0,"k":"%d"}' % key for key in (1, 2, 3, 3)], QUICK)
    go(store, queue, handler, prefetch=4)
    assert handler.done == [0, 0, 0, 0]
