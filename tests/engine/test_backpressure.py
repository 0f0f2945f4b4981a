"""Backpressure: how much is fetched, what does not count against it, and which lanes are paused meanwhile."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from missive import JSONMessage, Processor
from missive.engine.limits import Limits
from missive.engine.runtime import Runtime
from missive.errors import Fatal, Transient
from missive.matchers import Everything, Field, by_field
from missive.transport import Capabilities, Delivery
from tests.support.broker import Broker
from tests.support.engine import run, source_of, until

PAUSES = Capabilities(pauses=True)


def processor(**settings):
    settings = {"name": "app", "dlq": {}, "concurrency": 4, "on_overlap": "ignore", **settings}
    return Processor(JSONMessage, **settings)


def bodies(count, **fields):
    more = "".join(f',"{name}":{value}' for name, value in fields.items()).encode()
    return [b'{"n":%d%s}' % (n, more) for n in range(count)]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Credits of 50 messages and 100 kB, and of 500 messages in all."""
    monkeypatch.setattr(Runtime, "limits", Limits(50, 100_000, 500))


async def settled_for(seconds, watched):
    """Wait until a number has not changed for some time; returns it."""
    last, since = watched(), time.monotonic()
    while time.monotonic() - since < seconds:
        await asyncio.sleep(0.01)
        if watched() != last:
            last, since = watched(), time.monotonic()
    return last


# Credit


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_stalled_handler_holds_no_more_than_the_credit(is_async):
    """While nothing is handled, no more messages are fetched than the credit, and all are once it goes on."""
    proc, go_on = processor(), threading.Event()

    def handle(message, context):
        go_on.wait(10)

    async def handle_async(message, context):
        await until(go_on.is_set, "to go on")

    proc.add_handler(Everything(), handle_async if is_async else handle)
    broker = Broker(proc, bodies(300), per_fetch=7)
    held = []

    async def meanwhile(engine):
        await until(lambda: len(broker.held) >= 50, "the credit to be used")
        held.append(await settled_for(0.1, lambda: len(broker.held)))
        go_on.set()

    _, report = run(broker, meanwhile=meanwhile)
    assert (held, broker.peak_held) == ([50], 50)
    assert report.total_handled == 300


def test_big_messages_are_fewer():
    """The credit is in bytes too: no message is fetched once it is used up, and the last may go over."""
    proc, go_on = processor(), threading.Event()
    proc.add_handler(Everything(), lambda message, context: go_on.wait(10))
    big = [b'{"n":%d,"text":"%s"}' % (n, b"x" * 30_000) for n in range(20)]
    broker = Broker(proc, big, per_fetch=1)
    held = []

    async def meanwhile(engine):
        await until(lambda: len(broker.held) >= 3, "the credit to be used")
        held.append(await settled_for(0.1, lambda: len(broker.held)))
        go_on.set()

    _, report = run(broker, meanwhile=meanwhile)
    assert (held, report.total_handled) == ([4], 20)


def test_messages_that_wait_for_their_lane_count_in_bytes():
    """However many wait for something of their own, their bytes are held, and count."""
    proc, go_on = processor(), threading.Event()
    proc.add_handler(Everything(), lambda message, context: go_on.wait(10), ordered_by=lambda message: 0)
    broker = Broker(proc, [b'{"text":"%s"}' % (b"x" * 10_000)] * 100, per_fetch=1)
    held = []

    async def meanwhile(engine):
        await until(lambda: len(broker.held) >= 10, "the credit to be used")
        held.append(await settled_for(0.1, lambda: len(broker.held)))
        go_on.set()

    _, report = run(broker, meanwhile=meanwhile)
    assert (held, report.total_handled) == ([10], 100)


