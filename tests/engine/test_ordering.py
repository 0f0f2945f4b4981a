"""Order by key, and the concurrency of one handler: what waits for what, and what does not."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import defaultdict

import pytest

from missive import JSONMessage, Processor, RawMessage, RegistrationError
from missive.engine.runner import execute
from missive.matchers import Everything, Field, Topic, by_field, by_header, by_key
from missive.testing import MemoryAdapter
from missive.transport import Delivery, Disposition
from tests.conftest import wait_until

CANARY = "canary-4711"


class Log:
    """Notes what ran, in which order, and how much at once."""

    def __init__(self):
        self.by_key = defaultdict(list)
        self.most = self._now = 0
        self._running = defaultdict(int)
        self._lock = threading.Lock()
        self.overlapped = False

    def enter(self, message):
        """Note a start."""
        content = message.get_json()
        with self._lock:
            self.by_key[content.get("k")].append(content["n"])
            self._running[content.get("k")] += 1
            self.overlapped = self.overlapped or self._running[content.get("k")] > 1
            self._now += 1
            self.most = max(self.most, self._now)

    def leave(self, message):
        """Note an end."""
        with self._lock:
            self._running[message.get_json().get("k")] -= 1
            self._now -= 1


def handlers(log, seconds=0.001):
    """Return a sync and an async handler that take a moment."""

    def handle(message, context):
        log.enter(message)
        time.sleep(seconds)
        log.leave(message)

    async def handle_async(message, context):
        log.enter(message)
        await asyncio.sleep(seconds)
        log.leave(message)

    return {"sync": handle, "async": handle_async}


def processor(**settings):
    return Processor(JSONMessage, **{"name": "app", "dlq": {}, "concurrency": 8, **settings})


def bodies(count, keys):
    return [json.dumps({"n": n, "k": n % keys}).encode() for n in range(count)]


def run(proc, deliveries, **settings):
    adapter = MemoryAdapter(proc, deliveries, **settings)
    (report,) = execute([adapter])
    return adapter, report


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_one_key_runs_in_order(kind):
    """Messages with one key run one after the other, as they came; those of other keys run beside them."""
    proc, log = processor(), Log()
    proc.add_handler(Everything(), handlers(log)[kind], ordered_by=by_field("k"))
    _, report = run(proc, bodies(300, 7))
    assert report.total_handled == 300
    assert {key: list(range(key, 300, 7)) for key in range(7)} == log.by_key
    assert not log.overlapped
    assert log.most > 1


@pytest.mark.parametrize("ordered", [True, False])
def test_different_keys_do_not_wait_for_each_other(ordered):
    """Two keys run at once, which one key never does: each waits for the other in here, or in vain."""
    proc, barrier = processor(), threading.Barrier(2)
    met = []

    @proc.handle_for(Everything(), ordered_by=by_field("k"))
    def meet(message, context):
        try:
            barrier.wait(5 if ordered else 0.2)
        except threading.BrokenBarrierError:
            return
        met.append(message)

    run(proc, bodies(2, 2 if ordered else 1))
    assert len(met) == (2 if ordered else 0)


def test_no_key_is_no_order():
    """Messages whose key is None run as they come."""
    proc, log = processor(), Log()
    proc.add_handler(Everything(), handlers(log, 0.05)["sync"], ordered_by=by_field("missing"))
    run(proc, bodies(8, 1))
    assert log.most > 1


@pytest.mark.parametrize(("other", "overlap"), [(by_field("k"), False), (by_field("j"), True)])
def test_handlers_with_an_equal_key_share_lanes(other, overlap):
    """Two handlers that are ordered by the same are in order with each other."""
    proc, log = processor(on_overlap="ignore"), Log()
    handle = handlers(log, 0.02)["sync"]
    proc.add_handler(Field("n", 0), handle, ordered_by=by_field("k"))
    proc.add_handler(Field("n", 1), handle, ordered_by=other, name="other")
    run(proc, [b'{"n":0,"k":1,"j":1}', b'{"n":1,"k":1,"j":1}'])
    assert log.overlapped is overlap


@pytest.mark.parametrize(
    ("policy", "seen"), [("block", [(0, 1), (0, 2), (1, 1), (2, 1)]), ("pass", [(0, 1), (1, 1), (2, 1), (0, 2)])]
)
def test_what_a_lane_does_while_one_is_retried(policy, seen):
    """With "block" the rest of a lane waits for the retry, with "pass" it goes on; order is kept otherwise."""
    proc, ran = processor(), []

    @proc.handle_for(Everything(), ordered_by=by_field("k"), on_lane_retry=policy)
    def handle(message, context):
        number = message.get_json()["n"]
        ran.append((number, context.attempt))
        if number == 0 and context.attempt == 1:
            context.retry(after=0.15)

    _, report = run(proc, bodies(3, 1))
    assert (ran, report.total_handled) == (seen, 3)


def test_a_dead_letter_lets_its_lane_go_on():
    """After one that fails, the next of its key runs."""
    proc, ran = processor(), []

    @proc.handle_for(Everything(), ordered_by=by_field("k"))
    async def handle(message, context):
        ran.append(message.get_json()["n"])
        if ran[-1] == 0:
            raise ValueError

    _, report = run(proc, bodies(3, 1))
    assert (ran, report.total_dead, report.total_handled) == ([0, 1, 2], 1, 2)


def test_order_by_key_replaces_the_transports_own():
    """With `ordered_by`, one lane of the transport runs at once where keys differ."""
    proc, log = processor(), Log()
    proc.add_handler(Everything(), handlers(log, 0.02)["sync"], ordered_by=by_field("k"))
    deliveries = [Delivery(body, lane="p0", position=n) for n, body in enumerate(bodies(40, 4))]
    run(proc, deliveries)
    assert {key: list(range(key, 40, 4)) for key in range(4)} == log.by_key
    assert log.most > 1


def test_the_transports_lanes_are_kept_in_order():
    """Without `ordered_by`, what the transport says is one lane runs one after the other."""
    proc, log = processor(), Log()
    proc.add_handler(Everything(), handlers(log)["async"])
    deliveries = [Delivery(body, lane=f"p{n % 3}", position=n) for n, body in enumerate(bodies(60, 3))]
    run(proc, deliveries)
    assert {key: list(range(key, 60, 3)) for key in range(3)} == log.by_key
    assert not log.overlapped


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_handlers_own_concurrency(kind):
    """A handler gets no more at once than its own limit, and the others use the rest."""
    proc, narrow, wide = processor(on_overlap="ignore"), Log(), Log()
    proc.add_handler(Field("k", 0), handlers(narrow, 0.01)[kind], concurrency=2)
    proc.add_handler(Field("k", 1), handlers(wide, 0.01)[kind], name="wide")
    _, report = run(proc, bodies(80, 2))
    assert report.total_handled == 80
    assert narrow.most == 2
    assert wide.most > 2
    assert narrow.by_key[0] == list(range(0, 80, 2))


def test_a_limit_and_order_together():
    """Heads of lanes wait for their handler's limit, across sync and async handlers, and none is forgotten."""
    proc, log = processor(on_overlap="ignore"), Log()
    for number, handler in enumerate(handlers(log).values()):
        proc.add_handler(
            Field("h", number), handler, name=f"h{number}", concurrency=1 + number, ordered_by=by_field("k")
        )
    given = [json.dumps({"n": n, "k": n % 5, "h": n % 2}).encode() for n in range(200)]
    _, report = run(proc, given)
    assert report.total_handled == 200
    assert {key: list(range(key, 200, 5)) for key in range(5)} == log.by_key
    assert not log.overlapped
    assert log.most <= 3


