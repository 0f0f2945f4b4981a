"""Leases: they are renewed while messages run or wait; without renewal, late messages are released in time."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from missive.engine.intake import leases
from missive.errors import Fatal, Transient
from missive.matchers import Everything, by_field
from missive.transport import Capabilities, SettlementResult
from tests.support.broker import Broker
from tests.support.engine import FastRuntime, keyed_bodies, number, processor, run, until

LEASE = 0.4
RENEWABLE = Capabilities(lease=LEASE)
LONG = 3 * LEASE
"""A time in which a lease must be renewed several times, in seconds."""


def fast_broker(proc, bodies, *, lease, ends=True):
    """Return a broker with leases that cannot be renewed, by the clock of `FastRuntime`."""
    capabilities = Capabilities(lease=lease, renewable=False)
    return Broker(proc, bodies, capabilities=capabilities, ends=ends, clock=FastRuntime.monotonic)


def check_once(broker, report, count):
    """Check that every message was delivered and acked once, and that no lease was lost."""
    assert sorted(broker.acked) == sorted(keyed_bodies(count))
    assert all(not settlement.delivery.redelivered for call in broker.settlements for settlement in call)
    assert report.redelivered == 0


# Renewal


@pytest.mark.parametrize("kind", ["sync", "async", "blocking async"])
def test_a_handler_that_takes_three_leases_runs_once(kind):
    """A handler keeps its message for three times the lease, even if it blocks the loop of the handlers."""
    proc, ran = processor(), []

    def handle(message, context):
        ran.append(number(message))
        time.sleep(LONG)

    async def handle_async(message, context):
        ran.append(number(message))
        await asyncio.sleep(LONG)

    async def handle_blocking(message, context):
        handle(message, context)

    handlers = {"sync": handle, "async": handle_async, "blocking async": handle_blocking}
    proc.add_handler(Everything(), handlers[kind])
    broker = Broker(proc, keyed_bodies(1), capabilities=RENEWABLE)
    _, report = run(broker)
    assert ran == [0]
    check_once(broker, report, 1)
    assert 2 <= len(broker.extended) <= 12


@pytest.mark.parametrize("reason", ["worker", "lane", "limit", "rate", "retry", "batch"])
def test_leases_of_waiting_messages_are_renewed(reason):
    """A lease is renewed while its message waits for a worker, its lane, a limit, a rate, a retry or its batch."""
    proc, ran = processor(concurrency=1 if reason == "worker" else 2), []

    def handle(message, context):
        ran.append(number(message))
        if reason == "retry" and context.attempt == 1:
            context.retry(LONG)
        elif reason not in ("rate", "retry"):
            time.sleep(LEASE)

    terms = {
        "lane": {"ordered_by": by_field("k")},
        "limit": {"concurrency": 1},
        "rate": {"rate_limit": f"1/{LEASE * 1.5:g}s"},
    }
    if reason == "batch":
        handle_batch = lambda batch: ran.extend(map(number, batch.messages))
        proc.add_batch_handler(Everything(), handle_batch, size=10, wait=LONG)
    else:
        proc.add_handler(Everything(), handle, **terms.get(reason, {}))
    broker = Broker(proc, keyed_bodies(3), capabilities=RENEWABLE)
    _, report = run(broker)
    assert sorted(ran) == ([0, 0, 1, 1, 2, 2] if reason == "retry" else [0, 1, 2])
    check_once(broker, report, 3)


def test_leases_are_renewed_in_batches(monkeypatch):
    """Each call renews up to `_BATCH` leases, and each lease is renewed only when it is due."""
    monkeypatch.setattr(leases, "_BATCH", 150)
    proc, go_on = processor(), threading.Event()
    proc.add_handler(Everything(), lambda message, context: go_on.wait(10))
    broker = Broker(proc, keyed_bodies(200), capabilities=RENEWABLE)

    async def meanwhile(engine):
        await until(lambda: len(broker.extended) >= 4, "four renewals")
        go_on.set()

    _, report = run(broker, meanwhile=meanwhile)
    assert [len(deliveries) for deliveries in broker.extended[:4]] == [150, 50, 150, 50]
    check_once(broker, report, 200)


def test_leases_of_settled_messages_are_not_renewed():
    """A lease is renewed until its message is settled, and not afterwards."""
    proc, go_on = processor(), threading.Event()

    @proc.handle_for(Everything())
    def handle(message, context):
        if number(message) == 0:
            go_on.wait(10)

    broker = Broker(proc, keyed_bodies(20), capabilities=RENEWABLE)

    async def meanwhile(engine):
        await until(lambda: len(broker.acked) == 19, "the other messages to be settled")
        seen = len(broker.extended)
        await until(lambda: len(broker.extended) >= seen + 3, "three renewals")
        assert [len(deliveries) for deliveries in broker.extended[seen + 1 :]][:2] == [1, 1]
        go_on.set()

    run(broker, meanwhile=meanwhile)


def test_nothing_is_renewed_without_leases():
    """A session without leases is not asked to renew any."""
    proc = processor()
    proc.add_handler(Everything(), lambda message, context: time.sleep(LEASE))
    broker = Broker(proc, keyed_bodies(1))
    run(broker)
    assert broker.extended == []


def test_leases_are_renewed_during_the_drain():
    """During the drain, the leases of running messages are renewed until their ack, and the rest is released."""
    proc, began = processor(concurrency=1), threading.Event()

    @proc.handle_for(Everything())
    def handle(message, context):
        began.set()
        time.sleep(LONG)

    broker = Broker(proc, keyed_bodies(5), capabilities=RENEWABLE, ends=False)
    extended = []

    async def meanwhile(engine):
        await until(began.is_set, "the handler to begin")
        engine.stop()
        await until(lambda: len(broker.released) == 4, "the unstarted messages to be released")
        extended.append(len(broker.extended))

    _, report = run(broker, meanwhile=meanwhile)
    assert broker.acked == keyed_bodies(1)
    assert len(broker.extended) >= extended[0] + 2
    assert (report.redelivered, report.released) == (0, 4)


# Renewals that fail


@pytest.mark.parametrize("failure", ["transient", "own", "wrong number", "failed", "unknown"])
def test_a_failed_renewal_is_tried_again(failure):
    """A renewal that fails once is tried again before the lease ends, and the handler keeps running."""
    proc, ran, tries = processor(), [], []

    @proc.handle_for(Everything())
    async def handle(message, context):
        ran.append(number(message))
        await asyncio.sleep(LONG)

    def extend(session, deliveries):
        tries.append(deliveries)
        if len(tries) > 1:
            return None
        if failure == "transient":
            raise Transient("not now")
        if failure == "own":
            raise RuntimeError("an adapter's mistake")
        results = {
            "wrong number": [],
            "failed": [SettlementResult.failed] * 2,
            "unknown": [SettlementResult.unknown] * 2,
        }
        return results[failure]

    broker = Broker(proc, keyed_bodies(2), capabilities=RENEWABLE)
    broker.intercept["extend"] = extend
    _, report = run(broker)
    assert sorted(ran) == [0, 1]
    assert len(tries) >= 2
    check_once(broker, report, 2)


def test_a_renewal_that_hangs_is_tried_again():
    """A renewal without an answer is abandoned and tried again, and the handler keeps running."""
    proc, tries, attempts = processor(), [], []

    @proc.handle_for(Everything())
    async def handle(message, context):
        attempts.append(context.attempt)
        await asyncio.sleep(1.2)

    async def extend(session, deliveries):
        tries.append(1)
        if len(tries) == 1:
            await asyncio.sleep(60)

    broker = Broker(proc, keyed_bodies(1), capabilities=RENEWABLE)
    broker.intercept["extend"] = extend
    run(broker)
    assert len(tries) > 1
    assert attempts == [1]


def test_a_lease_that_ends_without_renewal_cancels_its_handler():
    """When all renewals fail until the lease ends, the handler is cancelled, and handles the redelivered message."""
    proc, ran, cancelled = processor(), [], []

    @proc.handle_for(Everything())
    async def handle(message, context):
        ran.append(context.attempt)
        try:
            await asyncio.sleep(30 if context.attempt == 1 else 0)
        except asyncio.CancelledError:
            cancelled.append(context.attempt)
            raise

    def extend(session, deliveries):
        raise Transient("not now")

    broker = Broker(proc, keyed_bodies(1), capabilities=RENEWABLE)
    broker.intercept["extend"] = extend
    _, report = run(broker)
    assert (ran, cancelled) == ([1, 2], [1])
    assert (report.total_handled, report.redelivered, proc.dlq) == (1, 1, {})
    assert broker.acked == keyed_bodies(1)


def test_a_fatal_renewal_stops_the_processor():
    """A renewal that raises Fatal stops the processor."""
    proc = processor()

    @proc.handle_for(Everything())
    async def handle(message, context):
        await asyncio.sleep(LEASE)

    def extend(session, deliveries):
        raise Fatal("not allowed to renew")

    broker = Broker(proc, keyed_bodies(1), capabilities=RENEWABLE, ends=False)
    broker.intercept["extend"] = extend
    with pytest.raises(Fatal, match="not allowed to renew"):
        run(broker)


# Leases that cannot be renewed, at ten times the speed


def test_a_message_that_would_end_too_late_is_released():
    """A message that cannot begin in time to end before its lease is released, redelivered and handled."""
    proc, waits = processor(concurrency=1, timeout=5), []

    @proc.handle_for(Everything())
    def handle(message, context):
        waits.append(context._running.started - context._running.arrived)
        time.sleep(0.2)  # two seconds of the fast clock

    broker = fast_broker(proc, keyed_bodies(8), lease=10)
    _, report = run(broker, runtime=FastRuntime())
    assert report.released >= 1
    assert broker.extended == []
    check_once(broker, report, 8)
    # The lease without the timeout, and the time until the next check.
    assert max(waits) < 10 - 5 + 3


def test_a_message_that_ends_in_time_is_not_released():
    """A message that can begin in time to end before its lease is not released, and no lease is renewed."""
    proc = processor(concurrency=1, timeout=5)
    proc.add_handler(Everything(), lambda message, context: time.sleep(0.2))
    broker = fast_broker(proc, keyed_bodies(5), lease=40)
    _, report = run(broker, runtime=FastRuntime())
    assert (report.released, broker.extended) == (0, [])
    check_once(broker, report, 5)


def test_a_message_in_a_run_of_its_lane_is_released_in_time():
    """A message that waits in a run of its lane begins in time to end before its lease, or is released."""
    proc, waits = processor(concurrency=1, timeout=5), []

    @proc.handle_for(Everything(), ordered_by=by_field("k"))
    def handle(message, context):
        waits.append(context._running.started - context._running.arrived)
        time.sleep(0.09)

    broker = fast_broker(proc, keyed_bodies(30), lease=10)
    run(broker, runtime=FastRuntime())
    assert broker.released
    assert max(waits) <= 5


def test_messages_that_arrive_after_the_first_check_are_released_in_time():
    """Messages that arrive between two checks of the leases also begin in time, or are released."""
    proc, waits = processor(concurrency=1, timeout=5), []

    @proc.handle_for(Everything())
    def handle(message, context):
        waits.append(context._running.started - context._running.arrived)
        time.sleep(0.02)

    broker = fast_broker(proc, keyed_bodies(1), lease=10, ends=False)

    async def meanwhile(engine):
        await until(lambda: waits, "the first message to begin")
        await asyncio.sleep(0.04)
        broker.send(*keyed_bodies(100))
        await until(lambda: len(broker.acked) > 80, "the other messages to be handled")
        engine.stop()

    run(broker, runtime=FastRuntime(), meanwhile=meanwhile)
    assert max(waits) <= 5.2