def test_sources_have_credits_of_their_own():
    """A source whose credit is used up does not keep another from being fetched and handled."""
    proc, go_on = processor(concurrency=100), threading.Event()

    @proc.handle_for(Field("slow", 1))
    async def slow(message, context):
        await until(go_on.is_set, "to go on")

    proc.add_handler(Field("slow", 0), lambda message, context: None)
    stalled, other = Broker(proc, bodies(100, slow=1)), Broker(proc, bodies(300, slow=0))

    async def meanwhile(engine):
        await until(lambda: len(other.acked) == 300, "the other source to be handled")
        assert len(stalled.held) == 50
        go_on.set()

    _, report = run(stalled, other, meanwhile=meanwhile)
    assert report.total_handled == 400


# Who waits for something of his own


def terms(name):
    return {
        "key": {"ordered_by": by_field("k")},
        "concurrency": {"concurrency": 1},
        "rate": {"rate_limit": "1/h"},
    }[name]


@pytest.mark.parametrize("why", ["key", "concurrency", "rate", "retry", "batch", "lane"])
def test_others_are_not_starved(why):
    """What waits for its key, its handler's limits, another attempt or its batch does not keep others from coming."""
    proc, go_on, done = processor(), threading.Event(), []

    def wait(message, context):
        go_on.wait(10)

    if why == "retry":
        proc.add_handler(Field("k", 0), lambda message, context: context.retry(600))
    elif why == "batch":
        proc.add_batch_handler(Field("k", 0), lambda batch: None, size=1000, wait=600)
    elif why == "lane":
        proc.add_handler(Field("k", 0), wait)
    else:
        proc.add_handler(Field("k", 0), wait, **terms(why))
    proc.add_handler(Field("k", 1), lambda message, context: done.append(message), name="other")
    given = [Delivery(body, lane="p0" if why == "lane" else None) for body in bodies(300, k=0)]
    given += [Delivery(body) for body in bodies(200, k=1)]
    broker = Broker(proc, given, ends=False, per_fetch=20)

    async def meanwhile(engine):
        await until(lambda: broker.acked.count(b'{"n":199,"k":1}'), "the others to be handled")
        source = source_of(engine)
        # At most one that runs, and those of its lane that go with it; all else waits for something of its own.
        assert source.items - source.waiting <= 20
        go_on.set()
        engine.stop()

    run(broker, meanwhile=meanwhile)
    assert len(done) == 200


@pytest.mark.parametrize("why", ["key", "concurrency", "rate"])
def test_there_is_a_most_in_all(why):
    """No more than `Limits.total_items` messages are held, however many wait; all are handled in the end."""
    proc, go_on, handled = processor(), threading.Event(), []

    @proc.handle_for(Everything(), **terms(why))
    def handle(message, context):
        handled.append(message)
        go_on.wait(10)

    broker = Broker(proc, bodies(800, k=0), per_fetch=30, ends=why != "rate")
    held = []

    async def meanwhile(engine):
        await until(lambda: len(broker.held) >= 500, "the most to be held")
        held.append(await settled_for(0.1, lambda: len(broker.held)))
        go_on.set()
        if why == "rate":
            engine.stop()

    _, report = run(broker, meanwhile=meanwhile)
    assert (held, broker.peak_held) == ([500], 500)
    assert report.total_handled == (1 if why == "rate" else 800)


def test_the_credit_is_of_what_could_run():
    """Behind a narrow handler comes the whole credit of another: what could not run anyway leaves it as it is."""
    proc, go_on = processor(), threading.Event()
    proc.add_handler(Field("k", 0), lambda message, context: go_on.wait(10), concurrency=1)
    proc.add_handler(Field("k", 1), lambda message, context: go_on.wait(10), name="other")
    broker = Broker(proc, [*bodies(100, k=0), *bodies(300, k=1)], per_fetch=25)
    held = []

    async def meanwhile(engine):
        await until(lambda: len(broker.held) >= 149, "both credits to be used")
        held.append(await settled_for(0.1, lambda: len(broker.held)))
        go_on.set()

    _, report = run(broker, meanwhile=meanwhile)
    # All of the narrow handler, of which one runs and counts; and with that one the other's are 50.
    assert held == [149]
    assert report.total_handled == 400


