"""Execution: handlers on worker threads and on a loop of their own, never on the engine's, in chunks."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import queue
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any

from missive.context import ProcessingContext, ProcessingHook
from missive.engine.batches import compile_async, compile_sync
from missive.engine.chains import AsyncChain, Clock, SyncChain, async_lane_chain, resolved, sync_lane_chain
from missive.engine.job import Job, LaneRun, Work
from missive.engine.seats import Seat, Seats
from missive.errors import ProcessingFailed
from missive.matchers.selectors import Everything
from missive.processor import Hooks, Processor
from missive.routing.route import Route, callable_name

_CHUNK = 64
"""So many results at the most wait in a worker before the engine is told; so many jobs run before a loop is yielded."""

_GRACE = 5.0
"""Seconds that a handler which was cancelled has to end, and a loop to answer, before they count as stuck."""


class Outbox:
    """Carries finished jobs to the engine's loop, many at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, collect: Callable[[list[Work]], None]) -> None:
        self._loop = loop
        self._collect = collect
        self._done: deque[Work] = deque()
        self._told = False

    def put(self, work: Work) -> None:
        """Add what is finished, from any thread; the engine hears of it at the next `flush`, or by looking."""
        self._done.append(work)
        if not self._told and len(self._done) >= _CHUNK:
            self.flush()

    def flush(self) -> None:
        """Tell the engine that there are results, from any thread."""
        if self._done and not self._told:
            self._told = True
            try:
                self._loop.call_soon_threadsafe(self.deliver)
            except RuntimeError:  # the engine is gone: a forced stop left this worker behind
                return

    def deliver(self) -> None:
        """Hand over what is there; on the engine's loop."""
        self._told = False
        done, finished = self._done, []
        while done:
            finished.append(done.popleft())
        if finished:
            self._collect(finished)


class Pool(ABC):
    """Workers of one kind. All methods are called on the engine's loop."""

    def __init__(self, processor: Processor[Any], concurrency: int, outbox: Outbox, clock: Clock) -> None:
        self._processor = processor
        self._hooks: Hooks = processor.hooks
        self._concurrency = concurrency
        self._outbox = outbox
        self._clock = clock
        self.lane_route = Route("(lane)", Everything(), _nothing, is_async=False)
        """What runs of lanes are known by in this pool."""
        self._current: list[Work | None] = [None] * concurrency
        """What each worker is at; written by the workers, and here only read."""
        self.outstanding = 0
        """Jobs and batches that were submitted and have not come back."""
        self.seats: Seats | None = None
        """Where it is noted what runs, for the case that the process dies of it; set before `start`, if at all."""

    @abstractmethod
    async def start(self) -> None:
        """Start the workers and run their hooks. Raises `ProcessingFailed` when one raises."""

    def submit(self, works: Sequence[Work]) -> None:
        """Queue jobs and batches; they come back through the outbox, decided."""
        self.outstanding += len(works)
        self._submit(works)

    def withdraw(self) -> list[Work]:
        """Take back what no worker has started."""
        works = self._withdraw()
        self.outstanding -= len(works)
        for work in self._current:
            if isinstance(work, LaneRun):
                works += work.withdraw()
        return works

    def expire(self, now: float) -> list[Job]:
        """Interrupt what runs past its timeout, as far as that can be done; returns what was found just now."""
        expired = []
        for slot, active in self._active():
            late = [job for job in active if now > job.deadline]
            if len(late) == len(active) and not all(job.overdue for job in active):
                for job in active:
                    started, job.overdue = job.started, True
                    if job.started != started:  # it has just begun anew, in a smaller batch
                        job.overdue = False
                self._interrupt(slot, active[0])
                expired += active
        return expired

    def _active(self) -> list[tuple[int, list[Job]]]:
        """Return what each worker is at that is at anything."""
        return [
            (slot, active) for slot, work in enumerate(self._current) if work is not None and (active := work.active)
        ]

    def cancel(self, jobs: Collection[Job]) -> None:
        """Interrupt running jobs that are no longer ours, as far as that can be done."""
        for slot, active in self._active():
            if all(job in jobs for job in active):
                self._interrupt(slot, active[0])

    def _interrupt(self, slot: int, job: Job) -> None:  # noqa: B027 - a thread cannot be interrupted
        """Interrupt a worker, where one can be."""

    @property
    def overdue(self) -> int:
        """How many workers are at something past its timeout."""
        return sum(active[0].overdue for _, active in self._active())

    def stuck(self, now: float) -> list[Job]:
        """Return what workers are at that may never come back."""
        return [active[0] for _, active in self._active() if self._hangs(active[0], now)]

    def blocked(self, now: float) -> bool:  # noqa: ARG002 - others look at the clock
        """Tell whether one that is stuck keeps all others from going on."""
        return False

    def _hangs(self, job: Job, now: float) -> bool:  # noqa: ARG002 - others give it time
        return job.overdue

    @abstractmethod
    def _submit(self, works: Sequence[Work]) -> None: ...

    @abstractmethod
    def _withdraw(self) -> list[Work]: ...

    @abstractmethod
    async def stop(self) -> None:
        """Run the hooks and end the workers, but for one that is still stuck in a handler."""


