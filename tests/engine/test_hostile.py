"""What a hostile reader of the engine found: each was a fault, and was red before it was mended."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from missive import JSONMessage, Processor
from missive.matchers import Everything, by_field
from missive.transport import Capabilities
from tests.support.broker import Broker
from tests.support.engine import FastRuntime, run, until


def processor(**settings):
    return Processor(JSONMessage, **{"name": "app", "dlq": {}, "concurrency": 4, "on_overlap": "ignore", **settings})


def bodies(count, **fields):
    more = "".join(f',"{name}":{value}' for name, value in fields.items()).encode()
    return [b'{"n":%d%s}' % (n, more) for n in range(count)]


def number(message):
    return message.get_json()["n"]


# rates


def test_a_batch_larger_than_its_adapters_rate():
    """A batch handler's size above the adapter's rate is refused at the start, or gathered smaller; never a wedge."""
    proc, sizes = processor(), []
    proc.add_batch_handler(Everything(), lambda batch: sizes.append(len(batch)), size=10, wait=0.05)
    _, report = run(Broker(proc, bodies(20), rate_limit="5/100ms"), seconds=4)
    assert report.total_handled == 20


# timeouts


# batches


@pytest.mark.parametrize("dlq", [{}, None], ids=["dlq", "no dlq"])
def test_a_session_lost_while_a_batch_fails(dlq):
    """Of a batch that raises after its session died nothing is filed but the culprit: the others come again."""
    proc, calls = processor(dlq=dlq), []

    @proc.handle_batch_for(Everything(), size=4, wait=0.05)
    def handle(batch):
        calls.append([number(message) for message in batch.messages])
        if len(calls) == 1:
            broker.sessions[0].die()
            while len(broker.sessions) < 2:
                time.sleep(0.01)
            raise ValueError

    broker = Broker(proc, bodies(4))
    _, report = run(broker)
    assert (report.total_dead, report.total_handled) == (0, 4)


def test_an_exception_of_a_before_hook():
    """`after_handling` sees the exception of the hook that failed its item, and not that of a handler it was not in."""
    proc, seen = processor(), []

    @proc.before_handling
    def before(worker, context):
        if number(context.message) == 1:
            raise KeyError

    @proc.after_handling
    def after(worker, context):
        seen.append((number(context.message), type(context.exception).__name__))

    @proc.handle_batch_for(Everything(), size=2, wait=0.05)
    def handle(batch): ...

    run(Broker(proc, bodies(2)))
    assert sorted(seen) == [(0, "NoneType"), (1, "KeyError")]


# backpressure


# the watchdog and dying sessions


def test_a_renewal_that_hangs():
    """A renewal that never answers is given up, as a status is, and others are renewed."""
    proc, tries, ran = processor(), [], []

    @proc.handle_for(Everything())
    async def handle(message, context):
        ran.append(context.attempt)
        await asyncio.sleep(1.2)

    async def extend(session, deliveries):
        tries.append(1)
        if len(tries) == 1:
            await asyncio.sleep(60)

    broker = Broker(proc, bodies(1), capabilities=Capabilities(lease=0.4))
    broker.intercept["extend"] = extend
    run(broker)
    assert len(tries) > 1
    assert ran == [1]


def test_a_late_start_under_a_lease_that_ends():
    """Where leases cannot be renewed, nothing begins that would not be done before its lease ends."""
    proc, begun = processor(concurrency=1, timeout=5), []

    @proc.handle_for(Everything())
    def handle(message, context):
        begun.append(context._running.started - context._running.arrived)
        time.sleep(0.02)

    broker = Broker(
        proc, bodies(1), capabilities=Capabilities(lease=10, renewable=False), clock=lambda: time.monotonic() * 10
    )

    async def meanwhile(engine):
        await until(lambda: begun, "the first")
        await asyncio.sleep(0.04)
        broker.send(*bodies(100))
        await until(lambda: len(broker.acked) > 80, "the others")
        engine.stop()

    broker.ends = False
    run(broker, runtime=FastRuntime(), meanwhile=meanwhile)
    assert max(begun) <= 5.2


def test_handled_is_what_was_settled():
    """What a handler did with a message that went to somebody else does not count as handled twice over."""
    proc = processor()

    @proc.handle_for(Everything())
    async def handle(message, context):
        try:
            await asyncio.sleep(0.3 if context.attempt > 1 else 30)
        except asyncio.CancelledError:
            return

    broker = Broker(proc, bodies(1), capabilities=Capabilities(lease=0.3))
    broker.intercept["extend"] = lambda session, deliveries: (
        session._give_back([d for d in deliveries if d in broker.held and not d.redelivered]) or None
    )
    _, report = run(broker)
    assert (report.total_handled, report.redelivered) == (1, 1)


# runs of lanes


@pytest.mark.parametrize("release", ["native", "none"])
def test_a_drain_reaches_what_waits_in_a_run(release):
    """What a worker has of a lane and has not begun goes back at a stop, or is filed where nothing goes back."""
    proc, begun, go_on = processor(concurrency=1), threading.Event(), threading.Event()

    @proc.handle_for(Everything(), ordered_by=by_field("k"))
    def handle(message, context):
        begun.set()
        go_on.wait(10)

    broker = Broker(proc, bodies(10, k=0), capabilities=Capabilities(release=release), ends=False)

    async def meanwhile(engine):
        await until(begun.is_set, "the first to begin")
        engine.stop()
        await until(lambda: len(broker.released if release == "native" else proc.dlq) == 9, "the others to go")
        go_on.set()

    _, report = run(broker, meanwhile=meanwhile)
    assert (report.total_handled, report.unsettled) == (1, 0)


def test_a_run_is_given_back_before_its_lease_ends():
    """Where leases cannot be renewed, what waits in a run of a lane begins in time, or goes back."""
    proc, begun = processor(concurrency=1, timeout=5), []

    @proc.handle_for(Everything(), ordered_by=by_field("k"))
    def handle(message, context):
        begun.append(context._running.started - context._running.arrived)
        time.sleep(0.09)

    lease = Capabilities(lease=10, renewable=False)
    broker = Broker(proc, bodies(30, k=0), capabilities=lease, clock=lambda: time.monotonic() * 10)
    run(broker, runtime=FastRuntime())
    assert broker.released
    assert max(begun) <= 5


# what adapters do


def test_a_client_that_fails_to_stop():
    """Where one source fails to stop its intake, what runs is waited for, and the other sources give back theirs."""
    proc, begun, go_on = processor(concurrency=1), threading.Event(), threading.Event()

    @proc.handle_for(Everything())
    def handle(message, context):
        begun.set()
        go_on.wait(10)

    odd, other = Broker(proc, bodies(5), ends=False), Broker(proc, bodies(5), ends=False)

    def stop_intake(session):
        raise OSError("the client is odd")

    odd.intercept["stop_intake"] = stop_intake

    async def meanwhile(engine):
        await until(begun.is_set, "one to begin")
        engine.stop()
        await until(lambda: len(odd.released) + len(other.released) == 9, "the others to go back")
        go_on.set()

    _, report = run(odd, other, meanwhile=meanwhile)
    assert report.total_handled == 1


def test_a_resource_that_translates_what_failed_a_batch():
    """The culprit is found by halves, whatever its resources make of the exception; its failure is what they made."""
    proc = processor()

    @proc.resource()
    def transaction(context):
        try:
            yield 1
        except ValueError:
            raise RuntimeError("rolled back") from None

    @proc.handle_batch_for(Everything(), size=8)
    def handle(batch):
        for context in batch:
            context.get(transaction)
        if any(number(message) == 5 for message in batch.messages):
            raise ValueError

    with proc.test_client() as client:
        results = client.send_batch([JSONMessage(body) for body in bodies(8)])
    assert [result.outcome for result in results].count("acked") == 7
    assert isinstance(results[5].exception, RuntimeError)
