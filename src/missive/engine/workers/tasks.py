"""Tasks for async handlers, on a loop of their own, which is not the engine's."""

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
from missive.engine.workers.batches import compile_async
from missive.engine.workers.handlers import AsyncChain, Clock, async_lane_chain
from missive.engine.workers.hooks import end_async_worker, run_async_hooks
from missive.engine.workers.pool import CHUNK, Outbox, Pool

_GRACE = 5.0
"""Seconds that a handler which was cancelled has to end, and a loop to answer, before they count as stuck."""


class LoopPool(Pool):
    """Tasks for async handlers on the loop that handlers have, which is not the engine's; they share one context.

    A runner is a task that works jobs off one after the other, at most `concurrency` of them at once. It ends when
    there is nothing left, or when a handler left a context variable behind: the next job gets a clean one.
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
        self._chains = {route: compile_async(route, clock) for route in routes}
        self._chains[self.lane_route] = async_lane_chain(self._chains, clock)
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
        """Cancel what still runs, then run `after_processing`."""
        stopping = self._stop()
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(stopping, self._loop))

    async def _stop(self) -> None:
        runners = list(self._runners.values())
        for runner in runners:
            runner.cancel()
        await asyncio.gather(*runners, return_exceptions=True)
        await end_async_worker(self._hooks.after_processing, self._context)

    def _interrupt(self, slot: int, job: Job) -> None:
        if self._unanswered is None:
            self._unanswered = self._clock()
        with contextlib.suppress(RuntimeError):  # the loop of the handlers is gone
            self._loop.call_soon_threadsafe(self._cancel, slot, job, job.started)

    def _cancel(self, slot: int, job: Job, started: float | None) -> None:
        self._unanswered = None
        work = self._current[slot]
        if work is not None and job in work.active and job.started == started:
            self._runners[slot].cancel()

    def _hangs(self, job: Job, now: float) -> bool:
        return job.overdue and now > job.deadline + _GRACE

    def stuck(self, now: float) -> list[Job]:
        """Return what runners are at that may never come back: all that is overdue, where one blocks the loop."""
        if self.blocked(now):
            return [active[0] for _, active in self._active() if active[0].overdue]
        return super().stuck(now)

    def blocked(self, now: float) -> bool:
        """Tell whether a handler blocks the loop, and keeps all others from going on."""
        return self._unanswered is not None and now > self._unanswered + _GRACE

    def _spawn(self) -> None:
        for _ in range(min(len(self._free), len(self._works))):
            slot = self._free.pop()
            runner = self._runners[slot] = self._loop.create_task(self._run(slot), context=self._clean.copy())
            runner.add_done_callback(functools.partial(self._ended, slot))

    def _ended(self, slot: int, _runner: asyncio.Task[None]) -> None:
        del self._runners[slot]
        self._current[slot] = None
        self._free.append(slot)
        if self._works:
            self._spawn()

    def _chains_with_entry(self) -> tuple[InFlightSlot | None, dict[HandlerRoute, AsyncChain]]:
        """Return an entry of the in-flight log, if there is a log, and the chains that write it."""
        if self.in_flight is None or (entry := self.in_flight.take()) is None:
            return None, self._chains
        chains = entry.around(self._chains)
        chains[self.lane_route] = async_lane_chain(chains, self._clock)
        return entry, chains

    async def _run(self, slot: int) -> None:
        works, outbox, context, current = self._works, self._outbox, self._context, self._current
        entry, chains = self._chains_with_entry()
        copy_context = contextvars.copy_context
        clean = copy_context()
        cancelling = self._runners[slot].cancelling
        done = 0
        while True:
            try:
                work = works.popleft()
            except IndexError:
                break
            current[slot] = work
            await chains[work.route](work, context)  # type: ignore[index]
            outbox.put(work)
            done += 1
            try:
                same = copy_context() == clean
            except Exception:  # noqa: BLE001 - a value's own __eq__ may raise, or not answer yes or no
                break
            if not same or cancelling():
                break
            if done % CHUNK == 0:
                outbox.flush()
                await asyncio.sleep(0)
        if self.in_flight is not None and entry is not None:
            self.in_flight.give_back(entry)
        outbox.flush()
