"""Rates and concurrencies of handlers and adapters in a run: starts in each window, order, stops and lost sessions."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from missive.matchers import Everything, Field, by_field
from missive.rates import Rate
from missive.testing import MemoryAdapter
from missive.transport import Capabilities, Disposition
from tests.support.broker import Broker
from tests.support.engine import keyed_bodies, processor, run, until


class Starts:
    """The start times of handlers, from the engine and from the clock inside the handler."""

    def __init__(self):
        self.engine: list[float] = []
        self.inside: list[float] = []
        self.order: list[tuple[object, int]] = []

    def note(self, message, context):
        """Record a start."""
        self.inside.append(time.monotonic())
        self.engine.append(context._running.started)
        content = message.get_json()
        self.order.append((content.get("k"), content["n"]))

    def sync(self, message, context):
        """Handle a message in a thread."""
        self.note(message, context)
        time.sleep(0.002)

    async def asynchronous(self, message, context):
        """Handle a message on the loop."""
        self.note(message, context)
        await asyncio.sleep(0.002)

    def respect(self, rate):
        """Return whether no window of the period contains more starts than the rate allows."""
        rate = Rate.parse(rate)
        # The clock inside the handler has a margin, because its thread may be delayed before it reads the clock.
        return _shortest(self.engine, rate.messages) >= rate.seconds - 1e-6 and (
            _shortest(self.inside, rate.messages) >= rate.seconds / 2
        )

    def duration(self):
        """Return the seconds from the first start to the last."""
        return max(self.engine) - min(self.engine)


def _shortest(starts, count):
    """Return the shortest time between a start and the start `count` places later."""
    times = sorted(starts)
    return min((later - earlier for earlier, later in zip(times, times[count:], strict=False)), default=1e9)


@pytest.mark.parametrize("kind", ["sync", "asynchronous"])
@pytest.mark.parametrize("where", ["handler", "adapter"])
def test_a_rate_is_respected_and_used(kind, where):
    """No window contains more starts than the rate, and the run takes little longer than the rate requires."""
    proc, starts, rate = processor(), Starts(), "10/150ms"
    of_handler, of_adapter = (rate, None) if where == "handler" else (None, rate)
    proc.add_handler(Everything(), getattr(starts, kind), rate_limit=of_handler)
    _, report = run(Broker(proc, keyed_bodies(60), rate_limit=of_adapter))
    assert report.total_handled == 60
    assert starts.respect(rate)
    assert starts.duration() < 5 * 0.75
    assert [n for _, n in starts.order] == list(range(60)) or kind == "sync"


@pytest.mark.parametrize("kind", ["sync", "asynchronous"])
def test_each_attempt_counts_against_the_rate(kind):
    """Each attempt of a retried message counts against the rate."""
    proc, starts, rate = processor(), Starts(), "8/100ms"
    handle = getattr(starts, kind)

    def retry_once(worker, context):
        if context.attempt == 1:
            context.retry(0)

    proc.before_handling(retry_once)
    proc.add_handler(Everything(), handle, rate_limit=rate)
    _, report = run(Broker(proc, keyed_bodies(24)))
    assert (len(starts.engine), report.retried, report.total_handled) == (48, 24, 24)
    assert starts.respect(rate)


def test_a_rate_limits_starts_and_not_ends():
    """A rate limits the starts of slow handlers that end together."""
    proc, starts, rate = processor(concurrency=8), Starts(), "4/100ms"

    @proc.handle_for(Everything(), rate_limit=rate)
    def handle(message, context):
        starts.note(message, context)
        time.sleep(0.13)

    _, report = run(Broker(proc, keyed_bodies(24)))
    assert report.total_handled == 24
    assert starts.respect(rate)


def test_a_late_start_counts_when_it_happens():
    """A message that passed the limiter and waited for a busy worker counts from its start."""
    proc, starts, rate = processor(concurrency=1), Starts(), "3/200ms"
    proc.add_handler(Field("k", 0), starts.sync, rate_limit=rate)

    @proc.handle_for(Field("k", 1), name="busy")
    def busy(message, context):
        time.sleep(0.06)

    _, report = run(Broker(proc, keyed_bodies(20, keys=2)))
    assert report.total_handled == 20
    assert starts.respect(rate)


def test_a_rate_does_not_delay_other_handlers():
    """While messages of one handler wait for its rate, later messages of another handler run."""
    proc, slow, fast = processor(concurrency=2), Starts(), Starts()
    proc.add_handler(Field("k", 0), slow.sync, rate_limit="2/400ms")
    proc.add_handler(Field("k", 1), fast.asynchronous, name="fast")
    _, report = run(Broker(proc, [*[b'{"n":0,"k":0}'] * 6, *[b'{"n":0,"k":1}'] * 300]))
    assert report.total_handled == 306
    assert slow.respect("2/400ms")
    assert max(fast.engine) < max(slow.engine)


@pytest.mark.parametrize("terms", [{"concurrency": 1}, {"rate_limit": "60/s"}], ids=str)
def test_messages_that_wait_for_the_rate_of_their_source_do_not_block_a_handler(terms):
    """While messages of one source wait for its rate, the handler's limits have room for another source."""
    proc = processor()
    proc.add_handler(Everything(), lambda message, context: None, **terms)
    slow = Broker(proc, [b'{"n":0}'] * 60, rate_limit="2/s")
    fast = Broker(proc, [b'{"n":1}'] * 30)

    async def meanwhile(engine):
        await until(lambda: slow.held, "the slow source to be fetched first")
        await until(lambda: len(fast.acked) == 30, "the messages of the fast source", seconds=1.5)
        engine.stop()

    run(slow, fast, meanwhile=meanwhile)


