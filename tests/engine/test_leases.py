"""Leases: what is held is renewed for as long as it is, and what went to somebody else is let go of."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from missive import JSONMessage, Processor
from missive.engine.intake import leases
from missive.engine.intake.leases import LeaseRenewer
from missive.errors import Fatal, Transient
from missive.matchers import Everything, by_field
from missive.transport import Capabilities, Disposition, SettlementResult
from tests.support.broker import Broker
from tests.support.engine import FastRuntime, run, stage_of, until

LEASE = 0.4
SHORT = Capabilities(lease=LEASE)
LONG = 3 * LEASE


def processor(**settings):
    return Processor(JSONMessage, **{"name": "app", "dlq": {}, "concurrency": 2, **settings})


def bodies(count, keys=1):
    return [b'{"n":%d,"k":%d}' % (n, n % keys) for n in range(count)]


def number(message):
    return message.get_json()["n"]


def check_once(broker, report, count):
    """Check that every message was delivered and acked once, and no lease was lost."""
    assert sorted(broker.acked) == sorted(bodies(count))
    assert all(not item.delivery.redelivered for items in broker.settlements for item in items)
    assert report.redelivered == 0


# Renewing


@pytest.mark.parametrize("kind", ["sync", "async", "blocking async"])
def test_a_handler_of_three_leases_runs_once(kind):
    """A handler that takes three times the lease keeps its message, also where it blocks the loop of the handlers."""
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
    broker = Broker(proc, bodies(1), capabilities=SHORT)
    _, report = run(broker)
    assert ran == [0]
    check_once(broker, report, 1)
    assert 2 <= len(broker.extended) <= 12


@pytest.mark.parametrize("where", ["worker", "lane", "limit", "rate", "retry", "batch"])
def test_what_waits_is_renewed(where):
    """Leases last while messages wait: for a worker, their lane, a limit, a rate, another attempt or their batch."""
    proc, ran = processor(concurrency=1 if where == "worker" else 2), []

    def handle(message, context):
        ran.append(number(message))
        if where == "retry" and context.attempt == 1:
            context.retry(LONG)
        elif where not in ("rate", "retry"):
            time.sleep(LEASE)

    settings = {
        "lane": {"ordered_by": by_field("k")},
        "limit": {"concurrency": 1},
        "rate": {"rate_limit": f"1/{LEASE * 1.5:g}s"},
    }
    if where == "batch":
        batched = lambda batch: ran.extend(map(number, batch.messages))
        proc.add_batch_handler(Everything(), batched, size=10, wait=LONG)
    else:
        proc.add_handler(Everything(), handle, **settings.get(where, {}))
    broker = Broker(proc, bodies(3), capabilities=SHORT)
    _, report = run(broker)
    assert sorted(ran) == ([0, 0, 1, 1, 2, 2] if where == "retry" else [0, 1, 2])
    check_once(broker, report, 3)


def test_renewals_are_together():
    """Many leases are renewed in few calls, of `_BATCH` at the most, and not more often than they need."""
    proc, go_on = processor(), threading.Event()
    proc.add_handler(Everything(), lambda message, context: go_on.wait(10))
    broker = Broker(proc, bodies(200), capabilities=SHORT)

    async def meanwhile(engine):
        await until(lambda: len(broker.extended) >= 4, "some renewals")
        go_on.set()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leases, "_BATCH", 150)
        _, report = run(broker, meanwhile=meanwhile)
    assert [len(deliveries) for deliveries in broker.extended[:4]] == [150, 50, 150, 50]
    check_once(broker, report, 200)


def test_what_is_settled_is_not_renewed():
    """A lease is renewed until its message is settled, and not after; nothing is where there are no leases."""
    proc, go_on = processor(), threading.Event()

    @proc.handle_for(Everything())
    def handle(message, context):
        if number(message) == 0:
            go_on.wait(10)

    broker = Broker(proc, bodies(20), capabilities=SHORT)

    async def meanwhile(engine):
        await until(lambda: len(broker.acked) == 19, "the others to be settled")
        seen = len(broker.extended)
        await until(lambda: len(broker.extended) >= seen + 3, "some renewals")
        assert [len(deliveries) for deliveries in broker.extended[seen + 1 :]][:2] == [1, 1]
        go_on.set()

    run(broker, meanwhile=meanwhile)
    proc = processor()
    proc.add_handler(Everything(), lambda message, context: time.sleep(LEASE))
    broker = Broker(proc, bodies(1))
    run(broker)
    assert broker.extended == []


def test_leases_are_renewed_while_draining():
    """What still runs when processing stops is renewed until it is done, and then acked; the rest is given back."""
    proc, began = processor(concurrency=1), threading.Event()

    @proc.handle_for(Everything())
    def handle(message, context):
        began.set()
        time.sleep(LONG)

    broker = Broker(proc, bodies(5), capabilities=SHORT, ends=False)
    extended = []

    async def meanwhile(engine):
        await until(began.is_set, "the handler to begin")
        engine.stop()
        await until(lambda: len(broker.released) == 4, "the rest to be given back")
        extended.append(len(broker.extended))

    _, report = run(broker, meanwhile=meanwhile)
    assert broker.acked == bodies(1)
    assert len(broker.extended) >= extended[0] + 2
    assert (report.redelivered, report.released) == (0, 4)


@pytest.mark.parametrize("trouble", ["transient", "own", "wrong number", "failed", "unknown"])
def test_a_renewal_that_fails_is_tried_again(trouble):
    """A renewal that failed once is tried again before the lease ends, and its message keeps running."""
    proc, ran, tries = processor(), [], []

    @proc.handle_for(Everything())
    async def handle(message, context):
        ran.append(number(message))
        await asyncio.sleep(LONG)

    def extend(session, deliveries):
        tries.append(deliveries)
        if len(tries) > 1:
            return None
        if trouble == "transient":
            raise Transient("not now")
        if trouble == "own":
            raise RuntimeError("an adapter's mistake")
        results = {
            "wrong number": [],
            "failed": [SettlementResult.failed] * 2,
            "unknown": [SettlementResult.unknown] * 2,
        }
        return results[trouble]

    broker = Broker(proc, bodies(2), capabilities=SHORT)
    broker.intercept["extend"] = extend
    _, report = run(broker)
    assert sorted(ran) == [0, 1]
    assert len(tries) >= 2
    check_once(broker, report, 2)


def test_renewals_that_never_succeed():
    """When a lease cannot be renewed until its end, its handler is cancelled; the message runs when it comes again."""
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

    broker = Broker(proc, bodies(1), capabilities=SHORT)
    broker.intercept["extend"] = extend
    _, report = run(broker)
    assert (ran, cancelled) == ([1, 2], [1])
    assert (report.total_handled, report.redelivered, proc.dlq) == (1, 1, {})
    assert broker.acked == bodies(1)


def test_a_fatal_renewal_stops():
    """What says that nothing will help stops the processor."""
    proc = processor()

    @proc.handle_for(Everything())
    async def handle(message, context):
        await asyncio.sleep(LEASE)

    def extend(session, deliveries):
        raise Fatal("not allowed to renew")

    broker = Broker(proc, bodies(1), capabilities=SHORT, ends=False)
    broker.intercept["extend"] = extend
    with pytest.raises(Fatal, match="not allowed to renew"):
        run(broker)


# Losing


def take_away(broker, which=lambda delivery: True):
    """Let somebody else have what is held, as the next renewal is told; it does not come again."""

    def extend(session, deliveries):
        for delivery in deliveries:
            if which(delivery) and not delivery.redelivered:
                broker.held.pop(delivery, None)
        session._changed.set()

    broker.intercept["extend"] = extend


@pytest.mark.parametrize("dlq", [{}, None], ids=["dlq", "no dlq"])
@pytest.mark.parametrize("how", ["raise", "return", "retry", "dead_letter"])
def test_a_lost_lease_cancels_its_handler(how, dlq):
    """An async handler that lost its message to somebody else is cancelled; whatever it says, nothing is settled."""
    proc, cancelled = processor(dlq=dlq), []

    @proc.handle_for(Everything())
    async def handle(message, context):
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            cancelled.append(number(message))
            if how == "raise":
                raise
            if how == "retry":
                context.retry(0)
            if how == "dead_letter":
                context.dead_letter("interrupted")

    broker = Broker(proc, bodies(1), capabilities=SHORT)
    take_away(broker)
    _, report = run(broker)
    assert cancelled == [0]
    assert broker.settlements == []
    assert not dlq
    assert (report.redelivered, report.total_dead) == (1, 0)


def test_a_thread_that_lost_its_lease():
    """A thread cannot be interrupted: it runs to its end, and then nothing is settled."""
    proc, go_on, ended = processor(), threading.Event(), []

    @proc.handle_for(Everything())
    def handle(message, context):
        go_on.wait(10)
        ended.append(number(message))

    broker = Broker(proc, bodies(1), capabilities=SHORT, ends=False)
    take_away(broker)

    async def meanwhile(engine):
        await until(lambda: not broker.held, "the lease to be lost")
        await until(lambda: not stage_of(engine, LeaseRenewer)._until, "that to be known")
        go_on.set()
        await until(lambda: ended, "the handler to end")
        engine.stop()

    _, report = run(broker, meanwhile=meanwhile)
    assert broker.settlements == []
    assert report.redelivered == 1


@pytest.mark.parametrize("where", ["worker", "lane", "limit", "rate", "retry", "batch"])
def test_what_waits_is_let_go_of(where):
    """A message that waits and whose lease went to somebody else is never handled; what comes later is."""
    proc, go_on, ran = processor(concurrency=1 if where == "worker" else 2), threading.Event(), []

    def handle(message, context):
        ran.append(number(message))
        if number(message) == 0:
            go_on.wait(10)
        elif where == "retry" and number(message) in (1, 2) and context.attempt == 1:
            context.retry(600)

    settings = {
        "lane": {"ordered_by": by_field("k")},
        "limit": {"concurrency": 1},
        "rate": {"rate_limit": "3/h"},
        "batch": {},
    }
    if where == "batch":
        batched = lambda batch: ran.extend(map(number, batch.messages))
        proc.add_batch_handler(Everything(), batched, size=3, wait=600)
    else:
        proc.add_handler(Everything(), handle, **settings.get(where, {}))
    # The first is not taken away but in a batch, where it is needed to be full.
    given = bodies(2 if where == "batch" else 3)
    if where == "rate":
        given = [b'{"n":7,"k":0}'] * 3 + [b'{"n":1,"k":0}', b'{"n":2,"k":0}']
    broker = Broker(proc, given, capabilities=SHORT, ends=False)
    keep = given[0] if where not in ("batch", "rate") else b""
    take_away(
        broker, lambda delivery: delivery.body in (given if where == "batch" else bodies(3)) and delivery.body != keep
    )

    async def meanwhile(engine):
        waiting = {"batch": 0, "rate": 0}.get(where, 1)
        await until(lambda: broker.extended and len(broker.held) == waiting, "the leases to be lost")
        keeper = stage_of(engine, LeaseRenewer)
        await until(lambda: len(keeper._until) == waiting, "that to be known")
        go_on.set()
        if where == "rate":
            engine.stop()
            return
        broker.send(b'{"n":3,"k":0}', b'{"n":4,"k":0}', b'{"n":5,"k":0}')
        await until(lambda: 5 in ran, "what comes later")
        engine.stop()

    _, report = run(broker, meanwhile=meanwhile)
    expected = {"batch": [3, 4, 5], "rate": [7, 7, 7], "retry": [0, 1, 2, 3, 4, 5]}.get(where, [0, 3, 4, 5])
    assert sorted(ran) == expected
    assert report.redelivered == 2
    settled = {
        item.delivery.body for items in broker.settlements for item in items if item.disposition is Disposition.ack
    }
    assert not settled & {b'{"n":1,"k":0}', b'{"n":2,"k":0}'}


def test_a_lane_goes_on_after_a_lost_lease():
    """The next of its key run once the handler of a message that was lost has ended, in order."""
    proc, ran = processor(), []

    @proc.handle_for(Everything(), ordered_by=by_field("k"))
    async def handle(message, context):
        ran.append(number(message))
        if number(message) == 0:
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                await asyncio.sleep(0.05)  # it cleans up: until it has, no other of its key runs
                ran.append("over")
                raise

    broker = Broker(proc, bodies(5), capabilities=SHORT)
    take_away(broker, lambda delivery: delivery.body == bodies(1)[0])
    _, report = run(broker)
    assert ran == [0, "over", 1, 2, 3, 4]
    assert (report.total_handled, report.redelivered, proc.dlq) == (4, 1, {})


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_one_lost_lease_of_a_batch(is_async):
    """A batch goes on when one of its leases is lost: the others are acked, and that one is not settled."""
    proc, ran = processor(), []

    def handle(batch):
        ran.append([number(message) for message in batch.messages])
        time.sleep(LEASE)

    async def handle_async(batch):
        ran.append([number(message) for message in batch.messages])
        await asyncio.sleep(LEASE)

    proc.add_batch_handler(Everything(), handle_async if is_async else handle, size=4, wait=0.05)
    broker = Broker(proc, bodies(4), capabilities=SHORT)
    take_away(broker, lambda delivery: delivery.body == bodies(3)[2])
    _, report = run(broker)
    assert ran == [[0, 1, 2, 3]]
    assert sorted(broker.acked) == [body for n, body in enumerate(bodies(4)) if n != 2]
    assert (report.redelivered, proc.dlq) == (1, {})


def test_when_all_of_a_batch_is_lost():
    """An async batch of which every lease is lost is cancelled, and neither filed nor run in halves."""
    proc, ran = processor(dlq=None), []

    @proc.handle_batch_for(Everything(), size=4, wait=0.05)
    async def handle(batch):
        ran.append(len(batch))
        await asyncio.sleep(30)

    broker = Broker(proc, bodies(4), capabilities=SHORT)
    take_away(broker)
    _, report = run(broker)
    assert ran == [4]
    assert (report.redelivered, broker.settlements) == (4, [])


# Leases that cannot be renewed


def test_what_waits_for_too_long_is_given_back():
    """Where leases end, what has not begun in time to be done before is given back; it comes again, and is handled."""
    proc, begun = processor(concurrency=1, timeout=5), []

    @proc.handle_for(Everything())
    def handle(message, context):
        begun.append(context._running.started - context._running.arrived)
        time.sleep(0.2)  # two seconds of the clock here

    broker = Broker(
        proc, bodies(8), capabilities=Capabilities(lease=10, renewable=False), clock=lambda: time.monotonic() * 10
    )
    _, report = run(broker, runtime=FastRuntime())
    assert report.released >= 1
    assert broker.extended == []
    check_once(broker, report, 8)
    # Lease less timeout, and what may pass until somebody looks.
    assert max(begun) < 10 - 5 + 3


def test_what_is_in_time_is_not_given_back():
    """Where leases end, what waits and will begin in time is left alone; nothing is renewed."""
    proc = processor(concurrency=1, timeout=5)
    proc.add_handler(Everything(), lambda message, context: time.sleep(0.2))
    broker = Broker(
        proc, bodies(5), capabilities=Capabilities(lease=40, renewable=False), clock=lambda: time.monotonic() * 10
    )
    _, report = run(broker, runtime=FastRuntime())
    assert (report.released, broker.extended) == (0, [])
    check_once(broker, report, 5)
