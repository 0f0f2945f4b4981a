"""Threads for sync handlers, which never run on the engine's thread."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import queue
import threading
from collections.abc import Awaitable, Sequence
from typing import Any

from missive.app.context import ProcessingContext
from missive.app.processor import Processor
from missive.app.terms import HandlerRoute
from missive.dlq.failure import describe_exception
from missive.engine.job import Job, Work
from missive.engine.processes.inflight import InFlightSlot
from missive.engine.workers.compiler import compile_route
from missive.engine.workers.handlers import Clock, CompiledHandler
from missive.engine.workers.hooks import end_worker, run_hooks
from missive.engine.workers.lane_runs import compile_lane_run
from missive.engine.workers.outbox import Outbox
from missive.engine.workers.pool import Pool

logger = logging.getLogger("missive")


class ThreadPool(Pool):
    """Worker threads for sync handlers, each with its own `ProcessingContext`."""

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
        """The task on the handlers' loop that awaits a returned awaitable, by the thread that waits for it."""
        self._handlers_loop = handlers_loop
        self._handlers = {route: compile_route(route, resolve, clock) for route in routes}
        self._handlers[self.lane_route] = compile_lane_run(self._handlers, clock)
        self._resolve = resolve
        self._inbox: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._stopped: list[asyncio.Future[None]] = []

    async def start(self) -> None:
        """Start the threads and run `before_processing` in each."""
        loop = asyncio.get_running_loop()
        started: list[asyncio.Future[None]] = []
        for index in range(self._concurrency):
            ready, stopped = loop.create_future(), loop.create_future()
            started.append(ready)
            self._stopped.append(stopped)
            thread = threading.Thread(
                target=self._work, args=(index, loop, ready, stopped), name=f"missive-handler-{index + 1}", daemon=True
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

    def _interrupt(self, index: int, job: Job) -> None:
        with contextlib.suppress(RuntimeError):  # the handlers' loop is closed
            self._handlers_loop.call_soon_threadsafe(self._cancel, index, job, job.started)

    def _cancel(self, index: int, job: Job, started: float | None) -> None:
        """Cancel the awaitable that a thread waits for. It ends on the loop before the thread continues."""
        work = self._current[index]
        task = self._resolving.get(self._threads[index].ident)
        if task is not None and work is not None and job in work.active and job.started == started:
            task.cancel()

    async def stop(self) -> None:
        """Let each thread run `after_processing` and end. A thread that is stuck in a handler is left behind."""
        for _ in self._threads:
            self._inbox.put(None)
        if self._stopped and not self.outstanding:
            for failed in await asyncio.gather(*self._stopped, return_exceptions=True):
                if failed is not None:
                    raise failed

    def _work(
        self, index: int, loop: asyncio.AbstractEventLoop, ready: asyncio.Future[None], stopped: asyncio.Future[None]
    ) -> None:
        context: ProcessingContext[Any] = ProcessingContext(self._processor, self._clock)
        failed = run_hooks(self._hooks.before_processing, context)
        _resolve_future(loop, ready, failed)
        while failed is None:
            try:
                self._handle(index, context)
                break
            except BaseException as error:  # noqa: BLE001 - an exception that a library injected after its handler
                logger.error("a worker thread continues after %s", describe_exception(error))  # noqa: TRY400 - no text
        failed = end_worker(self._hooks.after_processing, context, self._resolve)
        _resolve_future(loop, stopped, failed)

    def _recording_handlers(self) -> tuple[InFlightSlot | None, dict[HandlerRoute, CompiledHandler]]:
        """Return a free slot of the in-flight log and the handlers that record in it; None without a log or a slot."""
        if self.in_flight is None or (slot := self.in_flight.acquire()) is None:
            return None, self._handlers
        handlers = slot.recording(self._handlers)
        handlers[self.lane_route] = compile_lane_run(handlers, self._clock)
        return slot, handlers

    def _handle(self, index: int, context: ProcessingContext[Any]) -> None:
        inbox, outbox, current = self._inbox, self._outbox, self._current
        slot, handlers = self._recording_handlers()
        clean = contextvars.copy_context()
        while True:
            try:
                work = inbox.get_nowait()
            except queue.Empty:
                current[index] = None
                if slot is not None:
                    slot.clear()
                outbox.flush()
                work = inbox.get()
            if work is None:
                return
            current[index] = work
            # In a copy, so that the next message does not see context variables that this handler sets.
            try:
                clean.copy().run(handlers[work.route], work, context)  # type: ignore[index]
            except BaseException as error:  # noqa: BLE001 - the compiled handler decides every exception that it sees
                self.rescue(work, error)
            outbox.put(work)


def _resolve_future(loop: asyncio.AbstractEventLoop, future: asyncio.Future[None], failed: Exception | None) -> None:
    def resolve() -> None:
        if not future.done():
            if failed is None:
                future.set_result(None)
            else:
                future.set_exception(failed)

    try:
        loop.call_soon_threadsafe(resolve)
    except RuntimeError:  # the loop is closed: a forced stop left this worker running
        return
