"""Tasks for async handlers, on the handlers' loop, which is not the engine's loop."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
from collections import deque
from collections.abc import Sequence
from typing import Any

from missive.app.context import ProcessingContext
from missive.app.processor import Processor
from missive.app.terms import HandlerRoute
from missive.engine.job import Job, Work
from missive.engine.processes.inflight import InFlightSlot
from missive.engine.workers.compiler import compile_async_route
from missive.engine.workers.handlers import Clock, CompiledAsyncHandler
from missive.engine.workers.hooks import end_async_worker, run_async_hooks
from missive.engine.workers.lane_runs import compile_async_lane_run
from missive.engine.workers.outbox import CHUNK, Outbox
from missive.engine.workers.pool import Pool

_GRACE = 5.0
"""Time after which a cancelled handler, or a loop that does not answer, counts as stuck, in seconds."""


class LoopPool(Pool):
    """Tasks for async handlers, which share one processing context.

    Up to `concurrency` runners exist. A runner is a task that runs queued work, one piece after the other. It ends when
    the queue is empty, or when a handler has set a context variable, because the next job must not see the value.
    """

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
        self._handlers = {route: compile_async_route(route, clock) for route in routes}
        self._handlers[self.lane_route] = compile_async_lane_run(self._handlers, clock)
        self._loop = handlers_loop
        self._works: deque[Work] = deque()
        self._free = list(reversed(range(concurrency)))
        self._runners: dict[int, asyncio.Task[None]] = {}
        self._context: ProcessingContext[Any] = ProcessingContext(processor, clock)
        self._clean = contextvars.Context()
        self._unanswered: float | None = None

    async def start(self) -> None:
        """Run `before_processing` on the handlers' loop."""
        starting = run_async_hooks(self._hooks.before_processing, self._context)
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(starting, self._loop))

    def _submit(self, works: Sequence[Work]) -> None:
        self._works.extend(works)
        self._loop.call_soon_threadsafe(self._spawn)

    def _withdraw(self) -> list[Work]:
        works: list[Work] = []
        while self._works:
            try:
                works.append(self._works.popleft())
            except IndexError:  # a runner took the last one
                break
        return works

    async def stop(self) -> None:
        """Cancel running handlers, then run `after_processing`."""
        stopping = self._stop()
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(stopping, self._loop))

    async def _stop(self) -> None:
        runners = list(self._runners.values())
        for runner in runners:
            runner.cancel()
        await asyncio.gather(*runners, return_exceptions=True)
        await end_async_worker(self._hooks.after_processing, self._context)

    def _interrupt(self, index: int, job: Job) -> None:
        if self._unanswered is None:
            self._unanswered = self._clock()
        with contextlib.suppress(RuntimeError):  # the handlers' loop is closed
            self._loop.call_soon_threadsafe(self._cancel, index, job, job.started)

    def _cancel(self, index: int, job: Job, started: float | None) -> None:
        self._unanswered = None
        work = self._current[index]
        if work is not None and job in work.active and job.started == started:
            self._runners[index].cancel()

    def _hangs(self, job: Job, now: float) -> bool:
        return job.overdue and now > job.deadline + _GRACE

    def stuck(self, now: float) -> list[Job]:
        """Return one job for each runner that may never return: every overdue one while a handler blocks the loop."""
        if self.blocked(now):
            return [active[0] for _, active in self._active() if active[0].overdue]
        return super().stuck(now)

    def blocked(self, now: float) -> bool:
        """Return whether a handler blocks the loop, and with it all other handlers."""
        return self._unanswered is not None and now > self._unanswered + _GRACE

    def hanging(self, now: float) -> list[list[Job]]:
        """Return the jobs of each runner that may never return; of a blocked loop, the jobs that may block it."""
        if not self.blocked(now):
            return super().hanging(now)
        blocking = asyncio.current_task(self._loop)
        active = dict(self._active())
        for index, runner in list(self._runners.items()):
            if runner is blocking and index in active:
                return [active[index]]
        # A task or a callback of some handler blocks the loop.
        return [[job for jobs in active.values() for job in jobs]] if active else []

    def _spawn(self) -> None:
        for _ in range(min(len(self._free), len(self._works))):
            index = self._free.pop()
            runner = self._runners[index] = self._loop.create_task(self._run(index), context=self._clean.copy())
            runner.add_done_callback(functools.partial(self._ended, index))

    def _ended(self, index: int, _runner: asyncio.Task[None]) -> None:
        del self._runners[index]
        self._current[index] = None
        self._free.append(index)
        if self._works:
            self._spawn()

    def _recording_handlers(self) -> tuple[InFlightSlot | None, dict[HandlerRoute, CompiledAsyncHandler]]:
        """Return a free slot of the in-flight log and the handlers that record in it; None without a log or a slot."""
        if self.in_flight is None or (slot := self.in_flight.acquire()) is None:
            return None, self._handlers
        handlers = slot.recording(self._handlers)
        handlers[self.lane_route] = compile_async_lane_run(handlers, self._clock)
        return slot, handlers

    async def _run(self, index: int) -> None:
        works, outbox, context, current = self._works, self._outbox, self._context, self._current
        slot, handlers = self._recording_handlers()
        copy_context = contextvars.copy_context
        clean = copy_context()
        cancelling = self._runners[index].cancelling
        done = 0
        while True:
            try:
                work = works.popleft()
            except IndexError:
                break
            current[index] = work
            try:
                await handlers[work.route](work, context)  # type: ignore[index]
            except BaseException as error:  # noqa: BLE001 - the compiled handler decides every exception that it sees
                self.rescue(work, error)
            outbox.put(work)
            done += 1
            try:
                same = copy_context() == clean
            except Exception:  # noqa: BLE001 - the __eq__ of a value may raise, or return something other than a bool
                break
            if not same or cancelling():
                break
            if done % CHUNK == 0:
                outbox.flush()
                await asyncio.sleep(0)
        if self.in_flight is not None and slot is not None:
            self.in_flight.release(slot)
        outbox.flush()
