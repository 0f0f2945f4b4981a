"""The tasks of worker's async resources, and cancellation."""

from __future__ import annotations

import asyncio

import pytest

from missive import ForcedStop, Processor, RawMessage
from missive.engine.engine import Engine
from missive.engine.runner import execute
from missive.matchers import Everything
from missive.testing import MemoryAdapter
from tests.support.resources import CANARY, run_tasks, run_with_worker, variable


def test_a_workers_async_resource_runs_in_one_task():
    """It opens and closes in the same task, separate from messages, so that task groups and timeouts can stay open."""
    proc, tasks = Processor(dlq=(dead := {})), []

    @proc.resource("worker")
    async def group(context):
        tasks.append(asyncio.current_task())
        token = variable.set("the worker's")
        async with asyncio.timeout(None), asyncio.TaskGroup() as inside:
            yield inside
        variable.reset(token)
        tasks.append(asyncio.current_task())

    @proc.handle_for(Everything())
    async def handle(message, context):
        (await context.aget(group)).create_task(run_tasks())
        tasks.append(asyncio.current_task())
        assert variable.get() == "clean"

    execute([MemoryAdapter(proc, [b"x"])])
    opened, handled, closed = tasks
    assert dead == {}
    assert opened is closed
    assert opened is not handled


def test_a_workers_resource_that_ends_early_is_opened_anew():
    """A failed task group ends its resource. The next request opens another, and the worker reports the failure."""
    opened, gate = [], asyncio.Event()

    @Processor().resource("worker")
    async def group(context):
        async with asyncio.TaskGroup() as inside:
            opened.append(inside)
            try:
                yield inside
            finally:
                await gate.wait()  # the next request arrives during the clean-up
                opened.append("closed")

    async def main(worker):
        async def fail():
            raise OSError(CANARY)

        first = await worker.aget(group)
        first.create_task(fail())
        await run_tasks()
        second = await worker.aget(group)
        assert second is not first
        assert "closed" not in opened
        gate.set()
        await run_tasks()
        assert await worker.aget(group) is second

    failed = run_with_worker(main)
    assert opened[2:] == ["closed"] * 2
    assert str(failed).endswith("raised ExceptionGroup when it was closed")


def test_cancelling_a_worker_during_closing_closes_the_rest():
    """A cancellation interrupts the resource that hangs at its end; the remaining resources are closed."""
    log = []

    @Processor().resource("worker")
    async def first(context):
        yield
        log.append("close first")

    @Processor().resource("worker")
    async def hangs(context):
        yield
        log.append("hang")
        try:
            await asyncio.Event().wait()
        finally:
            await run_tasks()
            log.append("hangs no more")

    async def main(worker):
        await worker.aget(first)
        await worker.aget(hangs)
        closing = asyncio.ensure_future(worker.opened.aclose())
        await run_tasks()
        closing.cancel()
        assert str(await closing).endswith("hangs raised CancelledError when it was closed")

    run_with_worker(main)
    assert log == ["hang", "hangs no more", "close first"]


def test_a_cancelled_handler_closes_its_resources():
    """The CancelledError is raised at the yield, and the clean-up can await."""
    log, proc = [], Processor(dlq={})

    @proc.resource()
    async def transaction(context):
        try:
            yield
        except asyncio.CancelledError:
            await run_tasks()
            log.append("rolled back")
            raise

    @proc.handle_for(Everything())
    async def handle(message, context):
        await context.aget(transaction)
        log.append("waits")
        await asyncio.Event().wait()

    async def main():
        async with proc.test_client() as client:
            sending = asyncio.ensure_future(client.send(RawMessage(b"")))
            await run_tasks()
            sending.cancel()
            return await sending

    result = asyncio.run(main())
    assert log == ["waits", "rolled back"]
    assert isinstance(result.exception, asyncio.CancelledError)


def test_a_forced_stop_closes_the_resources_of_async_handlers():
    """A forced stop cancels the handler and its resources; then the worker's resources close."""
    proc, log, engines = Processor(dlq={}), [], []

    @proc.resource("worker")
    async def pool(context):
        yield
        log.append("close pool")

    @proc.resource()
    async def transaction(context):
        try:
            yield await context.aget(pool)
        except asyncio.CancelledError:
            log.append("rolled back")
            raise

    async def main():
        loop = asyncio.get_running_loop()
        adapter = MemoryAdapter(proc, [b"x"], ends=False)
        engine = Engine(proc, [adapter], sink=None, concurrency=1, drain=0.01, handlers_loop=loop)
        engines.append(engine)
        with pytest.raises(ForcedStop):
            await asyncio.wait_for(engine.main(), 20)
        return adapter

    @proc.handle_for(Everything())
    async def handle(message, context):
        await context.aget(transaction)
        engines[0].stop()
        await asyncio.Event().wait()

    assert asyncio.run(main()).settled == []
    assert log == ["rolled back", "close pool"]