@pytest.mark.parametrize("how", ["stop", "lost"])
def test_the_books_close_where_everything_waits(how):
    """Whatever waits at the end, for whatever, everything is given back or comes again, and the books are right."""
    proc, go_on = processor(concurrency=12), threading.Event()
    key = by_field("k")

    @proc.handle_for(Field("h", 0), ordered_by=key)
    def slow(message, context):
        go_on.wait(10)

    @proc.handle_for(Field("h", 1), ordered_by=key)
    def retried(message, context):
        if context.attempt == 1:
            context.retry(600)

    proc.add_batch_handler(Field("h", 2), lambda batch: None, size=1000, wait=600, ordered_by=key)
    proc.add_handler(Field("h", 3), lambda message, context: None, rate_limit="1/h", name="h3")
    proc.add_batch_handler(Field("h", 4), lambda batch: None, size=3, rate_limit="4/h", wait=0.01, name="h4")
    proc.add_handler(Field("h", 5), lambda message, context: None, name="h5")
    given = [body for n in range(40) for h in range(6) for body in bodies(1, h=h, k=n % 7, m=n)]
    broker = Broker(proc, given, ends=False, per_fetch=40)

    async def meanwhile(engine):
        await until(lambda: len(broker.acked) >= 44, "what can be handled")
        await settled_for(0.1, lambda: len(broker.acked) + len(broker.held))
        if how == "lost":
            go_on.set()
            broker.sessions[0].die()
            await until(lambda: len(broker.sessions) == 2 and len(broker.held) > 20, "it to come again")
        engine.stop()
        await until(lambda: engine._state.draining, "the drain")
        go_on.set()

    run(broker, meanwhile=meanwhile)
    assert broker.held == {}
    left = {delivery.body for delivery in broker.ready}
    assert left | set(broker.acked) == set(given)


# Pausing lanes


def lanes(count, per_lane, *, first=0):
    """Return deliveries of lanes, one after the other within each, the lanes in turn."""
    return [
        Delivery(b'{"n":%d,"k":%d}' % (n, lane), lane=f"p{lane}", position=n)
        for n in range(per_lane)
        for lane in range(first, first + count)
    ]


