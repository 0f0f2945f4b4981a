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
from missive.transport import Capabilities, Disposition, SettlementResult


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


def test_what_is_interrupted_for_its_lost_lease_is_no_dead_letter():
    """A handler that is cancelled because its message went to somebody else leaves no dead letter behind."""
    box = {}
    proc = Processor(name="t", dlq=box)
    interrupted = []

    class Fenced(MemoryAdapter):
        async def connect(self, host):
            session = await super().connect(host)

            async def extend(deliveries):
                return [SettlementResult.fenced] * len(deliveries)

            session.extend = extend
            return session

    @proc.handle_for(Everything())
    async def handle(message, context):
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            interrupted.append(message)
            raise

    (report,) = execute([Fenced(proc, [b"1"], capabilities=Capabilities(lease=0.2))])
    assert len(interrupted) == 1
    assert (box, report.total_dead, report.redelivered, report.unsettled) == ({}, 0, 1, 0)


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


def test_all_that_is_held_of_a_lane_is_let_go_of_with_its_leases():
    """Two of one key wait to be retried, one behind the other, and lose their leases: neither is waited for."""
    proc = Processor(name="t", dlq={})
    runs = []

    class Fenced(MemoryAdapter):
        async def connect(self, host):
            session = await super().connect(host)

            async def extend(deliveries):
                return [SettlementResult.fenced] * len(deliveries)

            session.extend = extend
            return session

    @proc.handle_batch_for(Everything(), wait=0, ordered_by=lambda message: "one")
    async def handle(batch):
        runs.append(len(batch))
        for context in batch:
            context.retry(600)

    async def main():
        adapter = Fenced(proc, [b"1", b"2"], capabilities=Capabilities(lease=0.2))
        engine = Engine(proc, [adapter], sink=None, concurrency=1, drain=1, handlers_loop=asyncio.get_running_loop())
        report = await asyncio.wait_for(engine.main(), 20)
        assert runs == [2]
        assert (report.redelivered, report.unsettled) == (2, 0)

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