def failing(message):
    raise ValueError(CANARY)


@pytest.mark.parametrize(
    ("key", "reason", "error"),
    [
        (failing, "failed", "ValueError"),
        (lambda message: [message.raw_data], "failed", "TypeError"),
        (by_field("k"), "unreadable", "DecodingError"),
    ],
    ids=["raises", "not hashable", "not readable"],
)
def test_a_key_that_cannot_be_had(key, reason, error):
    """A message whose key raises, cannot be hashed or cannot be decoded is a dead letter, in a test client too."""
    box = {}
    proc = processor(dlq=box)
    proc.add_handler(Topic("t"), lambda message, context: None, ordered_by=key)
    _, report = run(proc, [Delivery(b"{", topic="t")])
    assert dict(report.dead) == {reason: 1}
    with proc.test_client() as client:
        result = client.send(JSONMessage(b"{", topic="t"))
        assert (result.outcome, result.reason, type(result.exception).__name__) == ("dead_lettered", reason, error)


async def later(message):
    return message.key


class Unhashable:
    """A key that is equal by value, and has no hash."""

    def __eq__(self, other):
        return True

    __hash__ = None

    def __call__(self, message):
        return 1


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"ordered_by": "k"}, r"ordered_by= .* must take a message .*\. For a field of that name, use by_field\('k'\)"),
        ({"ordered_by": 1}, "ordered_by= .* must take a message .*; it is a int"),
        ({"ordered_by": lambda: 1}, "ordered_by= .* must take a message .*; it takes"),
        ({"ordered_by": by_field}, r"by_field is a class\. Call it, as in by_field\('customer'\)"),
        ({"ordered_by": later}, "return its key at once; it is async"),
        ({"ordered_by": Unhashable()}, "must have a hash.* a Unhashable has none"),
        ({"on_lane_retry": []}, 'on_lane_retry= must be "block", "park" or "pass"'),
        ({"ordered_by": by_field("k")}, r"by_field\('k'\) \(for .*\) reads a StructuredMessage"),
        ({"on_lane_retry": "wait"}, 'on_lane_retry= must be "block", "park" or "pass"'),
        ({"concurrency": 0}, "concurrency= must be a whole number from 1"),
        ({"concurrency": True}, "concurrency= must be a whole number from 1"),
    ],
)
def test_what_cannot_be_declared(settings, complaint):
    """A key that takes no message or looks into a body that is none, and limits that are none, are refused at once."""
    proc = Processor(RawMessage)
    with pytest.raises(RegistrationError, match=complaint):
        proc.add_handler(Everything(), lambda message, context: None, **settings)
    assert proc.routes() == ()


