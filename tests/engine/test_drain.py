"""The drain: unstarted messages go back to their transports, running ones finish, and a forced stop ends all."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time
from types import SimpleNamespace

import pytest

from missive import ForcedStop, Processor
from missive.engine.engine import Engine
from missive.errors import Transient
from missive.matchers import Everything, by_field
from missive.testing import MemoryAdapter
from missive.transport import Capabilities, Delivery, Disposition
from tests.support.broker import Broker
from tests.support.engine import FastRuntime, bodies, processor, run, until


def engine_of(proc, adapter, **settings):
    """Return an engine with one worker whose handlers run on the current loop."""
    settings = {"sink": None, "concurrency": 1, "handlers_loop": asyncio.get_running_loop(), **settings}
    return Engine(proc, [adapter], **settings)


# A drain


@pytest.mark.parametrize("release", ["native", "none"])
def test_a_drain_releases_the_unstarted_messages_of_a_lane(release):
    """Unstarted messages of a lane that a worker runs are released, or filed when their transport takes none back."""
    proc, begun, go_on = processor(concurrency=1), threading.Event(), threading.Event()

    @proc.handle_for(Everything(), ordered_by=by_field("k"))
    def handle(message, context):
        begun.set()
        go_on.wait(10)

    broker = Broker(proc, bodies(10, k=0), capabilities=Capabilities(release=release), ends=False)

    async def meanwhile(engine):
        await until(begun.is_set, "the first message to begin")
        engine.stop()
        await until(
            lambda: len(broker.released if release == "native" else proc.dlq) == 9, "the others to be released or filed"
        )
        go_on.set()

    _, report = run(broker, meanwhile=meanwhile)
    assert (report.total_handled, report.unsettled) == (1, 0)


def test_a_source_that_fails_to_stop_does_not_hinder_the_drain():
    """When one source fails to stop its intake, running messages finish, and all sources release the others."""
    proc, begun, go_on = processor(concurrency=1), threading.Event(), threading.Event()

    @proc.handle_for(Everything())
    def handle(message, context):
        begun.set()
        go_on.wait(10)

    failing, other = Broker(proc, bodies(5), ends=False), Broker(proc, bodies(5), ends=False)

    def stop_intake(session):
        raise OSError("a mistake of the client")

    failing.intercept["stop_intake"] = stop_intake

    async def meanwhile(engine):
        await until(begun.is_set, "a message to begin")
        engine.stop()
        await until(lambda: len(failing.released) + len(other.released) == 9, "the others to be released")
        go_on.set()

    _, report = run(failing, other, meanwhile=meanwhile)
    assert report.total_handled == 1


def test_a_drain_releases_messages_behind_a_nacked_one():
    """During a drain, a message that waits in a batch behind a nacked message of its lane is released with it."""
    proc = Processor(name="t", dlq={})
    runs, engines = [], []

    @proc.handle_batch_for(Everything(), wait=0, ordered_by=lambda message: "one lane")
    async def handle(batch):
        runs.append([message.raw_data for message in batch.messages])
        if len(batch) > 1:
            engines[0].stop()
            await asyncio.sleep(0.1)  # the drain withdraws waiting messages
            raise ValueError
        batch[0].nack()

    async def main():
        adapter = MemoryAdapter(proc, [b"1", b"2"], ends=False)
        engines.append(engine_of(proc, adapter, drain=20))
        await asyncio.wait_for(engines[0].main(), 20)
        assert runs == [[b"1", b"2"], [b"1"]]
        assert sorted((settlement.delivery.body, settlement.disposition) for settlement in adapter.settled) == [
            (b"1", Disposition.release),
            (b"2", Disposition.release),
        ]

    asyncio.run(main())


def test_a_connect_that_ignores_its_cancellation_does_not_delay_the_drain():
    """When `connect` ignores its cancellation and returns a session, the drain does not fetch from the session."""
    proc, connecting = Processor(name="t"), threading.Event()
    proc.discard_for(lambda message: False, reason="never")

    class IgnoresCancellation(Broker):
        async def connect(self, host):
            connecting.set()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(30)
            return await super().connect(host)

    async def main():
        serving = asyncio.create_task(IgnoresCancellation(proc).serve())
        await until(connecting.is_set, "a connection")
        began = time.monotonic()
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving
        return time.monotonic() - began

    assert asyncio.run(main()) < 10


class DyingDuringStop(MemoryAdapter):
    """An adapter whose first session dies in `settle`, some turns of the loop after it stopped the engine."""

    engine = None
    turns = 0

    async def connect(self, host):
        session = await super().connect(host)
        if self.sessions == 1:

            async def settle(settlements):
                self.engine.stop()
                for _ in range(self.turns):
                    await asyncio.sleep(0)
                raise Transient("gone")

            session.settle = settle
        return session


@pytest.mark.parametrize("turns", range(8))
def test_a_session_that_dies_during_a_stop_is_not_replaced_endlessly(turns):
    """When a session dies during a stop, its source reconnects at most once, and the engine ends."""
    proc = Processor(name="t", dlq={})
    proc.add_handler(Everything(), lambda message, context: None)
    adapter = DyingDuringStop(proc, [b"1", b"2"], ends=False)
    adapter.turns = turns

    async def main():
        adapter.engine = engine_of(proc, adapter, drain=60)  # on one loop, for an exact number of turns
        await asyncio.wait_for(adapter.engine.main(), 10)

    asyncio.run(main())
    assert adapter.sessions <= 2


# A forced stop


@pytest.mark.parametrize("is_async", [False, True])
def test_no_handler_begins_after_a_forced_stop(is_async):
    """After a drain that is cut short, no message that waits for a worker begins, and no task is left."""
    proc = Processor(name="t", dlq={})
    seen, shared = [], SimpleNamespace()

    async def wait(message, context):
        seen.append(message)
        shared.engine.stop()
        await asyncio.sleep(600)

    def block(message, context):
        seen.append(message)
        asyncio.run_coroutine_threadsafe(stop_and_wait(), shared.loop).result()

    async def stop_and_wait():
        shared.engine.stop()
        await shared.ended.wait()

    proc.add_handler(Everything(), wait if is_async else block)

    async def main():
        shared.loop, shared.ended = asyncio.get_running_loop(), asyncio.Event()
        adapter = MemoryAdapter(proc, [b"1", b"2", b"3"], ends=False)
        shared.engine = engine_of(proc, adapter, drain=0)
        with pytest.raises(ForcedStop):
            await asyncio.wait_for(shared.engine.main(), 20)
        shared.ended.set()
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert len(seen) == 1
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_a_batch_cancelled_by_a_forced_stop_runs_no_other_half():
    """When a forced stop cancels one half of a failed batch, the other half does not run."""
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
        engines.append(engine_of(proc, adapter, drain=0))
        with pytest.raises(ForcedStop):
            await asyncio.wait_for(engines[0].main(), 20)
        assert runs == [[b"1", b"2"], [b"1"]]
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_a_blocked_stop_of_intake_ends_in_a_forced_stop():
    """When the transport does not stop its intake before the deadline of the drain, the stop is a forced stop."""
    proc = Processor(name="t", dlq={})
    proc.add_handler(Everything(), lambda message, context: None)

    class Frozen(MemoryAdapter):
        async def connect(self, host):
            session = await super().connect(host)

            async def stop_intake():
                await host.sleep(600)

            session.stop_intake = stop_intake
            return session

    adapter = Frozen(proc, [b"1"], ends=False)

    async def main():
        engine = engine_of(proc, adapter, drain=0.2)
        asyncio.get_running_loop().call_later(0.2, engine.stop)
        with pytest.raises(ForcedStop):
            await asyncio.wait_for(engine.main(), 20)

    asyncio.run(main())


def test_a_commit_that_never_returns_does_not_delay_the_end(caplog):
    """The last commits are cut off after five seconds, and asyncio reports no error."""
    proc = processor()
    proc.add_handler(Everything(), lambda message, context: None)
    lanes = Capabilities(commit="cumulative", order="lane")
    broker = Broker(proc, [Delivery(b"{}", lane="a", position=0)], capabilities=lanes, ends=False)
    broker.intercept["commit"] = lambda session, watermarks: asyncio.Event().wait()

    async def meanwhile(engine):
        await until(lambda: engine.report.total_handled == 1, "the message to be handled")
        engine.stop()

    run(broker, runtime=FastRuntime(), meanwhile=meanwhile, check_left=False)
    gc.collect()
    assert caplog.text == ""