class ThreadPool(Pool):
    """Worker threads for sync handlers, each with a ProcessingContext of its own."""

    def __init__(
        self,
        processor: Processor[Any],
        concurrency: int,
        outbox: Outbox,
        routes: Sequence[Route],
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
        self._chains[self.lane_route] = sync_lane_chain(self._chains, outbox.put, clock)
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

    def _seated(self) -> tuple[Seat | None, dict[Route, SyncChain]]:
        """Return a worker's seat, if there are any, and the chains with which it takes it."""
        if self.seats is None or (seat := self.seats.take()) is None:
            return None, self._chains
        chains = seat.around(self._chains)
        chains[self.lane_route] = sync_lane_chain(chains, self._outbox.put, self._clock)
        return seat, chains

    def _handle(self, slot: int, context: ProcessingContext[Any]) -> None:
        inbox, outbox, current = self._inbox, self._outbox, self._current
        seat, chains = self._seated()
        clean = contextvars.copy_context()
        while True:
            try:
                work = inbox.get_nowait()
            except queue.Empty:
                current[slot] = None
                if seat is not None:
                    seat.clear()
                outbox.flush()
                work = inbox.get()
            if work is None:
                return
            current[slot] = work
            # In a copy, so that what a handler sets in a context variable is gone for the next message.
            clean.copy().run(chains[work.route], work, context)  # type: ignore[index]
            outbox.put(work)


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
        routes: Sequence[Route],
        handlers_loop: asyncio.AbstractEventLoop,
        clock: Clock,
    ) -> None:
        super().__init__(processor, concurrency, outbox, clock)
        self._chains = {route: compile_async(route, clock) for route in routes}
        self._chains[self.lane_route] = async_lane_chain(self._chains, outbox.put, clock)
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

    def _seated(self) -> tuple[Seat | None, dict[Route, AsyncChain]]:
        """Return a runner's seat, if there are any, and the chains with which it takes it."""
        if self.seats is None or (seat := self.seats.take()) is None:
            return None, self._chains
        chains = seat.around(self._chains)
        chains[self.lane_route] = async_lane_chain(chains, self._outbox.put, self._clock)
        return seat, chains

    async def _run(self, slot: int) -> None:
        works, outbox, context, current = self._works, self._outbox, self._context, self._current
        seat, chains = self._seated()
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
            if done % _CHUNK == 0:
                outbox.flush()
                await asyncio.sleep(0)
        if self.seats is not None and seat is not None:
            self.seats.give_back(seat)
        outbox.flush()


def _nothing() -> None:
    """Do nothing: a run of a lane calls the handlers of its jobs."""


def run_hooks(hooks: Sequence[ProcessingHook], context: ProcessingContext[Any]) -> ProcessingFailed | None:
    """Run sync processing hooks; returns why the processor must stop, or None."""
    for hook in hooks:
        try:
            hook(context)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the processor stops
            return _hook_failed(hook, error)
    return None


async def run_async_hooks(hooks: Sequence[ProcessingHook], context: ProcessingContext[Any]) -> None:
    """Run processing hooks on a loop. Raises `ProcessingFailed`, without what the hook raised."""
    for hook in hooks:
        try:
            await resolved(hook(context))
        except BaseException as error:  # noqa: BLE001 - whatever it is, the processor stops
            failed = _hook_failed(hook, error)
        else:
            continue
        raise failed


def end_worker(
    hooks: Sequence[ProcessingHook], context: ProcessingContext[Any], resolve: Callable[[Awaitable[Any]], object]
) -> ProcessingFailed | None:
    """Run the last hooks of a worker and close its resources; returns what failed first, or None."""
    failed = run_hooks(hooks, context)
    closed = None if context.opened is None else context.opened.close(resolve)
    return failed or closed


async def end_async_worker(hooks: Sequence[ProcessingHook], context: ProcessingContext[Any]) -> None:
    """Do the same on a loop. Raises what failed first."""
    failed: ProcessingFailed | None = None
    try:
        await run_async_hooks(hooks, context)
    except ProcessingFailed as raised:
        failed = raised
    closed = None if context.opened is None else await context.opened.aclose()
    failed = failed or closed
    if failed is not None:
        raise failed


def _hook_failed(hook: ProcessingHook, error: BaseException) -> ProcessingFailed:
    return ProcessingFailed(f"the hook {callable_name(hook)} raised {type(error).__qualname__}")


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
