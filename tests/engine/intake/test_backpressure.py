"""Back-pressure: which lanes are paused while their handlers are slow, and when they are resumed."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from missive.engine.intake import backpressure
from missive.engine.intake.backpressure import Backpressure
from missive.engine.limits import Limits
from missive.engine.runtime import Runtime
from missive.errors import Fatal, Transient
from missive.matchers import Everything
from missive.transport import Capabilities, Delivery
from tests.support.broker import Broker
from tests.support.engine import SMALL_LIMITS, processor, run, stage_of, until

PAUSES = Capabilities(pauses=True)


@pytest.fixture(autouse=True)
def small_limits(monkeypatch):
    """Set a credit of 50 messages and 100 kB, and of 500 messages in total."""
    monkeypatch.setattr(Runtime, "limits", SMALL_LIMITS)


def lanes(count, per_lane, *, first=0):
    """Return deliveries of some lanes: in order within each lane, and of each lane in turn."""
    return [
        Delivery(b'{"n":%d,"k":%d}' % (n, lane), lane=f"p{lane}", position=n)
        for n in range(per_lane)
        for lane in range(first, first + count)
    ]


def block_lane_0(proc):
    """Add a handler that blocks on messages of lane `p0` until the returned event is set."""
    go_on = threading.Event()

    @proc.handle_for(Everything())
    def handle(message, context):
        if message.get_json()["k"] == 0:
            go_on.wait(10)

    return go_on


def block(proc):
    """Add a handler that blocks on every message until the returned event is set."""
    go_on = threading.Event()
    proc.add_handler(Everything(), lambda message, context: go_on.wait(10))
    return go_on


# Pausing and resuming


def test_a_slow_lane_is_paused_and_resumed():
    """A lane is paused when it holds more than its share, and resumed when it holds half; no message is lost."""
    proc = processor()
    go_on = block_lane_0(proc)
    broker = Broker(proc, lanes(3, 1000), capabilities=PAUSES, per_fetch=10)
    held = []

    async def meanwhile(engine):
        await until(lambda: sum(b'"k":0' not in body for body in broker.acked) == 2000, "the other lanes to be handled")
        held.append(sum(delivery.lane == "p0" for delivery in broker.held))
        assert broker.sessions[0].paused == {"p0"}
        go_on.set()

    _, report = run(broker, meanwhile=meanwhile)
    assert report.total_handled == 3000
    # The share is 500 divided by four: three known lanes and one expected. The last fetch may exceed the share.
    assert 125 < held[0] <= 150
    calls = [call for call, lanes_of_call in broker.lane_calls if "p0" in lanes_of_call]
    assert calls == ["pause", "resume"] * (len(calls) // 2)
    assert broker.sessions[0].paused == set()
    for key in range(3):
        assert [body for body in broker.acked if body.endswith(b'"k":%d}' % key)] == [
            delivery.body for delivery in lanes(1, 1000, first=key)
        ]


def test_a_lane_of_large_messages_is_paused():
    """The share of a lane counts bytes too."""
    proc, go_on = processor(), threading.Event()

    @proc.handle_for(Everything())
    def handle(message, context):
        if context._running.delivery.lane == "large":
            go_on.wait(10)

    large = [Delivery(b'{"text":"%s"}' % (b"x" * 10_000), lane="large", position=n) for n in range(30)]
    small = lanes(1, 300)
    deliveries = [one for n in range(300) for one in (*large[n : n + 1], small[n])]
    broker = Broker(proc, deliveries, capabilities=PAUSES, per_fetch=2)

    async def meanwhile(engine):
        await until(lambda: sum(len(body) < 100 for body in broker.acked) == 300, "the small messages to be handled")
        assert broker.sessions[0].paused == {"large"}
        go_on.set()

    assert run(broker, meanwhile=meanwhile).report.total_handled == 330


def test_no_lane_is_paused_while_handlers_keep_up():
    """No lane is paused while handlers keep up."""
    proc = processor()
    proc.add_handler(Everything(), lambda message, context: None)
    broker = Broker(proc, lanes(3, 100), capabilities=PAUSES, per_fetch=10)
    assert run(broker).report.total_handled == 300
    assert broker.lane_calls == []


def test_no_lane_is_paused_by_a_transport_without_pauses():
    """A session is not asked to pause lanes when its capabilities exclude pauses."""
    proc = processor()
    go_on = block(proc)
    broker = Broker(proc, lanes(2, 400), per_fetch=10)

    async def meanwhile(engine):
        await until(lambda: len(broker.held) >= 500, "500 messages to be held")
        go_on.set()

    run(broker, meanwhile=meanwhile)
    assert broker.lane_calls == []


def test_a_lane_is_paused_before_it_uses_all_credit():
    """A lane is paused in time when fetches return at once, as they do from a buffer of the client."""
    proc = processor()
    go_on = block_lane_0(proc)

    class Buffered(Broker):
        async def connect(self, host):
            session = await super().connect(host)
            fetch = session.fetch

            async def fetch_at_once(credit):
                found = session._take(credit)
                if not found:
                    return await fetch(credit)
                self.held.update(dict.fromkeys(found, (session, 1e9)))
                session._given.update(found)
                return found

            session.fetch = fetch_at_once
            return session

    deliveries = [Delivery(b'{"k":0}', lane="p0") for _ in range(900)]
    deliveries += [Delivery(b'{"k":1}', lane="p1") for _ in range(100)]
    broker = Buffered(proc, deliveries, capabilities=PAUSES, per_fetch=10)

    async def meanwhile(engine):
        try:
            await until(lambda: sum(b'"k":1' in body for body in broker.acked) == 100, "the other lane", seconds=3)
        finally:
            go_on.set()

    run(broker, meanwhile=meanwhile)


def test_a_new_session_pauses_its_slow_lanes():
    """After a session is lost, the next session pauses the slow lane again, and all messages are handled."""
    proc = processor()
    go_on = block_lane_0(proc)
    broker = Broker(proc, lanes(2, 800), capabilities=PAUSES, per_fetch=10)

    async def meanwhile(engine):
        await until(lambda: broker.sessions[0].paused == {"p0"}, "the lane to be paused")
        broker.sessions[0].die()
        await until(
            lambda: len(broker.sessions) == 2 and broker.sessions[1].paused == {"p0"}, "the new session to pause it"
        )
        await until(lambda: sum(b'"k":1' in body for body in broker.acked) >= 800, "the other lane to be handled")
        go_on.set()

    _, report = run(broker, meanwhile=meanwhile)
    assert report.redelivered > 0
    assert {delivery.body for delivery in lanes(2, 800)} == set(broker.acked)
    assert broker.sessions[1].paused == set()


def test_empty_lanes_are_forgotten():
    """Lanes without messages leave no entry behind, and a lane of one message is not paused."""
    proc = processor()
    proc.add_handler(Everything(), lambda message, context: None)
    deliveries = [Delivery(b"{}", lane=f"p{n}") for n in range(3000)]
    broker = Broker(proc, deliveries, capabilities=PAUSES, ends=False)
    left = []

    async def meanwhile(engine):
        await until(lambda: len(broker.acked) == 3000, "all messages to be settled")
        left.extend(stage_of(engine, Backpressure)._items)
        engine.stop()

    run(broker, meanwhile=meanwhile)
    assert (left, broker.lane_calls) == ([], [])


# Sessions that fail to pause or resume


@pytest.mark.parametrize(
    "error", [Transient("not now"), RuntimeError("an adapter's mistake")], ids=["transient", "own"]
)
def test_a_failed_pause_is_tried_again(error):
    """A pause that raises is tried again after the next fetch, and no message is lost."""
    proc, tries = processor(), []
    go_on = block_lane_0(proc)
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


def test_a_failed_resume_is_tried_again():
    """A resume that raises is tried again, even when no message is fetched or settled."""
    proc, tries = processor(), []
    go_on = block(proc)
    broker = Broker(proc, [Delivery(b'{"k":0}', lane="p0") for _ in range(900)], capabilities=PAUSES, per_fetch=10)

    def resume(session, lanes):
        tries.append(lanes)
        if len(tries) < 4:
            raise RuntimeError("an adapter's mistake")

    broker.intercept["resume"] = resume

    async def meanwhile(engine):
        await until(lambda: broker.lane_calls, "the lane to be paused")
        go_on.set()

    run(broker, meanwhile=meanwhile, seconds=6)


def test_a_fatal_pause_stops_the_processor():
    """A pause that raises Fatal stops the processor, and unstarted messages are released."""
    proc = processor()
    go_on = block(proc)
    broker = Broker(proc, lanes(1, 800), capabilities=PAUSES, per_fetch=10)

    def pause(session, paused):
        go_on.set()
        raise Fatal("not allowed to pause")

    broker.intercept["pause"] = pause
    with pytest.raises(Fatal, match="not allowed to pause"):
        run(broker)
    assert len(broker.acked) + len(broker.released) >= 250
    assert broker.held == {}


def test_a_pause_that_hangs_does_not_stop_fetching(monkeypatch):
    """Fetching continues while a client does not answer a pause."""
    monkeypatch.setattr(Runtime, "limits", Limits(50, 100_000, 100))
    monkeypatch.setattr(backpressure, "_ANSWER_SECONDS", 0.1)
    proc = processor()
    proc.add_handler(Everything(), lambda message, context: time.sleep(0.001))
    deliveries = [Delivery(b"{}", lane=f"p{n % 2}") for n in range(400)]
    broker = Broker(proc, deliveries, capabilities=PAUSES, per_fetch=50)
    broker.intercept["pause"] = lambda session, lanes: asyncio.sleep(60)
    _, report = run(broker, seconds=8)
    assert report.total_handled == 400