def test_the_rates_of_handler_and_adapter_apply_together():
    """The rate of a handler and the rate of its adapter apply together."""
    proc, one, other = processor(), Starts(), Starts()
    proc.add_handler(Field("k", 0), one.sync, rate_limit="5/150ms")
    proc.add_handler(Field("k", 1), other.asynchronous, name="other")
    _, report = run(Broker(proc, keyed_bodies(48, keys=2), rate_limit="12/150ms"))
    both = Starts()
    both.engine, both.inside = one.engine + other.engine, one.inside + other.inside
    assert report.total_handled == 48
    assert one.respect("5/150ms")
    assert both.respect("12/150ms")


def test_each_adapter_has_its_own_rate():
    """The rate of one adapter does not delay messages of another adapter."""
    proc, starts = processor(), {b"0": Starts(), b"1": Starts()}

    @proc.handle_for(Everything())
    def handle(message, context):
        starts[b"%d" % message.get_json()["k"]].note(message, context)

    slow = Broker(proc, [b'{"n":0,"k":0}'] * 8, rate_limit="2/200ms")
    fast = Broker(proc, [b'{"n":0,"k":1}'] * 200)
    _, report = run(slow, fast)
    assert report.total_handled == 208
    assert starts[b"0"].respect("2/200ms")
    assert max(starts[b"1"].engine) < max(starts[b"0"].engine)


@pytest.mark.parametrize("kind", ["sync", "asynchronous"])
def test_keys_stay_in_order_with_a_rate(kind):
    """With a rate, all messages of a key run in order."""
    proc, starts, rate = processor(), Starts(), "12/100ms"
    proc.add_handler(Everything(), getattr(starts, kind), rate_limit=rate, ordered_by=by_field("k"), concurrency=3)
    _, report = run(Broker(proc, keyed_bodies(60, keys=5)))
    assert report.total_handled == 60
    assert starts.respect(rate)
    assert all([n for k, n in starts.order if k == key] == list(range(key, 60, 5)) for key in range(5))


