"""The dispatcher in a run: order by key and lane, and the concurrency of a handler."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import defaultdict

import pytest

from missive import JSONMessage, Processor, RawMessage, RegistrationError
from missive.matchers import Everything, Field, Topic, by_field, by_header, by_key
from missive.testing import MemoryAdapter
from missive.transport import Capabilities, Delivery, Disposition
from tests.conftest import wait_until
from tests.support.broker import Broker
from tests.support.engine import CANARY, keyed_bodies, processor, run, run_in_memory, until


class Log:
    """A log of the running messages: their order by key, and how many run at once."""

    def __init__(self):
        self.by_key = defaultdict(list)
        self.most = self._now = 0
        self._running = defaultdict(int)
        self._lock = threading.Lock()
        self.overlapped = False

    def enter(self, message):
        """Record a start."""
        content = message.get_json()
        with self._lock:
            self.by_key[content.get("k")].append(content["n"])
            self._running[content.get("k")] += 1
            self.overlapped = self.overlapped or self._running[content.get("k")] > 1
            self._now += 1
            self.most = max(self.most, self._now)

    def leave(self, message):
        """Record an end."""
        with self._lock:
            self._running[message.get_json().get("k")] -= 1
            self._now -= 1


def handlers(log, seconds=0.001):
    """Return a sync and an async handler that take the given seconds."""

    def handle(message, context):
        log.enter(message)
        time.sleep(seconds)
        log.leave(message)

    async def handle_async(message, context):
        log.enter(message)
        await asyncio.sleep(seconds)
        log.leave(message)

    return {"sync": handle, "async": handle_async}


def ordering_processor(**settings):
    """Return a processor with eight workers."""
    return processor(**{"concurrency": 8, **settings})


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_messages_of_one_key_run_in_order(kind):
    """Messages of one key run one at a time in order, at the same time as messages of other keys."""
    proc, log = ordering_processor(), Log()
    proc.add_handler(Everything(), handlers(log)[kind], ordered_by=by_field("k"))
    _, report = run_in_memory(proc, keyed_bodies(300, 7))
    assert report.total_handled == 300
    assert {key: list(range(key, 300, 7)) for key in range(7)} == log.by_key
    assert not log.overlapped
    assert log.most > 1


@pytest.mark.parametrize("ordered", [True, False])
def test_different_keys_run_at_the_same_time(ordered):
    """Messages of two keys run at the same time, and messages of one key do not."""
    proc, barrier = ordering_processor(), threading.Barrier(2)
    met = []

    @proc.handle_for(Everything(), ordered_by=by_field("k"))
    def meet(message, context):
        try:
            barrier.wait(5 if ordered else 0.2)
        except threading.BrokenBarrierError:
            return
        met.append(message)

    run_in_memory(proc, keyed_bodies(2, 2 if ordered else 1))
    assert len(met) == (2 if ordered else 0)


def test_messages_without_a_key_run_at_the_same_time():
    """Messages whose key is None run at the same time."""
    proc, log = ordering_processor(), Log()
    proc.add_handler(Everything(), handlers(log, 0.05)["sync"], ordered_by=by_field("missing"))
    run_in_memory(proc, keyed_bodies(8, 1))
    assert log.most > 1


@pytest.mark.parametrize(("other", "overlap"), [(by_field("k"), False), (by_field("j"), True)])
def test_handlers_with_an_equal_key_function_share_lanes(other, overlap):
    """Messages of two handlers with an equal `ordered_by` run in one lane."""
    proc, log = ordering_processor(on_overlap="ignore"), Log()
    handle = handlers(log, 0.02)["sync"]
    proc.add_handler(Field("n", 0), handle, ordered_by=by_field("k"))
    proc.add_handler(Field("n", 1), handle, ordered_by=other, name="other")
    run_in_memory(proc, [b'{"n":0,"k":1,"j":1}', b'{"n":1,"k":1,"j":1}'])
    assert log.overlapped is overlap


@pytest.mark.parametrize(
    ("policy", "seen"), [("block", [(0, 1), (0, 2), (1, 1), (2, 1)]), ("pass", [(0, 1), (1, 1), (2, 1), (0, 2)])]
)
def test_on_lane_retry_decides_whether_a_lane_waits_for_a_retry(policy, seen):
    """With "block", the rest of a lane waits for a retry. With "pass", the rest of the lane runs first."""
    proc, ran = ordering_processor(), []

    @proc.handle_for(Everything(), ordered_by=by_field("k"), on_lane_retry=policy)
    def handle(message, context):
        number = message.get_json()["n"]
        ran.append((number, context.attempt))
        if number == 0 and context.attempt == 1:
            context.retry(after=0.15)

    _, report = run_in_memory(proc, keyed_bodies(3, 1))
    assert (ran, report.total_handled) == (seen, 3)


def test_a_lane_continues_after_a_dead_letter():
    """After a dead letter, the next message of its key runs."""
    proc, ran = ordering_processor(), []

    @proc.handle_for(Everything(), ordered_by=by_field("k"))
    async def handle(message, context):
        ran.append(message.get_json()["n"])
        if ran[-1] == 0:
            raise ValueError

    _, report = run_in_memory(proc, keyed_bodies(3, 1))
    assert (ran, report.total_dead, report.total_handled) == ([0, 1, 2], 1, 2)


def test_messages_of_one_key_from_two_sources_are_settled_at_their_source():
    """Messages of two sources wait in the lane of their key, and each source settles its own messages."""
    proc, started, both = ordering_processor(), [], threading.Event()

    @proc.handle_for(Everything(), ordered_by=by_field("k"))
    def handle(message, context):
        started.append(message)
        assert both.wait(10)  # until the messages of both sources wait in the lane

    async def meanwhile(engine):
        await until(lambda: engine._state.unsettled == 40, "the messages of both sources")
        both.set()

    brokers = [Broker(proc, keyed_bodies(20)) for _ in range(2)]
    run(*brokers, meanwhile=meanwhile)
    assert len(started) == 40
    assert [sorted(keyed_bodies(20))] * 2 == [sorted(broker.acked) for broker in brokers]


def test_a_key_that_fails_after_a_retry_returns_the_credit():
    """A retried message whose key raises before its next attempt is a dead letter, and none of its credit is lost."""
    proc, calls = ordering_processor(), []

    def key(message):
        calls.append(message)
        if len(calls) > 1:
            raise ValueError("no key")
        return "k"

    @proc.handle_for(Everything(), ordered_by=key, on_lane_retry="pass")
    def handle(message, context):
        context.retry(after=0.01)

    assert run(Broker(proc, [b"{}"])).report.total_dead == 1  # `run` checks that the source counts no waiting message


def test_ordered_by_replaces_the_lanes_of_the_transport():
    """With `ordered_by`, messages of one lane of the transport run at the same time when their keys differ."""
    proc, log = ordering_processor(), Log()
    proc.add_handler(Everything(), handlers(log, 0.02)["sync"], ordered_by=by_field("k"))
    deliveries = [Delivery(body, lane="p0", position=n) for n, body in enumerate(keyed_bodies(40, 4))]
    run_in_memory(proc, deliveries)
    assert {key: list(range(key, 40, 4)) for key in range(4)} == log.by_key
    assert log.most > 1


def test_lanes_of_the_transport_run_in_order():
    """Without `ordered_by`, messages of one lane of the transport run one at a time in order."""
    proc, log = ordering_processor(), Log()
    proc.add_handler(Everything(), handlers(log)["async"])
    deliveries = [Delivery(body, lane=f"p{n % 3}", position=n) for n, body in enumerate(keyed_bodies(60, 3))]
    run_in_memory(proc, deliveries)
    assert {key: list(range(key, 60, 3)) for key in range(3)} == log.by_key
    assert not log.overlapped


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_handler_respects_its_concurrency(kind):
    """A handler runs no more messages at once than its concurrency, and other handlers use the other workers."""
    proc, narrow, wide = ordering_processor(on_overlap="ignore"), Log(), Log()
    proc.add_handler(Field("k", 0), handlers(narrow, 0.01)[kind], concurrency=2)
    proc.add_handler(Field("k", 1), handlers(wide, 0.01)[kind], name="wide")
    _, report = run_in_memory(proc, keyed_bodies(80, 2))
    assert report.total_handled == 80
    assert narrow.most == 2
    assert wide.most > 2
    in_order = list(range(0, 80, 2))
    assert sorted(narrow.by_key[0]) == in_order
    # Messages start in order. Two threads may log two starts that follow each other in either order.
    most = 1 if kind == "sync" else 0
    assert max(abs(place - in_order.index(n)) for place, n in enumerate(narrow.by_key[0])) <= most


def test_a_concurrency_and_an_order_apply_together():
    """Ordered messages of sync and async handlers with a concurrency all run, in order and within the limit."""
    proc, log = ordering_processor(on_overlap="ignore"), Log()
    for number, handler in enumerate(handlers(log).values()):
        proc.add_handler(
            Field("h", number), handler, name=f"h{number}", concurrency=1 + number, ordered_by=by_field("k")
        )
    given = [json.dumps({"n": n, "k": n % 5, "h": n % 2}).encode() for n in range(200)]
    _, report = run_in_memory(proc, given)
    assert report.total_handled == 200
    assert {key: list(range(key, 200, 5)) for key in range(5)} == log.by_key
    assert not log.overlapped
    assert log.most <= 3


def failing_key(message):
    """Raise ValueError."""
    raise ValueError(CANARY)


@pytest.mark.parametrize(
    ("key", "reason", "error"),
    [
        (failing_key, "failed", "ValueError"),
        (lambda message: [message.raw_data], "failed", "TypeError"),
        (by_field("k"), "unreadable", "DecodingError"),
    ],
    ids=["raises", "not hashable", "not readable"],
)
def test_a_message_without_a_usable_key_is_a_dead_letter(key, reason, error):
    """A message whose key raises, is not hashable or cannot be decoded is a dead letter, also in a test client."""
    box = {}
    proc = ordering_processor(dlq=box)
    proc.add_handler(Topic("t"), lambda message, context: None, ordered_by=key)
    _, report = run_in_memory(proc, [Delivery(b"{", topic="t")])
    assert dict(report.dead) == {reason: 1}
    with proc.test_client() as client:
        result = client.send(JSONMessage(b"{", topic="t"))
        assert (result.outcome, result.reason, type(result.exception).__name__) == ("dead_lettered", reason, error)


async def async_key(message):
    """Return the key of a message."""
    return message.key


class Unhashable:
    """A key function that defines equality and has no hash."""

    def __eq__(self, other):
        return True

    __hash__ = None

    def __call__(self, message):
        return 1


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"ordered_by": "k"}, r"ordered_by= .* must take a message .*\. For a field of that name, use by_field\('k'\)"),
        ({"ordered_by": 1}, "ordered_by= .* must take a message .*; it is a int"),
        ({"ordered_by": lambda: 1}, "ordered_by= .* must take a message .*; it takes"),
        ({"ordered_by": by_field}, r"by_field is a class\. Call it, as in by_field\('customer'\)"),
        ({"ordered_by": async_key}, "return its key at once; it is async"),
        ({"ordered_by": Unhashable()}, "must have a hash.* a Unhashable has none"),
        ({"on_lane_retry": []}, 'on_lane_retry= must be "block", "park" or "pass"'),
        ({"ordered_by": by_field("k")}, r"by_field\('k'\) \(for .*\) reads a StructuredMessage"),
        ({"on_lane_retry": "wait"}, 'on_lane_retry= must be "block", "park" or "pass"'),
        ({"concurrency": 0}, "concurrency= must be a whole number from 1"),
        ({"concurrency": True}, "concurrency= must be a whole number from 1"),
    ],
)
def test_an_invalid_order_or_limit_is_refused(settings, error):
    """An invalid `ordered_by=`, `on_lane_retry=` or `concurrency=` is refused at registration."""
    proc = Processor(RawMessage)
    with pytest.raises(RegistrationError, match=error):
        proc.add_handler(Everything(), lambda message, context: None, **settings)
    assert proc.routes() == ()


@pytest.mark.parametrize("key", [by_header("h"), by_key, lambda message: message.topic])
def test_headers_and_keys_can_order_messages(key):
    """A header, the key of the transport, or any callable can order messages."""
    proc = Processor(RawMessage, name="app", concurrency=4, dlq={})
    ran = []

    @proc.handle_for(Everything(), ordered_by=key)
    def handle(message, context):
        ran.append(message.raw_data)
        time.sleep(0.001)

    given = [Delivery(b"%d" % n, headers={"h": "x"}, key=b"x", topic="x") for n in range(30)]
    run_in_memory(proc, given)
    assert ran == [b"%d" % n for n in range(30)]


def test_a_stop_releases_waiting_messages_in_order():
    """A stop releases all messages that wait for a lane or a limit, in the order of their lanes."""
    proc, started, released = ordering_processor(), threading.Event(), threading.Event()

    @proc.handle_for(Everything(), ordered_by=by_field("k"), concurrency=1)
    def handle(message, context):
        started.set()
        released.wait(10)

    adapter = MemoryAdapter(proc, keyed_bodies(20, 4), ends=False)

    async def stop_after_start():
        serving = asyncio.ensure_future(adapter.serve())
        await asyncio.to_thread(started.wait, 10)
        serving.cancel()
        await asyncio.to_thread(
            wait_until, lambda: len(adapter.settled) == 19, "the waiting messages to be released", 10
        )
        released.set()
        await asyncio.gather(serving, return_exceptions=True)

    asyncio.run(stop_after_start())
    dispositions = [settlement.disposition for settlement in adapter.settled]
    assert (dispositions.count(Disposition.release), dispositions.count(Disposition.ack)) == (19, 1)
    left = [json.loads(d.body) for d in adapter.waiting]
    assert len(left) == 19
    for key in range(4):
        numbers = [one["n"] for one in left if one["k"] == key]
        assert numbers == sorted(numbers)


def test_a_stop_runs_messages_that_can_be_neither_released_nor_filed():
    """When messages can be neither released nor filed, a stop runs the rest of each lane in order."""
    proc = ordering_processor(dlq=None, concurrency=4)
    started, ran = threading.Event(), []

    @proc.handle_for(Everything(), ordered_by=by_field("k"))
    def handle(message, context):
        started.set()
        time.sleep(0.01)
        ran.append(message.get_json()["n"])

    adapter = MemoryAdapter(proc, keyed_bodies(12, 2), ends=False, capabilities=Capabilities(release="none"))

    async def stop_after_start():
        serving = asyncio.ensure_future(adapter.serve())
        await asyncio.to_thread(started.wait, 10)
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)

    asyncio.run(stop_after_start())
    assert sorted(ran) == list(range(12))
    assert [n for n in ran if n % 2] == list(range(1, 12, 2))
    assert [n for n in ran if not n % 2] == list(range(0, 12, 2))