@pytest.mark.parametrize("key", [by_header("h"), by_key, lambda message: message.topic])
def test_other_keys(key):
    """A header, the transport's key, or any callable orders."""
    proc = Processor(RawMessage, name="app", concurrency=4, dlq={})
    ran = []

    @proc.handle_for(Everything(), ordered_by=key)
    def handle(message, context):
        ran.append(message.raw_data)
        time.sleep(0.001)

    given = [Delivery(b"%d" % n, headers={"h": "x"}, key=b"x", topic="x") for n in range(30)]
    run(proc, given)
    assert ran == [b"%d" % n for n in range(30)]


def test_a_stop_gives_lanes_back_in_order():
    """What waits in a lane or for a limit when processing stops is given back unhandled, all of it."""
    proc, started, released = processor(), threading.Event(), threading.Event()

    @proc.handle_for(Everything(), ordered_by=by_field("k"), concurrency=1)
    def handle(message, context):
        started.set()
        released.wait(10)

    adapter = MemoryAdapter(proc, bodies(20, 4), ends=False)

    async def stop_soon():
        serving = asyncio.ensure_future(adapter.serve())
        await asyncio.to_thread(started.wait, 10)
        serving.cancel()
        await asyncio.to_thread(
            wait_until, lambda: len(adapter.settled) == 19, "the unstarted ones to be given back", 10
        )
        released.set()
        await asyncio.gather(serving, return_exceptions=True)

    asyncio.run(stop_soon())
    verbs = [item.disposition for item in adapter.settled]
    assert (verbs.count(Disposition.release), verbs.count(Disposition.ack)) == (19, 1)
    left = [json.loads(d.body) for d in adapter.waiting]
    assert len(left) == 19
    for key in range(4):
        numbers = [one["n"] for one in left if one["k"] == key]
        assert numbers == sorted(numbers)


def test_a_stop_without_a_place_for_the_rest_keeps_order():
    """Where nothing can be given back or filed, the rest of a lane is run, in order."""
    from missive.transport import Capabilities

    proc = processor(dlq=None, concurrency=4)
    started, ran = threading.Event(), []

    @proc.handle_for(Everything(), ordered_by=by_field("k"))
    def handle(message, context):
        started.set()
        time.sleep(0.01)
        ran.append(message.get_json()["n"])

    adapter = MemoryAdapter(proc, bodies(12, 2), ends=False, capabilities=Capabilities(release="none"))

    async def stop_soon():
        serving = asyncio.ensure_future(adapter.serve())
        await asyncio.to_thread(started.wait, 10)
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)

    asyncio.run(stop_soon())
    assert sorted(ran) == list(range(12))
    assert [n for n in ran if n % 2] == list(range(1, 12, 2))
    assert [n for n in ran if not n % 2] == list(range(0, 12, 2))