@pytest.mark.parametrize("where", ["handler", "adapter"])
def test_a_stop_releases_messages_that_wait_for_a_rate(where):
    """A stop releases messages that would wait for an hour, at once and unhandled."""
    proc, starts = processor(), Starts()
    of_handler, of_adapter = ("2/h", None) if where == "handler" else (None, "2/h")
    proc.add_handler(Everything(), starts.asynchronous, rate_limit=of_handler, ordered_by=by_field("k"))
    broker = Broker(proc, keyed_bodies(40, keys=20), ends=False, rate_limit=of_adapter)

    async def meanwhile(engine):
        await until(lambda: len(broker.acked) == 2, "the messages that the rate allows")
        engine.stop()

    began = time.monotonic()
    _, report = run(broker, meanwhile=meanwhile)
    assert time.monotonic() - began < 10
    assert (len(starts.engine), len(broker.acked), len(broker.released), report.released) == (2, 2, 38, 38)


def test_a_stop_files_messages_that_cannot_be_released():
    """When the transport cannot release messages, waiting messages become dead letters with the reason `shutdown`."""
    proc, starts = processor(), Starts()
    proc.add_handler(Everything(), starts.sync, rate_limit="1/h")
    adapter = MemoryAdapter(proc, keyed_bodies(5), ends=False, capabilities=Capabilities(release="none"))

    async def meanwhile(engine):
        await until(lambda: len(adapter.settled) == 1, "the messages that the rate allows")
        engine.stop()

    _, report = run(adapter, meanwhile=meanwhile)
    assert dict(report.dead) == {"shutdown": 4}
    assert [settlement.disposition for settlement in adapter.settled] == [Disposition.ack] * 5


def test_redelivered_messages_wait_for_the_rate_again():
    """When a session dies, its waiting messages are redelivered and wait again, and the rate is respected."""
    proc, starts, rate = processor(), Starts(), "5/200ms"
    proc.add_handler(Everything(), starts.sync, rate_limit=rate)
    broker = Broker(proc, keyed_bodies(20))

    async def meanwhile(engine):
        await until(lambda: len(broker.acked) >= 5, "the first messages to be handled")
        broker.sessions[0].die()

    _, report = run(broker, meanwhile=meanwhile)
    assert len(broker.sessions) == 2
    assert report.redelivered >= 5
    assert sorted(set(broker.acked)) == sorted(keyed_bodies(20))
    assert starts.respect(rate)


@pytest.mark.parametrize("where", ["handler", "adapter"])
def test_a_message_that_never_started_does_not_count_against_the_rate(where):
    """A message that passed the limiter and did not start before its session died does not count against the rate."""
    proc, starts, go_on = processor(concurrency=1), Starts(), threading.Event()

    def handle(message, context):
        starts.note(message, context)
        go_on.wait(10)

    of_handler, of_adapter = ("7/h", None) if where == "handler" else (None, "7/h")
    proc.add_handler(Everything(), handle, rate_limit=of_handler, concurrency=4 if of_handler else None)
    broker = Broker(proc, keyed_bodies(6), rate_limit=of_adapter)

    async def meanwhile(engine):
        await until(lambda: starts.engine and len(broker.held) == 6, "the first handler to start")
        broker.sessions[0].die()
        await until(lambda: len(broker.sessions) == 2 and len(broker.held) == 6, "all messages to be redelivered")
        go_on.set()

    run(broker, meanwhile=meanwhile)
    assert len(starts.engine) == 7
    assert sorted(broker.acked) == keyed_bodies(6)


def test_a_concurrency_and_a_rate_apply_together():
    """A handler with a concurrency and a rate exceeds neither."""
    proc, starts, running, most = processor(concurrency=8), Starts(), [], []
    lock = threading.Lock()

    @proc.handle_for(Everything(), rate_limit="6/100ms", concurrency=2)
    def handle(message, context):
        starts.note(message, context)
        with lock:
            running.append(1)
            most.append(len(running))
        time.sleep(0.01)
        with lock:
            running.pop()

    _, report = run(Broker(proc, keyed_bodies(30)))
    assert report.total_handled == 30
    assert max(most) == 2
    assert starts.respect("6/100ms")
