"""Openings: concurrent requests share one, and circles are errors."""

from __future__ import annotations

import asyncio
import contextlib
import traceback

import pytest

from missive import HandlingContext, Processor, RawMessage, ResourceError
from missive.engine.runner import execute
from missive.matchers import Everything
from missive.testing import MemoryAdapter
from tests.support.resources import KINDS, World, gated, run_tasks, run_with_worker


def test_concurrent_requests_share_one_opening():
    """Five messages that wait for the same opening receive the same object."""
    proc, log = Processor(concurrency=5, dlq=(dead := {})), []
    received, asked = [], []

    @proc.resource("worker")
    async def pool(context):
        log.append("open")
        await asked_by_all.wait()
        yield object()
        log.append("close")

    asked_by_all = asyncio.Event()

    @proc.handle_for(Everything())
    async def handle(message, context):
        asked.append(message)
        if len(asked) == 5:
            asked_by_all.set()
        received.append(await context.aget(pool))

    execute([MemoryAdapter(proc, [b"x"] * 5)])
    assert (len(received), len(set(received)), dead) == (5, 1, {})
    assert log == ["open", "close"]


def test_a_failed_opening_fails_the_waiting_tasks_only():
    """Waiting tasks receive the exception of the opening. The next request opens the resource anew."""
    proc, log, received, asked = Processor(concurrency=5, dlq=(dead := {})), [], [], []
    asked_by_all = asyncio.Event()

    @proc.resource("worker")
    async def pool(context):
        log.append("open")
        await asked_by_all.wait()
        if len(log) == 1:
            raise OSError("connect")
        yield "pool"

    @proc.handle_for(Everything())
    async def handle(message, context):
        asked.append(message)
        if len(asked) == 5:
            asked_by_all.set()
        received.append(await context.aget(pool))

    execute([MemoryAdapter(proc, [b"x"] * 7)])
    assert [reason for _, reason in dead.values()] == ["connect"] * 5
    assert (received, log) == (["pool"] * 2, ["open"] * 2)


def test_cancelling_the_first_request_does_not_affect_the_others():
    """A message that is cancelled while it opens a worker's resource does not cancel the opening for others."""
    log = []

    async def main(worker):
        key, gate = gated("worker", log)
        first, second = (asyncio.ensure_future(worker.aget(key)) for _ in range(2))
        await run_tasks()
        first.cancel()
        await run_tasks()
        gate.set()
        assert await second == "value"
        assert first.cancelled()

    assert run_with_worker(main) is None
    assert log == ["open", "close"]


def test_an_opening_without_waiting_tasks_is_cancelled():
    """When all requests are cancelled, so is the opening, and the next request starts another."""
    log = []

    async def main(worker):
        key, gate = gated("worker", log)
        first, second = (asyncio.ensure_future(worker.aget(key)) for _ in range(2))
        await run_tasks()
        first.cancel()
        second.cancel()
        await run_tasks()
        assert log == ["open", "close"]
        gate.set()
        assert await worker.aget(key) == "value"
        assert len(worker.opened._tasks) == 1

    assert run_with_worker(main) is None
    assert log == ["open", "close"] * 2


def test_an_opening_that_ignores_its_cancellation_is_closed():
    """A resource that opens despite its cancellation is closed at once."""
    log = []

    @Processor().resource("worker")
    async def stubborn(context):
        log.append("open")
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        yield
        log.append("close")

    async def main(worker):
        asking = asyncio.ensure_future(worker.aget(stubborn))
        await run_tasks()
        asking.cancel()
        await run_tasks()
        assert log == ["open", "close"]

    assert run_with_worker(main) is None


def slow_to_cancel(log):
    """Return a worker's resource whose first opening ends at its second cancellation."""

    @Processor().resource("worker")
    async def slow(context):
        log.append("open")
        if log == ["open"]:
            try:
                await asyncio.Event().wait()
            finally:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.Event().wait()
                log.append("cleaned up")
        yield "value"
        log.append("close")

    return slow


def test_the_end_of_a_worker_waits_for_cancelled_openings():
    """A slow cancelled opening delays the end of the worker, and not the next request."""
    log = []

    async def main(worker):
        slow = slow_to_cancel(log)
        asking = asyncio.ensure_future(worker.aget(slow))
        await run_tasks()
        asking.cancel()
        await run_tasks()
        assert await worker.aget(slow) == "value"

    assert run_with_worker(main) is None
    assert log == ["open", "open", "close", "cleaned up"]


def test_the_end_of_a_worker_thread_waits_for_cancelled_openings():
    """A worker thread also waits for an opening that the awaitable of its handler left on the loop."""
    proc, log = Processor(dlq=(dead := {})), []
    slow = slow_to_cancel(log)

    async def ask(context):
        asking = asyncio.ensure_future(context.aget(slow))
        await run_tasks()
        asking.cancel()
        await run_tasks()

    proc.add_handler(Everything(), lambda message, context: ask(context))
    proc.after_processing(lambda worker: log.append("end"))
    execute([MemoryAdapter(proc, [b"x"])])
    assert (dead, log) == ({}, ["open", "end", "cleaned up"])


