"""Timeouts: late handlers are cancelled if possible and decided as `timeout`, and other messages are handled."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import timedelta

import pytest

from missive import Fatal, JSONMessage, ProcessingFailed, Processor, RegistrationError, UsageError
from missive.engine.runner import execute
from missive.matchers import Everything, Field, by_field
from missive.testing import MemoryAdapter
from missive.transport import Capabilities
from tests.conftest import wait_until
from tests.support.broker import Broker
from tests.support.engine import processor, run, until

SLOW, FAST = b'{"slow":true}', b'{"slow":false}'


def hasty_processor(**settings):
    """Return a processor with two workers and a timeout of 0.1 s."""
    return processor(**{"timeout": 0.1, "concurrency": 2, **settings})


def slow(message):
    """Return whether a message asks for a slow handler."""
    return message.get_json()["slow"]


def overdue(engine):
    """Return the number of workers that are in a handler past its timeout."""
    return sum(work is not None and work.overdue for pool in engine.stations.pools for work in pool._current)


# Async handlers


def test_an_async_handler_is_cancelled_at_its_timeout():
    """An async handler is cancelled at its timeout, its message is a dead letter, and other messages are handled."""
    proc, cancelled = hasty_processor(), []

    @proc.handle_for(Everything())
    async def handle(message, context):
        if slow(message):
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                cancelled.append(message.raw_data)
                raise

    broker = Broker(proc, [FAST, SLOW, FAST, SLOW, FAST])
    _, report = run(broker)
    assert cancelled == [SLOW, SLOW]
    assert proc.dlq.by_body() == [(SLOW, "timeout")] * 2
    assert (report.total_handled, dict(report.dead)) == (3, {"timeout": 2})
    assert len(broker.acked) == 5


@pytest.mark.parametrize("how", ["return", "ack", "retry", "raise", "discard"])
def test_an_async_handler_that_suppresses_its_cancellation_is_timed_out(how):
    """An async handler that suppresses its cancellation is decided as `timeout`, for every later outcome."""
    proc = hasty_processor()

    @proc.handle_for(Everything())
    async def handle(message, context):
        if not slow(message):
            return
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            if how == "raise":
                raise ValueError from None
            if how == "discard":
                context.discard("no")
            elif how != "return":
                getattr(context, how)()

    _, report = run(Broker(proc, [SLOW, FAST, SLOW, FAST]))
    assert proc.dlq.by_body() == [(SLOW, "timeout")] * 2
    assert (report.total_handled, report.retried) == (2, 0)


def test_the_next_message_of_a_worker_is_not_cancelled():
    """The message after a cancelled handler has its own timeout and no pending cancellation."""
    proc, cancelling = hasty_processor(concurrency=1), []

    @proc.handle_for(Everything())
    async def handle(message, context):
        cancelling.append(asyncio.current_task().cancelling())
        await asyncio.sleep(30 if slow(message) else 0.05)

    _, report = run(Broker(proc, [SLOW, FAST, SLOW, FAST]))
    assert (report.total_handled, dict(report.dead)) == (2, {"timeout": 2})
    assert cancelling == [0] * 4


def test_a_lane_continues_after_a_timeout():
    """The messages of a lane continue in order after one that timed out."""
    for kind in ("async", "sync"):
        proc, ran = hasty_processor(), []

        async def handle(message, context, ran=ran):
            ran.append(message.get_json()["n"])
            await asyncio.sleep(30 if ran[-1] == 1 else 0)

        def handle_sync(message, context, ran=ran):
            ran.append(message.get_json()["n"])
            time.sleep(0.4 if ran[-1] == 1 else 0)

        proc.add_handler(Everything(), handle if kind == "async" else handle_sync, ordered_by=lambda message: 0)
        _, report = run(Broker(proc, [b'{"n":%d}' % n for n in range(5)]))
        assert ran == [0, 1, 2, 3, 4]
        assert (report.total_handled, dict(report.dead)) == (4, {"timeout": 1})


@pytest.mark.parametrize("is_async", [True, False])
def test_after_handling_hooks_run_after_a_timeout(is_async):
    """The `after_handling` hooks of a message that timed out run, see its outcome, and may await."""
    proc, seen = hasty_processor(), []

    async def after(worker, context):
        await asyncio.sleep(0.01)
        seen.append((context.outcome, type(context.exception).__name__))

    def after_sync(worker, context):
        seen.append((context.outcome, type(context.exception).__name__))

    async def handle(message, context):
        await asyncio.sleep(30)

    def handle_sync(message, context):
        time.sleep(0.3)

    proc.after_handling(after if is_async else after_sync)
    proc.add_handler(Everything(), handle if is_async else handle_sync)
    run(Broker(proc, [SLOW]))
    assert seen == [("dead_lettered", "CancelledError" if is_async else "NoneType")]


# Sync handlers


@pytest.mark.parametrize("how", ["return", "ack", "retry", "nack", "raise"])
def test_a_late_thread_is_decided_when_it_ends(how):
    """A late thread is decided as `timeout` when it ends, whatever it did. Other messages are handled meanwhile."""
    proc, release, others = hasty_processor(), threading.Event(), []
    early = []

    @proc.handle_for(Everything())
    def handle(message, context):
        if not slow(message):
            others.append(message)
            return
        release.wait(10)
        # After the timeout, and just before the end of the handler.
        early.append((broker.acked.count(SLOW), broker.released, proc.dlq.by_body()))
        if how == "raise":
            raise ValueError
        if how != "return":
            getattr(context, how)()

    broker = Broker(proc, [SLOW] + [FAST] * 20)

    async def meanwhile(engine):
        await until(lambda: overdue(engine) == 1, "the timeout to be noticed")
        await until(lambda: len(broker.acked) == 20, "the other messages to be settled")
        release.set()

    _, report = run(broker, meanwhile=meanwhile)
    assert early == [(0, [], [])]
    assert len(others) == 20
    assert proc.dlq.by_body() == [(SLOW, "timeout")]
    assert (report.total_handled, report.retried, report.nacked, dict(report.dead)) == (20, 0, 0, {"timeout": 1})
    assert sorted(broker.acked) == sorted([SLOW] + [FAST] * 20)


@pytest.mark.parametrize("concurrency", [1, 3])
def test_processing_stops_when_every_worker_is_stuck(concurrency):
    """When every worker is stuck, processing fails and names the handler. Its last act is to file the late messages."""
    proc, release = hasty_processor(concurrency=concurrency), threading.Event()

    @proc.handle_for(Everything(), name="stuck-one")
    def handle(message, context):
        release.wait(20)

    broker = Broker(proc, [SLOW] * 10, ends=False)
    began = time.monotonic()
    try:
        with pytest.raises(ProcessingFailed, match=r"stuck in a handler past its timeout .*stuck-one"):
            run(broker, drain=0.2, check_left=False)
        assert time.monotonic() - began < 10
        assert proc.dlq.by_body() == [(SLOW, "timeout")] * concurrency
        assert broker.acked == [SLOW] * concurrency
        assert len(broker.released) == 10 - concurrency
    finally:
        release.set()


def test_processing_continues_while_one_worker_is_free():
    """While one worker is not stuck, it handles all other messages."""
    proc, release = hasty_processor(concurrency=3), threading.Event()

    @proc.handle_for(Everything())
    def handle(message, context):
        if slow(message):
            release.wait(10)

    broker = Broker(proc, [SLOW, SLOW])

    async def meanwhile(engine):
        await until(lambda: overdue(engine) == 2, "both timeouts to be noticed")
        broker.send(*[FAST] * 30)
        await until(lambda: len(broker.acked) == 30, "the other messages to be handled")
        release.set()

    _, report = run(broker, meanwhile=meanwhile)
    assert (report.total_handled, dict(report.dead)) == (30, {"timeout": 2})


def test_a_handler_that_blocks_its_loop_stops_processing(monkeypatch):
    """An async handler that blocks its loop beyond its timeout and the grace period stops processing, and is named."""
    monkeypatch.setattr("missive.engine.workers.tasks._GRACE", 0.1)
    proc = hasty_processor(concurrency=4)

    @proc.handle_for(Everything(), name="blocking-one")
    async def handle(message, context):
        if slow(message):
            time.sleep(1)  # noqa: ASYNC251 - the mistake under test

    broker = Broker(proc, [SLOW], ends=False, drain=5)
    with pytest.raises(ProcessingFailed, match=r"stuck in a handler past its timeout .*blocking-one"):
        execute([broker])
    assert proc.dlq.by_body() == [(SLOW, "timeout")]
    assert broker.acked == [SLOW]


def test_a_short_block_of_the_loop_does_not_stop_processing(monkeypatch):
    """An async handler that blocks its loop beyond its timeout, but not the grace period, makes a dead letter only."""
    monkeypatch.setattr("missive.engine.workers.tasks._GRACE", 5)
    proc = hasty_processor()

    @proc.handle_for(Everything())
    async def handle(message, context):
        if slow(message):
            time.sleep(0.4)  # noqa: ASYNC251 - the mistake under test
            await asyncio.sleep(1)

    _, report = run(Broker(proc, [SLOW, FAST]))
    assert (report.total_handled, dict(report.dead)) == (1, {"timeout": 1})


def test_handlers_that_suppress_all_cancellations_are_stuck(monkeypatch):
    """Async handlers that suppress all cancellations stop processing when their number reaches the concurrency."""
    monkeypatch.setattr("missive.engine.workers.tasks._GRACE", 0.1)
    proc, ended = hasty_processor(concurrency=2), asyncio.Event()

    @proc.handle_for(Everything(), name="stubborn-one")
    async def handle(message, context):
        while not ended.is_set():
            try:
                await asyncio.wait_for(ended.wait(), 0.02)
            except (asyncio.CancelledError, TimeoutError):
                continue

    async def meanwhile(engine):
        await until(lambda: engine._state.failure is not None, "the engine to fail")
        ended.set()

    with pytest.raises(ProcessingFailed, match="stubborn-one"):
        run(Broker(proc, [SLOW] * 5, ends=False), meanwhile=meanwhile, drain=5)
    assert proc.dlq.by_body() == [(SLOW, "timeout")] * 2


def test_stuck_threads_and_stuck_tasks_count_together(monkeypatch):
    """Processing stops when stuck threads and stuck tasks together reach the concurrency."""
    monkeypatch.setattr("missive.engine.workers.tasks._GRACE", 0.1)
    proc, release = hasty_processor(on_overlap="ignore"), threading.Event()

    @proc.handle_for(Field("k", 1))
    async def ignore_cancellation(message, context):
        while not release.is_set():
            try:
                await asyncio.sleep(0.02)
            except asyncio.CancelledError:
                continue

    proc.add_handler(Field("k", 2), lambda message, context: release.wait(20), name="thread")

    async def meanwhile(engine):
        try:
            await until(lambda: engine._state.failure is not None, "the engine to fail", seconds=2)
        finally:
            release.set()

    broker = Broker(proc, [b'{"k":1}', b'{"k":2}', b'{"k":1}', b'{"k":2}'], ends=False)
    with pytest.raises(ProcessingFailed, match="stuck"):
        run(broker, meanwhile=meanwhile, drain=0.5, check_left=False)


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
def test_the_timeout_includes_after_handling_hooks(is_async, monkeypatch):
    """When an `after_handling` hook hangs, the message is a dead letter or the worker counts as stuck."""
    monkeypatch.setattr("missive.engine.workers.tasks._GRACE", 0.1)
    proc, release = hasty_processor(concurrency=1), threading.Event()

    async def hang(worker, context):
        await asyncio.sleep(30)

    async def handle(message, context): ...

    if is_async:
        proc.after_handling(hang)
        proc.add_handler(Everything(), handle)
    else:
        proc.after_handling(lambda worker, context: release.wait(30))
        proc.add_handler(Everything(), lambda message, context: None)
    try:
        run(Broker(proc, [b'{"n":0}']), seconds=3, drain=0.2, check_left=False)
        assert proc.dlq
    except ProcessingFailed:
        pass
    finally:
        release.set()


def test_the_awaitable_of_a_sync_handler_is_cancelled():
    """The awaitable that a `def` handler returns is cancelled at the timeout, like an async handler."""
    proc, began = hasty_processor(), time.monotonic()

    async def sleep():
        await asyncio.sleep(2)

    proc.add_handler(Everything(), lambda message, context: sleep())
    run(Broker(proc, [b'{"n":0}']))
    assert time.monotonic() - began < 1.5


def test_a_lane_waits_for_the_cancelled_awaitable_of_its_handler():
    """The next message of a lane starts after the cancelled awaitable of a `def` handler has ended."""
    proc, events = hasty_processor(), []

    async def work(n):
        events.append(("begin", n))
        try:
            await asyncio.sleep(0 if n else 5)
        except asyncio.CancelledError:
            await asyncio.sleep(0.2)  # the awaitable cleans up
        events.append(("end", n))

    proc.add_handler(Everything(), lambda message, context: work(message.get_json()["n"]), ordered_by=by_field("k"))
    run(Broker(proc, [b'{"n":0,"k":0}', b'{"n":1,"k":0}']))
    assert events == [("begin", 0), ("end", 0), ("begin", 1), ("end", 1)]


# Declarations


def test_the_timeout_of_a_handler_replaces_the_timeout_of_the_processor():
    """The timeout of a handler, a number or a timedelta, replaces the timeout of the processor."""
    proc = hasty_processor(timeout=0.1, concurrency=4, on_overlap="ignore")
    remaining = {}

    async def handle(message, context):
        remaining[message.get_json()["h"]] = context.remaining
        await asyncio.sleep(0.3)

    for number, timeout in enumerate([None, 5, timedelta(seconds=3)]):
        proc.add_handler(Field("h", number), handle, name=f"h{number}", timeout=timeout)
    proc.add_handler(Field("h", 3), handle, name="h3", timeout=0.2)
    _, report = run(Broker(proc, [b'{"h":%d}' % n for n in range(4)]))
    assert dict(report.handled) == {"h1": 1, "h2": 1}
    assert dict(report.dead) == {"timeout": 2}
    assert 0 < remaining[0] <= 0.1
    assert 4 < remaining[1] <= 5
    assert 2 < remaining[2] <= 3


def test_an_included_processor_keeps_its_timeout():
    """Handlers of an included processor keep its timeout, unless they declare their own."""
    outer, inner = hasty_processor(timeout=60), Processor(JSONMessage, name="inner", timeout=7)
    nothing = lambda message, context: None
    inner.add_handler(Field("h", 1), nothing, name="inner")
    inner.add_handler(Field("h", 2), nothing, name="own", timeout=3)
    outer.add_handler(Field("h", 3), nothing, name="outer")
    outer.include(inner)
    assert {route.name: route.terms.timeout for route in outer.routes()} == {"inner": 7, "own": 3, "outer": 60}


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), "soon", (), timedelta(0), timedelta(-1)])
def test_an_invalid_timeout_is_refused(timeout):
    """A timeout that is not a finite number of seconds above zero is refused."""
    with pytest.raises(RegistrationError, match="timeout= must be a number of seconds above zero"):
        Processor(timeout=timeout)
    proc = Processor()
    with pytest.raises(RegistrationError, match="timeout= must be a number of seconds above zero"):
        proc.add_handler(Everything(), lambda message, context: None, timeout=timeout)
    with pytest.raises(RegistrationError, match="timeout= must be a number of seconds above zero"):
        proc.add_batch_handler(Everything(), lambda batch: None, timeout=timeout)
    assert proc.routes() == ()


# Remaining time and extensions


def test_remaining_decreases():
    """`context.remaining` decreases in hooks and handlers, and is negative after the timeout."""
    proc, seen = hasty_processor(timeout=0.2), []
    record = lambda worker, context: seen.append(context.remaining)
    proc.before_handling(record)
    proc.after_handling(record)

    @proc.handle_for(Everything())
    def handle(message, context):
        seen.append(context.remaining)
        time.sleep(0.25)
        seen.append(context.remaining)

    run(Broker(proc, [SLOW]))
    assert seen == sorted(seen, reverse=True)
    assert 0 < seen[1] <= seen[0] <= 0.2
    assert 0 > seen[2] >= seen[3]


@pytest.mark.parametrize("is_async", [True, False])
def test_extend_lengthens_the_timeout(is_async):
    """A handler that extends its timeout may run longer by that time."""
    proc, left = hasty_processor(), []

    def begin(message, context):
        if not message.get_json()["extends"]:
            return
        before = context.remaining
        context.extend(timedelta(seconds=0.5))
        context.extend(0.5)
        left.append(context.remaining - before)

    async def handle(message, context):
        begin(message, context)
        await asyncio.sleep(0.4)

    def handle_sync(message, context):
        begin(message, context)
        time.sleep(0.4)

    proc.add_handler(Everything(), handle if is_async else handle_sync)
    _, report = run(Broker(proc, [b'{"extends":true}', b'{"extends":false}']))
    assert proc.dlq.by_body() == [(b'{"extends":false}', "timeout")]
    assert report.total_handled == 1
    assert 0.9 < left[0] <= 1


def test_an_extended_timeout_expires():
    """A handler is cancelled at its extended timeout."""
    proc = hasty_processor()

    @proc.handle_for(Everything())
    async def handle(message, context):
        context.extend(0.1)
        await asyncio.sleep(30)

    run(Broker(proc, [SLOW]))
    assert proc.dlq.by_body() == [(SLOW, "timeout")]


def test_an_extension_applies_to_one_attempt():
    """Each attempt starts with the full timeout, without the time and the extensions of earlier attempts."""
    proc, remaining = hasty_processor(timeout=0.3, concurrency=3), []

    @proc.handle_for(Everything())
    def handle(message, context):
        remaining.append(context.remaining)
        if context.attempt == 1:
            context.extend(100)
            time.sleep(0.2)
        if context.attempt < 3:
            context.retry(0)
        else:
            time.sleep(0.5)

    _, report = run(Broker(proc, [SLOW, FAST], capabilities=Capabilities()))
    assert (report.retried, dict(report.dead)) == (4, {"timeout": 2})
    assert all(0.2 < left <= 0.3 for left in remaining)


def test_each_half_of_a_batch_has_its_own_timeout():
    """The halves of a batch that timed out start with a full timeout."""
    proc, calls = hasty_processor(), []

    @proc.handle_batch_for(Everything(), size=2, wait=0.05)
    async def handle(batch):
        calls.append(len(batch))
        await asyncio.sleep(30 if len(batch) > 1 else 0)

    _, report = run(Broker(proc, [b"{}", b"{}"]))
    assert calls == [2, 1, 1]
    assert (report.total_handled, report.total_dead) == (2, 0)


# Leases that cannot be renewed


def test_extend_is_refused_beyond_a_lease_that_cannot_be_renewed():
    """`extend` beyond a lease that cannot be renewed is a UsageError. A shorter extension is granted."""
    proc, refused, remaining = hasty_processor(timeout=1), [], []

    @proc.handle_for(Everything())
    def handle(message, context):
        before = context.remaining
        context.extend(1)
        with pytest.raises(UsageError, match="cannot be extended by 60 s") as error:
            context.extend(60)
        refused.append(str(error.value))
        remaining.append(context.remaining - before)

    run(Broker(proc, [SLOW], capabilities=Capabilities(lease=30, renewable=False)))
    assert refused[0].startswith("broker:queue: the lease is 30 s and cannot be renewed")
    assert 0.5 < remaining[0] <= 1


def test_extend_is_unlimited_without_a_lease_or_with_a_renewable_one():
    """Without a lease, or with a renewable lease, every extension is granted."""
    for capabilities in (Capabilities(), Capabilities(lease=5)):
        proc, remaining = hasty_processor(), []

        @proc.handle_for(Everything())
        def handle(message, context, remaining=remaining):
            context.extend(1000)
            remaining.append(context.remaining)

        run(Broker(proc, [SLOW], capabilities=capabilities))
        assert remaining[0] > 900


def test_a_timeout_beyond_a_lease_that_cannot_be_renewed_is_fatal():
    """A timeout beyond a lease that cannot be renewed is a Fatal error at the start that names the handler."""
    proc = hasty_processor(timeout=10)
    proc.add_handler(Field("a", 1), lambda message, context: None, name="short")
    proc.add_handler(Field("a", 2), lambda message, context: None, name="long", timeout=31)
    broker = Broker(proc, [SLOW], capabilities=Capabilities(lease=30, renewable=False))
    with pytest.raises(Fatal, match=r"broker:queue: the lease is 30 s .* long may take 31 s\. Lower its timeout="):
        run(broker)
    assert [session.closed for session in broker.sessions] == [True]
    assert (broker.acked, len(broker.ready)) == ([], 1)


def test_a_timeout_within_the_lease_is_accepted():
    """A timeout within the lease is accepted, as is a longer one with a renewable lease or for a declared discard."""
    for timeout, capabilities in ((30, Capabilities(lease=30, renewable=False)), (600, Capabilities(lease=30))):
        proc = hasty_processor(timeout=timeout)
        proc.add_handler(Everything(), lambda message, context: None)
        assert run(Broker(proc, [SLOW], capabilities=capabilities)).report.total_handled == 1
    proc = hasty_processor(timeout=600)
    proc.discard_for(Everything(), reason="not relevant")
    run(Broker(proc, [SLOW], capabilities=Capabilities(lease=30, renewable=False)))


# The runner


def test_execute_applies_timeouts():
    """`execute` with a MemoryAdapter applies timeouts."""
    proc, done = hasty_processor(), threading.Event()

    @proc.handle_for(Everything())
    def handle(message, context):
        if slow(message):
            done.wait(10)

    adapter = MemoryAdapter(proc, [SLOW, FAST, FAST])

    def release():
        wait_until(lambda: len(adapter.settled) == 2, "the other messages to be settled", 10)
        time.sleep(0.2)
        done.set()

    helper = threading.Thread(target=release)
    helper.start()
    (report,) = execute([adapter])
    helper.join()
    assert (report.total_handled, dict(report.dead)) == (2, {"timeout": 1})
