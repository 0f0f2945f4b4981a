"""The credit of a source: how much is fetched, and which messages do not count against the credit."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from missive.engine.limits import DEFAULT
from missive.engine.runtime import Runtime
from missive.matchers import Everything, Field, by_field
from missive.transport import Delivery
from tests.support.broker import Broker
from tests.support.engine import SMALL_LIMITS, bodies, processor, run, source_of, sync_and_async, until


@pytest.fixture(autouse=True)
def small_limits(monkeypatch):
    """Set a credit of 50 messages and 100 kB, and of 500 messages in total."""
    monkeypatch.setattr(Runtime, "limits", SMALL_LIMITS)


async def stable(value, seconds=0.1):
    """Wait until a value has not changed for some seconds, and return it."""
    last, since = value(), time.monotonic()
    while time.monotonic() - since < seconds:
        await asyncio.sleep(0.01)
        if value() != last:
            last, since = value(), time.monotonic()
    return last


def held_when_stable(broker, minimum, go_on):
    """Return a list, and a function that appends the number of held messages when it is stable, and then sets `go_on`.

    Pass the function to `run`.
    """
    held = []

    async def meanwhile(engine):
        await until(lambda: len(broker.held) >= minimum, f"{minimum} messages to be held")
        held.append(await stable(lambda: len(broker.held)))
        go_on.set()

    return held, meanwhile


# The credit


@sync_and_async
def test_a_blocked_handler_holds_at_most_the_credit(is_async):
    """While handlers are blocked, no more messages are fetched than the credit. Afterwards all are handled."""
    proc, go_on = processor(), threading.Event()

    def handle(message, context):
        go_on.wait(10)

    async def handle_async(message, context):
        await until(go_on.is_set, "permission to go on")

    proc.add_handler(Everything(), handle_async if is_async else handle)
    broker = Broker(proc, bodies(300), per_fetch=7)
    held, meanwhile = held_when_stable(broker, 50, go_on)
    _, report = run(broker, meanwhile=meanwhile)
    assert (held, broker.peak_held) == ([50], 50)
    assert report.total_handled == 300


def test_the_credit_counts_bytes():
    """No message is fetched after the bytes of the credit are used up. The last message may exceed them."""
    proc, go_on = processor(), threading.Event()
    proc.add_handler(Everything(), lambda message, context: go_on.wait(10))
    large = [b'{"n":%d,"text":"%s"}' % (n, b"x" * 30_000) for n in range(20)]
    broker = Broker(proc, large, per_fetch=1)
    held, meanwhile = held_when_stable(broker, 3, go_on)
    _, report = run(broker, meanwhile=meanwhile)
    assert (held, report.total_handled) == ([4], 20)


def test_messages_that_wait_for_their_lane_count_in_bytes():
    """Messages that wait in a lane do not count against the number of messages, but against the bytes."""
    proc, go_on = processor(), threading.Event()
    proc.add_handler(Everything(), lambda message, context: go_on.wait(10), ordered_by=lambda message: 0)
    broker = Broker(proc, [b'{"text":"%s"}' % (b"x" * 10_000)] * 100, per_fetch=1)
    held, meanwhile = held_when_stable(broker, 10, go_on)
    _, report = run(broker, meanwhile=meanwhile)
    assert (held, report.total_handled) == ([10], 100)


def test_each_source_has_a_separate_credit():
    """Messages of a source are fetched and handled while the credit of another source is used up."""
    proc, go_on = processor(concurrency=100), threading.Event()

    @proc.handle_for(Field("slow", 1))
    async def slow(message, context):
        await until(go_on.is_set, "permission to go on")

    proc.add_handler(Field("slow", 0), lambda message, context: None)
    blocked, other = Broker(proc, bodies(100, slow=1)), Broker(proc, bodies(300, slow=0))

    async def meanwhile(engine):
        await until(lambda: len(other.acked) == 300, "the messages of the other source")
        assert len(blocked.held) == 50
        go_on.set()

    _, report = run(blocked, other, meanwhile=meanwhile)
    assert report.total_handled == 400


# Waiting messages


TERMS = {
    "key": {"ordered_by": by_field("k")},
    "concurrency": {"concurrency": 1},
    "rate": {"rate_limit": "1/h"},
}
"""Terms of a handler that let its messages wait, by the reason."""


@pytest.mark.parametrize("reason", ["key", "concurrency", "rate", "retry", "batch", "lane"])
def test_waiting_messages_leave_credit_for_others(reason):
    """Messages that wait for their lane, a limit, a retry or a batch leave the credit to other messages."""
    proc, go_on, handled = processor(), threading.Event(), []

    def wait(message, context):
        go_on.wait(10)

    if reason == "retry":
        proc.add_handler(Field("k", 0), lambda message, context: context.retry(600))
    elif reason == "batch":
        proc.add_batch_handler(Field("k", 0), lambda batch: None, size=1000, wait=600)
    elif reason == "lane":
        proc.add_handler(Field("k", 0), wait)
    else:
        proc.add_handler(Field("k", 0), wait, **TERMS[reason])
    proc.add_handler(Field("k", 1), lambda message, context: handled.append(message), name="other")
    deliveries = [Delivery(body, lane="p0" if reason == "lane" else None) for body in bodies(300, k=0)]
    deliveries += [Delivery(body) for body in bodies(200, k=1)]
    broker = Broker(proc, deliveries, ends=False, per_fetch=20)

    async def meanwhile(engine):
        await until(lambda: broker.acked.count(b'{"n":199,"k":1}'), "the other messages to be handled")
        source = source_of(engine)
        # The running message counts, with the rest of the run of its lane. All others wait.
        assert source.items - source.waiting <= 20
        go_on.set()
        engine.stop()

    run(broker, meanwhile=meanwhile)
    assert len(handled) == 200


@pytest.mark.parametrize("reason", ["key", "concurrency", "rate"])
def test_all_messages_together_have_a_limit(reason):
    """A source holds at most `Limits.total_items` messages, waiting ones included. In the end all are handled."""
    proc, go_on, handled = processor(), threading.Event(), []

    @proc.handle_for(Everything(), **TERMS[reason])
    def handle(message, context):
        handled.append(message)
        go_on.wait(10)

    broker = Broker(proc, bodies(800, k=0), per_fetch=30, ends=reason != "rate")
    held, release = held_when_stable(broker, 500, go_on)

    async def meanwhile(engine):
        await release(engine)
        if reason == "rate":
            engine.stop()

    _, report = run(broker, meanwhile=meanwhile)
    assert (held, broker.peak_held) == ([500], 500)
    assert report.total_handled == (1 if reason == "rate" else 800)


def test_messages_that_wait_for_a_narrow_handler_leave_the_credit_to_others():
    """Messages beyond the concurrency of one handler leave the whole credit to the messages of another."""
    proc, go_on = processor(), threading.Event()
    proc.add_handler(Field("k", 0), lambda message, context: go_on.wait(10), concurrency=1)
    proc.add_handler(Field("k", 1), lambda message, context: go_on.wait(10), name="other")
    broker = Broker(proc, [*bodies(100, k=0), *bodies(300, k=1)], per_fetch=25)
    held, meanwhile = held_when_stable(broker, 149, go_on)
    _, report = run(broker, meanwhile=meanwhile)
    # One message of the narrow handler runs and counts, 99 wait, and 49 of the other fill the credit of 50.
    assert held == [149]
    assert report.total_handled == 400


def test_slow_keys_leave_credit_and_workers_for_others(monkeypatch):
    """Messages behind slow keys do not keep other messages from being fetched while workers are free."""
    monkeypatch.setattr(Runtime, "limits", DEFAULT)
    proc, go_on, keys = processor(concurrency=24), threading.Event(), 16
    proc.add_handler(Field("k", 0), lambda message, context: go_on.wait(10), ordered_by=by_field("j"))
    proc.add_handler(Field("k", 1), lambda message, context: None, name="fast")
    slow = [b'{"k":0,"j":%d}' % (n % keys) for n in range(keys * 80)]
    broker = Broker(proc, [*slow, *[b'{"k":1}'] * 200], ends=False)

    async def meanwhile(engine):
        try:
            await until(lambda: len(broker.acked) == 200, "the other messages to be handled", seconds=3)
        finally:
            go_on.set()
            engine.stop()

    run(broker, meanwhile=meanwhile)


# The accounting


@pytest.mark.parametrize("end", ["stop", "lost session"])
def test_no_waiting_message_is_lost(end):
    """At the end, waiting messages of every kind are released or redelivered, and no station holds work."""
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
    sent = [body for n in range(40) for h in range(6) for body in bodies(1, h=h, k=n % 7, m=n)]
    broker = Broker(proc, sent, ends=False, per_fetch=40)

    async def meanwhile(engine):
        await until(lambda: len(broker.acked) >= 44, "the messages that can be handled")
        await stable(lambda: len(broker.acked) + len(broker.held))
        if end == "lost session":
            go_on.set()
            broker.sessions[0].die()
            await until(lambda: len(broker.sessions) == 2 and len(broker.held) > 20, "the messages to be redelivered")
        engine.stop()
        await until(lambda: engine._state.draining, "the drain")
        go_on.set()

    run(broker, meanwhile=meanwhile)
    assert broker.held == {}
    left = {delivery.body for delivery in broker.ready}
    assert left | set(broker.acked) == set(sent)