def test_the_tasks_of_an_attempt_share_one_opening():
    """Concurrent tasks of a handler receive the same object, also when the first task is cancelled."""
    log = []

    async def main(worker):
        context = HandlingContext(RawMessage(b""), worker)
        key, gate = gated("message", log)
        first, second, third = (asyncio.ensure_future(context.aget(key)) for _ in range(3))
        await run_tasks()
        first.cancel()
        await run_tasks()
        gate.set()
        assert await asyncio.gather(second, third) == ["value"] * 2
        assert await context.opened.aclose(None) is None

    run_with_worker(main)
    assert log == ["open", "close"] * 2


def test_the_tasks_of_an_attempt_share_the_failure_to_open():
    """All waiting tasks receive the exception of the opening, and a later request opens the resource anew."""
    tries = []

    @Processor().resource()
    async def fails(context):
        tries.append(1)
        await run_tasks()
        if len(tries) == 1:
            raise OSError("connect")
        yield len(tries)

    async def main(worker):
        context = HandlingContext(RawMessage(b""), worker)
        errors = await asyncio.gather(*(context.aget(fails) for _ in range(3)), return_exceptions=True)
        assert [str(error) for error in errors] == ["connect"] * 3
        assert [frame.name for frame in traceback.extract_tb(errors[0].__traceback__)].count("wait") <= 1
        assert await context.aget(fails) == 2
        await context.opened.aclose(None)

    run_with_worker(main)


@pytest.mark.parametrize("scope", ["message", "worker"])
def test_a_circle_of_sync_resources_is_an_error(scope):
    """Two sync resources that request each other raise an error instead of recursing."""
    world = World("client", *KINDS["def"])

    @world.proc.resource(scope)
    def one(context):
        yield context.get(other)

    @world.proc.resource(scope)
    def other(context):
        yield context.get(one)

    world.handle(lambda context, *_: None, one)
    world.run(b"1")
    assert [
        f"the resource {one.name} needs itself, through the resources that it opens. Break the circle"
    ] == world.reasons


@pytest.mark.parametrize("scope", ["message", "worker"])
def test_a_circle_of_async_resources_is_an_error(scope):
    """Async resources that request each other or themselves raise an error instead of waiting."""

    @Processor().resource(scope)
    async def one(context):
        yield await context.aget(other)

    @Processor().resource(scope)
    async def other(context):
        yield await context.aget(one)

    @Processor().resource(scope)
    async def itself(context):
        yield await asyncio.gather(context.aget(itself))

    async def main(worker):
        context = HandlingContext(RawMessage(b""), worker)
        with pytest.raises(ResourceError, match=r"one needs itself"):
            await context.aget(one)
        with pytest.raises(ResourceError, match=r"itself needs itself"):
            await context.aget(itself)

    assert run_with_worker(main) is None


def test_messages_that_enter_a_circle_at_two_places_fail():
    """Two messages that each open one of two mutually dependent resources fail instead of waiting."""
    both = []

    @Processor().resource("worker")
    async def one(context):
        both.append(1)
        await run_tasks()
        yield await context.aget(other)

    @Processor().resource("worker")
    async def other(context):
        both.append(1)
        await run_tasks()
        yield await context.aget(one)

    async def main(worker):
        errors = await asyncio.gather(worker.aget(one), worker.aget(other), return_exceptions=True)
        assert len(both) == 2
        assert [ResourceError] * 2 == [type(error) for error in errors]

    assert run_with_worker(main) is None


def test_a_circle_is_detected_after_another_opening():
    """A circle is an error also when a resource outside of the circle was opened before."""

    @Processor().resource()
    async def innocent(context):
        yield

    @Processor().resource()
    async def one(context):
        await context.aget(innocent)
        yield await context.aget(other)

    @Processor().resource()
    async def other(context):
        await run_tasks()
        yield await context.aget(one)

    async def main(worker):
        context = HandlingContext(RawMessage(b""), worker)
        with pytest.raises(ResourceError, match=r"one needs itself"):
            await context.aget(one)
        await context.opened.aclose(None)

    run_with_worker(main)


def test_a_failed_request_is_no_part_of_a_circle():
    """A resource whose request for another one failed can be requested by that other one later."""
    tries, gate = [], asyncio.Event()

    @Processor().resource("worker")
    async def without(context):
        with contextlib.suppress(OSError):
            await context.aget(fails_at_first)
        await gate.wait()
        yield "without"

    @Processor().resource("worker")
    async def fails_at_first(context):
        tries.append(1)
        if len(tries) == 1:
            raise OSError
        yield f"with {await context.aget(without)}"

    async def main(worker):
        first = asyncio.ensure_future(worker.aget(without))
        await run_tasks()
        second = asyncio.ensure_future(worker.aget(fails_at_first))
        await run_tasks()
        gate.set()
        assert await asyncio.gather(first, second) == ["without", "with without"]

    assert run_with_worker(main) is None


def test_a_shared_resource_is_no_circle():
    """Two resources that request a third one, and a resource that requests both, can open concurrently."""

    @Processor().resource("worker")
    async def base(context):
        await run_tasks()
        yield ["base"]

    @Processor().resource("worker")
    async def left(context):
        yield [*await context.aget(base), "left"]

    @Processor().resource("worker")
    async def right(context):
        yield [*await context.aget(base), "right"]

    @Processor().resource()
    async def top(context):
        yield await asyncio.gather(context.aget(left), context.aget(right))

    async def main(worker):
        context = HandlingContext(RawMessage(b""), worker)
        assert await context.aget(top) == [["base", "left"], ["base", "right"]]
        await context.opened.aclose(None)

    assert run_with_worker(main) is None