def test_a_slow_lane_is_paused_and_resumed():
    """A lane that holds more than its share is paused, and resumed when it holds half of it; nothing is lost."""
    proc, go_on = processor(), threading.Event()

    @proc.handle_for(Everything())
    def handle(message, context):
        if message.get_json()["k"] == 0:
            go_on.wait(10)

    broker = Broker(proc, lanes(3, 1000), capabilities=PAUSES, per_fetch=10)
    most = []

    async def meanwhile(engine):
        await until(lambda: sum(b'"k":0' not in body for body in broker.acked) == 2000, "the other lanes to be through")
        most.append(sum(delivery.lane == "p0" for delivery in broker.held))
        assert broker.sessions[0].paused == {"p0"}
        go_on.set()

    _, report = run(broker, meanwhile=meanwhile)
    assert report.total_handled == 3000
    # Its share of 500, where three lanes are known and one is expected, and what one fetch brought beyond.
    assert 125 < most[0] <= 150
    told = [verb for verb, lanes_told in broker.lane_calls if "p0" in lanes_told]
    assert told == ["pause", "resume"] * (len(told) // 2)
    assert broker.sessions[0].paused == set()
    for key in range(3):
        assert [body for body in broker.acked if body.endswith(b'"k":%d}' % key)] == [
            delivery.body for delivery in lanes(1, 1000, first=key)
        ]


def test_a_lane_of_big_messages_is_paused():
    """The share is in bytes too."""
    proc, go_on = processor(), threading.Event()

    @proc.handle_for(Everything())
    def handle(message, context):
        if context._running.delivery.lane == "big":
            go_on.wait(10)

    big = [Delivery(b'{"text":"%s"}' % (b"x" * 10_000), lane="big", position=n) for n in range(30)]
    small = lanes(1, 300)
    given = [one for n in range(300) for one in (*big[n : n + 1], small[n])]
    broker = Broker(proc, given, capabilities=PAUSES, per_fetch=2)

    async def meanwhile(engine):
        await until(lambda: sum(len(body) < 100 for body in broker.acked) == 300, "the small ones to be through")
        assert broker.sessions[0].paused == {"big"}
        go_on.set()

    assert run(broker, meanwhile=meanwhile).report.total_handled == 330


def test_no_lane_is_paused_without_need():
    """Where handlers keep up nothing is paused, nor where a transport cannot."""
    proc = processor()
    proc.add_handler(Everything(), lambda message, context: None)
    broker = Broker(proc, lanes(3, 100), capabilities=PAUSES, per_fetch=10)
    assert run(broker).report.total_handled == 300
    assert broker.lane_calls == []
    proc, go_on = processor(), threading.Event()
    proc.add_handler(Everything(), lambda message, context: go_on.wait(10))
    broker = Broker(proc, lanes(2, 400), per_fetch=10)

    async def meanwhile(engine):
        await until(lambda: len(broker.held) >= 500, "the most to be held")
        go_on.set()

    run(broker, meanwhile=meanwhile)
    assert broker.lane_calls == []


def test_a_session_lost_while_a_lane_is_paused():
    """A new session knows nothing of a pause of the last: the lane is paused anew, and in the end all are handled."""
    proc, go_on = processor(), threading.Event()

    @proc.handle_for(Everything())
    def handle(message, context):
        if message.get_json()["k"] == 0:
            go_on.wait(10)

    broker = Broker(proc, lanes(2, 800), capabilities=PAUSES, per_fetch=10)

    async def meanwhile(engine):
        await until(lambda: broker.sessions[0].paused == {"p0"}, "the lane to be paused")
        broker.sessions[0].die()
        await until(lambda: len(broker.sessions) == 2 and broker.sessions[1].paused == {"p0"}, "it to be paused again")
        await until(lambda: sum(b'"k":1' in body for body in broker.acked) >= 800, "the other lane to be through")
        go_on.set()

    _, report = run(broker, meanwhile=meanwhile)
    assert report.redelivered > 0
    assert {delivery.body for delivery in lanes(2, 800)} == set(broker.acked)
    assert broker.sessions[1].paused == set()


@pytest.mark.parametrize(
    "error", [Transient("not now"), RuntimeError("an adapter's mistake")], ids=["transient", "own"]
)
def test_pausing_that_fails(error):
    """A pause that fails is tried again with what comes next, and nothing is lost; an adapter's mistake too."""
    proc, go_on, tries = processor(), threading.Event(), []

    @proc.handle_for(Everything())
    def handle(message, context):
        if message.get_json()["k"] == 0:
            go_on.wait(10)

    broker = Broker(proc, lanes(2, 800), capabilities=PAUSES, per_fetch=10)

    def pause(session, paused):
        tries.append(paused)
        if len(tries) == 1:
            raise error

    broker.intercept["pause"] = pause

    async def meanwhile(engine):
        await until(lambda: "p0" in broker.sessions[0].paused, "the lane to be paused")
        go_on.set()

    _, report = run(broker, meanwhile=meanwhile)
    assert len(tries) >= 2
    assert report.total_handled == 1600


def test_a_fatal_pause_stops():
    """What says that nothing will help stops the processor, and what was not started is given back."""
    proc, go_on = processor(), threading.Event()
    proc.add_handler(Everything(), lambda message, context: go_on.wait(10))
    broker = Broker(proc, lanes(1, 800), capabilities=PAUSES, per_fetch=10)

    def pause(session, paused):
        go_on.set()
        raise Fatal("not allowed to pause")

    broker.intercept["pause"] = pause
    with pytest.raises(Fatal, match="not allowed to pause"):
        run(broker)
    assert len(broker.acked) + len(broker.released) >= 250
    assert broker.held == {}
