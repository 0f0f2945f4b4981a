"""What a hostile reader of the engine found: each was a fault, and was red before it was mended."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from missive import JSONMessage, Processor
from missive.engine.intake import backpressure, watchdog
from missive.engine.intake.backpressure import Backpressure
from missive.engine.limits import Limits
from missive.engine.runtime import Runtime
from missive.errors import Transient
from missive.matchers import Everything, Field, by_field
from missive.transport import Capabilities, Delivery
from tests.support.broker import Broker
from tests.support.engine import FastRuntime, run, stage_of, until


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


def test_slow_keys_do_not_use_up_the_credit():
    """Messages behind slow keys do not keep others from being fetched, while workers are free."""
    proc, go_on, keys = processor(concurrency=24), threading.Event(), 16
    proc.add_handler(Field("k", 0), lambda message, context: go_on.wait(10), ordered_by=by_field("j"))
    proc.add_handler(Field("k", 1), lambda message, context: None, name="fast")
    given = [b'{"k":0,"j":%d}' % (n % keys) for n in range(keys * 80)]
    broker = Broker(proc, [*given, *[b'{"k":1}'] * 200], ends=False)

    async def meanwhile(engine):
        try:
            await until(lambda: len(broker.acked) == 200, "the others to be handled", seconds=3)
        finally:
            go_on.set()
            engine.stop()

    run(broker, meanwhile=meanwhile)


def test_a_lane_is_paused_before_it_has_it_all():
    """A fetch that returns at once, as from a buffer, leaves time to pause a lane before it has all credit."""
    proc, go_on = processor(), threading.Event()

    @proc.handle_for(Everything())
    def handle(message, context):
        if message.get_json()["k"] == 0:
            go_on.wait(10)

    class Buffered(Broker):
        async def connect(self, host):
            session = await super().connect(host)
            fetch = session.fetch

            async def at_once(credit):
                found = session._take(credit)
                if not found:
                    return await fetch(credit)
                self.held.update(dict.fromkeys(found, (session, 1e9)))
                session._given.update(found)
                return found

            session.fetch = at_once
            return session

    given = [Delivery(b'{"k":0}', lane="p0") for _ in range(900)] + [Delivery(b'{"k":1}', lane="p1")] * 0
    given += [Delivery(b'{"k":1}', lane="p1") for _ in range(100)]
    broker = Buffered(proc, given, capabilities=Capabilities(pauses=True), per_fetch=10)

    async def meanwhile(engine):
        try:
            await until(lambda: sum(b'"k":1' in body for body in broker.acked) == 100, "the other lane", seconds=3)
        finally:
            go_on.set()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Runtime, "limits", Limits(50, 100_000, 500))
        run(broker, meanwhile=meanwhile)


def test_a_resume_that_fails_for_a_while():
    """A lane whose resume failed for a while is resumed all the same, also where nothing else happens."""
    proc, go_on, tries = processor(), threading.Event(), []
    proc.add_handler(Everything(), lambda message, context: go_on.wait(10))
    given = [Delivery(b'{"k":0}', lane="p0") for _ in range(900)]
    broker = Broker(proc, given, capabilities=Capabilities(pauses=True), per_fetch=10)

    def resume(session, lanes):
        tries.append(lanes)
        if len(tries) < 4:
            raise RuntimeError("an adapter's mistake")

    broker.intercept["resume"] = resume

    async def meanwhile(engine):
        await until(lambda: broker.lane_calls, "the lane to be paused")
        go_on.set()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Runtime, "limits", Limits(50, 100_000, 500))
        run(broker, meanwhile=meanwhile, seconds=6)


# the watchdog and dying sessions


@pytest.mark.parametrize("found_by", ["fetch", "settle", "status"])
def test_a_close_that_hangs(found_by):  # noqa: C901 - three ways to find it
    """A dead session whose close never returns does not keep its source from connecting again, and being settled."""
    proc = processor()
    proc.add_handler(Everything(), lambda message, context: None)
    broker = Broker(proc, bodies(3))

    def fail(session, *_):
        if session is broker.sessions[0]:
            raise Transient("gone")

    broker.intercept[found_by] = fail
    broker.intercept["close"] = lambda session: asyncio.sleep(60) if session is broker.sessions[0] else None

    async def meanwhile(engine):
        if found_by == "status":
            return
        await until(lambda: len(broker.sessions) > 1, "another session", seconds=6)

    if found_by == "status":

        async def deaf(session, credit):
            if session is broker.sessions[0]:
                await asyncio.Event().wait()

        broker.intercept["fetch"] = deaf
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watchdog, "EVERY", 0.02)
        if found_by == "settle":

            async def close(session):
                if session is broker.sessions[0]:
                    session._give_back(list(broker.held))
                    await asyncio.sleep(60)

            broker.intercept["close"] = close
        run(broker, meanwhile=meanwhile, seconds=10)
    assert len(broker.sessions) == 2
    assert len(broker.acked) == 3


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


def test_a_pause_that_hangs():
    """A client that never answers to a pause keeps nothing from being fetched."""
    proc = processor()
    proc.add_handler(Everything(), lambda message, context: time.sleep(0.001))
    given = [Delivery(b"{}", lane=f"p{n % 2}") for n in range(400)]
    broker = Broker(proc, given, capabilities=Capabilities(pauses=True), per_fetch=50)
    broker.intercept["pause"] = lambda session, lanes: asyncio.sleep(60)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Runtime, "limits", Limits(50, 100_000, 100))
        patch.setattr(backpressure, "_ANSWER_SECONDS", 0.1)
        _, report = run(broker, seconds=8)
    assert report.total_handled == 400


def test_lanes_are_forgotten():
    """A transport with ever new lanes leaves nothing behind, and a lane of one message is not paused."""
    proc = processor()
    proc.add_handler(Everything(), lambda message, context: None)
    broker = Broker(proc, [Delivery(b"{}", lane=f"p{n}") for n in range(3000)], capabilities=Capabilities(pauses=True))
    kept = []

    async def meanwhile(engine):
        await until(lambda: len(broker.acked) == 3000, "all to be settled")
        kept.extend(stage_of(engine, Backpressure)._items)
        engine.stop()

    broker.ends = False
    run(broker, meanwhile=meanwhile)
    assert (kept, broker.lane_calls) == ([], [])


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
