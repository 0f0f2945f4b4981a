"""What is left when something ends before its time: a lease, a lane, a drain."""

from __future__ import annotations

import asyncio
import gc
from types import SimpleNamespace

import pytest

from missive import ForcedStop, Processor
from missive.engine.engine import Engine
from missive.engine.runner import execute
from missive.matchers import Everything
from missive.messages import RawMessage
from missive.testing import MemoryAdapter
from missive.transport import Disposition


@pytest.mark.parametrize("is_async", [False, True])
def test_what_was_not_started_is_not_started_after_a_forced_stop(is_async):
    """A drain that is cut short leaves what waits for a worker alone: no handler begins after it."""
    proc = Processor(name="t", dlq={})
    seen, events = [], SimpleNamespace()

    async def wait(message, context):
        seen.append(message)
        events.engine.stop()
        await asyncio.sleep(600)

    def block(message, context):
        seen.append(message)
        asyncio.run_coroutine_threadsafe(stopped(), events.loop).result()

    async def stopped():
        events.engine.stop()
        await events.over.wait()

    proc.add_handler(Everything(), wait if is_async else block)

    async def main():
        events.loop, events.over = asyncio.get_running_loop(), asyncio.Event()
        adapter = MemoryAdapter(proc, [b"1", b"2", b"3"], ends=False)
        events.engine = Engine(proc, [adapter], sink=None, concurrency=1, drain=0, handlers_loop=events.loop)
        with pytest.raises(ForcedStop):
            await asyncio.wait_for(events.engine.main(), 20)
        events.over.set()
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert len(seen) == 1
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_what_a_batch_did_not_run_is_given_back_at_a_stop():
    """While draining, what waits behind a message of its lane that is held is given back with it, and not run."""
    proc = Processor(name="t", dlq={})
    runs, engines = [], []

    @proc.handle_batch_for(Everything(), wait=0, ordered_by=lambda message: "one")
    async def handle(batch):
        runs.append([message.raw_data for message in batch.messages])
        if len(batch) > 1:
            engines[0].stop()
            await asyncio.sleep(0.1)  # the drain takes back what waits
            raise ValueError
        batch[0].nack()

    async def main():
        adapter = MemoryAdapter(proc, [b"1", b"2"], ends=False)
        loop = asyncio.get_running_loop()
        engines.append(Engine(proc, [adapter], sink=None, concurrency=1, drain=20, handlers_loop=loop))
        await asyncio.wait_for(engines[0].main(), 20)
        assert runs == [[b"1", b"2"], [b"1"]]
        assert sorted((item.delivery.body, item.disposition) for item in adapter.settled) == [
            (b"1", Disposition.release),
            (b"2", Disposition.release),
        ]

    asyncio.run(main())


def test_a_batch_that_is_stopped_by_force_runs_no_other_half():
    """A handler that is cancelled at the search for the one that fails is not called with the next half."""
    proc = Processor(name="t", dlq={})
    runs, engines = [], []

    @proc.handle_batch_for(Everything(), wait=0)
    async def handle(batch):
        runs.append([message.raw_data for message in batch.messages])
        if len(batch) > 1:
            raise ValueError
        engines[0].stop()
        await asyncio.sleep(600)

    async def main():
        adapter = MemoryAdapter(proc, [b"1", b"2"], ends=False)
        loop = asyncio.get_running_loop()
        engines.append(Engine(proc, [adapter], sink=None, concurrency=1, drain=0, handlers_loop=loop))
        with pytest.raises(ForcedStop):
            await asyncio.wait_for(engines[0].main(), 20)
        assert runs == [[b"1", b"2"], [b"1"]]
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


@pytest.mark.parametrize(("before", "meanwhile"), [(700, 10_000), (5000, 5000)])
def test_the_garbage_collector_looks_less_often_unless_it_was_told_when(before, meanwhile):
    """While processing runs, the collector looks every ten thousand objects; what somebody else has set stays."""
    proc, seen, earlier = Processor(RawMessage, name="t", dlq={}), [], gc.get_threshold()
    proc.add_handler(Everything(), lambda message, context: seen.append(gc.get_threshold()[0]))
    gc.set_threshold(before)
    try:
        execute([MemoryAdapter(proc, [b""])])
        assert (seen, gc.get_threshold()[0]) == ([meanwhile], before)
    finally:
        gc.set_threshold(*earlier)
