"""Worker threads for sync handlers: never the engine's own, each with what it opened for itself."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import queue
import threading
from collections.abc import Awaitable, Sequence
from typing import Any

from missive.app.context import ProcessingContext
from missive.app.processor import Processor
from missive.app.terms import HandlerRoute
from missive.engine.job import Job, Work
from missive.engine.processes.inflight import InFlightSlot
from missive.engine.workers.batches import compile_sync
from missive.engine.workers.handlers import Clock, SyncChain, sync_lane_chain
from missive.engine.workers.hooks import end_worker, run_hooks
from missive.engine.workers.pool import Outbox, Pool


class ThreadPool(Pool):
    """Worker threads for sync handlers, each with a ProcessingContext of its own."""

    def __init__(
        self,
        processor: Processor[Any],
        concurrency: int,
        outbox: Outbox,
        routes: Sequence[HandlerRoute],
        handlers_loop: asyncio.AbstractEventLoop,
        clock: Clock,
    ) -> None:
        super().__init__(processor, concurrency, outbox, clock)

        def resolve(returned: Awaitable[Any]) -> object:
            thread = threading.get_ident()

            async def wait() -> object:
                self._resolving[thread] = asyncio.current_task()
                try:
                    return await returned
                finally:
                    del self._resolving[thread]

            return asyncio.run_coroutine_threadsafe(wait(), handlers_loop).result()

        self._resolving: dict[int | None, asyncio.Task[Any] | None] = {}
        """What threads wait for that their handlers returned: it runs on the loop, and can be cancelled."""
        self._handlers_loop = handlers_loop
        self._chains = {route: compile_sync(route, resolve, clock) for route in routes}
        self._chains[self.lane_route] = sync_lane_chain(self._chains, clock)
        self._resolve = resolve
        self._inbox: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._stopped: list[asyncio.Future[None]] = []

    async def start(self) -> None:
        """Start the threads and run `before_processing` in each."""
        loop = asyncio.get_running_loop()
        started: list[asyncio.Future[None]] = []
        for slot in range(self._concurrency):
            ready, stopped = loop.create_future(), loop.create_future()
            started.append(ready)
            self._stopped.append(stopped)
            thread = threading.Thread(
                target=self._work, args=(slot, loop, ready, stopped), name=f"missive-handler-{slot + 1}", daemon=True
            )
            self._threads.append(thread)
            thread.start()
        for failed in await asyncio.gather(*started, return_exceptions=True):
            if failed is not None:
                raise failed

    def _submit(self, works: Sequence[Work]) -> None:
        put = self._inbox.put
        for work in works:
            put(work)

    def _withdraw(self) -> list[Work]:
        works: list[Work] = []
        while True:
            try:
                work = self._inbox.get_nowait()
            except queue.Empty:
                return works
            if work is not None:
                works.append(work)

    def _interrupt(self, slot: int, job: Job) -> None:
        with contextlib.suppress(RuntimeError):  # the loop of the handlers is gone
            self._handlers_loop.call_soon_threadsafe(self._cancel, slot, job, job.started)

    def _cancel(self, slot: int, job: Job, started: float | None) -> None:
        """Cancel what a thread waits for, which then ends on the loop before the thread goes on."""
        work = self._current[slot]
        task = self._resolving.get(self._threads[slot].ident)
        if task is not None and work is not None and job in work.active and job.started == started:
            task.cancel()

    async def stop(self) -> None:
        """Let each thread run `after_processing` and end; one that is stuck in a handler is left behind."""
        for _ in self._threads:
            self._inbox.put(None)
        if self._stopped and not self.outstanding:
            for failed in await asyncio.gather(*self._stopped, return_exceptions=True):
                if failed is not None:
                    raise failed

    def _work(
        self, slot: int, loop: asyncio.AbstractEventLoop, ready: asyncio.Future[None], stopped: asyncio.Future[None]
    ) -> None:
        context: ProcessingContext[Any] = ProcessingContext(self._processor, self._clock)
        failed = run_hooks(self._hooks.before_processing, context)
        _tell(loop, ready, failed)
        if failed is None:
            self._handle(slot, context)
        failed = end_worker(self._hooks.after_processing, context, self._resolve)
        _tell(loop, stopped, failed)

    def _chains_with_entry(self) -> tuple[InFlightSlot | None, dict[HandlerRoute, SyncChain]]:
        """Return an entry of the in-flight log, if there is a log, and the chains that write it."""
        if self.in_flight is None or (entry := self.in_flight.take()) is None:
            return None, self._chains
        chains = entry.around(self._chains)
        chains[self.lane_route] = sync_lane_chain(chains, self._clock)
        return entry, chains

    def _handle(self, slot: int, context: ProcessingContext[Any]) -> None:
        inbox, outbox, current = self._inbox, self._outbox, self._current
        entry, chains = self._chains_with_entry()
        clean = contextvars.copy_context()
        while True:
            try:
                work = inbox.get_nowait()
            except queue.Empty:
                current[slot] = None
                if entry is not None:
                    entry.clear()
                outbox.flush()
                work = inbox.get()
            if work is None:
                return
            current[slot] = work
            # In a copy, so that what a handler sets in a context variable is gone for the next message.
            clean.copy().run(chains[work.route], work, context)  # type: ignore[index]
            outbox.put(work)


def _tell(loop: asyncio.AbstractEventLoop, future: asyncio.Future[None], failed: Exception | None) -> None:
    def tell() -> None:
        if not future.done():
            if failed is None:
                future.set_result(None)
            else:
                future.set_exception(failed)

    try:
        loop.call_soon_threadsafe(tell)
    except RuntimeError:  # the engine is gone: a forced stop left this worker behind
        return
