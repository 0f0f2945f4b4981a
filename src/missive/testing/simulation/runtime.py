"""Simulated runtime: workers and client threads are callbacks of one loop, and take random virtual time."""

from __future__ import annotations

import asyncio
import contextvars
import functools
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from missive.app.context import ProcessingContext
from missive.app.processor import Processor
from missive.app.terms import HandlerRoute
from missive.engine.job import BatchJob, Job, LaneRun, Work
from missive.engine.runtime import Runtime
from missive.engine.workers.compiler import compile_route
from missive.engine.workers.handlers import Clock, CompiledAsyncHandler
from missive.engine.workers.hooks import run_hooks
from missive.engine.workers.lane_runs import compile_async_lane_run, ends_run
from missive.engine.workers.outbox import Outbox
from missive.engine.workers.pool import Pool
from missive.engine.workers.tasks import LoopPool
from missive.errors import UsageError
from missive.testing.simulation.trace import Promise

if TYPE_CHECKING:
    from missive.testing.simulation.life import Life

P = ParamSpec("P")
T = TypeVar("T")

_EPOCH = 1_700_000_000.0
"""The wall clock at the start of a schedule, in seconds since 1970; an arbitrary instant."""


class SimulatedRuntime(Runtime):
    """Virtual time, sequential ids and no threads, for one life."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._clock = life.world.clock
        self._ids = 0
        self.monotonic = life.loop.time
        self.limits = life.world.limits
        self.thread_pool = functools.partial(InlinePool, life)
        self.loop_pool = functools.partial(WatchedPool, life)
        self.client_thread = functools.partial(InlineClient, life)

    def time(self) -> float:
        """Return seconds since 1970."""
        return _EPOCH + self._clock.now

    def new_id(self) -> str:
        """Return the next id."""
        self._ids += 1
        return f"{self._life.number:06d}{self._ids:020d}"


class InlinePool(Pool):
    """Workers of sync handlers. Each handler is called on the loop, at the start or the end of its virtual time.

    A handler runs at one instant, but its worker is busy until the end of the virtual time, so that handlers overlap.
    """

    def __init__(
        self,
        life: Life,
        processor: Processor[Any],
        concurrency: int,
        outbox: Outbox,
        routes: Sequence[HandlerRoute],
        handlers_loop: asyncio.AbstractEventLoop,
        clock: Clock,
    ) -> None:
        super().__init__(processor, concurrency, outbox, clock)
        self._handlers = {route: compile_route(route, _resolve, clock) for route in routes}
        self._life = life
        self._loop = handlers_loop
        self._works: deque[Work] = deque()
        self._free = list(reversed(range(concurrency)))
        self._contexts: list[ProcessingContext[Any]] = []
        self._stopped = False

    async def start(self) -> None:
        """Run `before_processing` for each worker."""
        for _ in range(self._concurrency):
            context: ProcessingContext[Any] = ProcessingContext(self._processor, self._clock)
            self._contexts.append(context)
            failed = run_hooks(self._hooks.before_processing, context)
            if failed is not None:
                raise failed

    def _submit(self, works: Sequence[Work]) -> None:
        self._works.extend(works)
        self._loop.call_later(self._life.pause(), self._wake)

    def _withdraw(self) -> list[Work]:
        works = list(self._works)
        self._works.clear()
        return works

    async def stop(self) -> None:
        """Run `after_processing` for each worker."""
        self._stopped = True
        for context in () if self.outstanding else self._contexts:
            failed = run_hooks(self._hooks.after_processing, context)
            if failed is not None:
                raise failed

    def _wake(self) -> None:
        while self._free and self._works:
            self._begin(self._free.pop())

    def _begin(self, index: int) -> None:
        work = self._works.popleft()
        self._current[index] = work
        if isinstance(work, LaneRun):
            self._next_of(index, work, work.first)
        else:
            self._start(index, work, functools.partial(self._done, index, work))

    def _next_of(self, index: int, run: LaneRun, job: Job) -> None:
        """Run a job of a lane run, and then the next job, as `compile_lane_run` does."""
        run.current = job

        def done() -> None:
            run.ran.append(job)
            if ends_run(run, job) or not run.left or self._life.coin():
                self._done(index, run)
            else:
                self._next_of(index, run, run.left.popleft())

        self._start(index, job, done)

    def _start(self, index: int, work: Job | BatchJob, done: Callable[[], None]) -> None:
        life = self._life
        life.started(work)
        if self._stopped and not life.dead:
            life.world.fail(Promise.nothing_left, "a handler started after its workers were stopped")
        # A job may be called at the end of its time, so that a timeout finds it running. A batch needs all its time for
        # its halves.
        late = isinstance(work, Job) and life.coin()
        if isinstance(work, Job):
            work.started = self._clock()
        if not late:
            self._run(index, work)
        self._loop.call_later(life.duration(work), self._end, index, work, late, done)

    def _run(self, index: int, work: Work) -> None:
        # In a new context, so that the next message does not see context variables that this handler sets.
        contextvars.Context().run(self._handlers[work.route], work, self._contexts[index])  # type: ignore[index]

    def _end(self, index: int, work: Job | BatchJob, late: bool, done: Callable[[], None]) -> None:
        if late and not self._life.dead:
            self._run(index, work)
        self._life.ended(work, cancelled=False)
        done()

    def _done(self, index: int, work: Work) -> None:
        self._outbox.put(work)
        if self._works:
            self._begin(index)
        else:
            self._current[index] = None
            self._free.append(index)
            self._outbox.flush()


def _resolve(awaitable: Awaitable[Any]) -> object:
    """Run an awaitable that a sync handler returned. Raises `UsageError` when it waits."""
    steps = awaitable.__await__()
    try:
        next(steps)
    except StopIteration as done:
        return done.value
    raise UsageError(
        "a sync handler returned an awaitable that waits, which is impossible in a simulation: use `async def`"
    )


class WatchedPool(LoopPool):
    """Tasks for async handlers, as in production. The life is notified of each start and end."""

    def __init__(self, life: Life, *arguments: Any) -> None:
        super().__init__(*arguments)
        handlers = {route: _watched(handler, life) for route, handler in self._handlers.items()}
        # A lane run reports each of its jobs.
        handlers[self.lane_route] = compile_async_lane_run(handlers, self._clock)
        self._handlers = handlers


def _watched(handler: CompiledAsyncHandler, life: Life) -> CompiledAsyncHandler:
    async def run(work: Work, worker: ProcessingContext[Any]) -> None:
        life.started(work)
        await handler(work, worker)
        task = asyncio.current_task()
        overdue = any(job.overdue for job in work.jobs)
        life.ended(work, cancelled=task is not None and task.cancelling() > 0 and not overdue)

    return run


class InlineClient:
    """Calls on the thread of a client, one after the other. Each call happens at one instant of virtual time."""

    def __init__(self, life: Life, _name: str) -> None:
        self._life = life
        self._free_at = 0.0

    async def run(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Make a call and wait for its result. A cancelled call is still made."""
        life, loop = self._life, self._life.loop
        future: asyncio.Future[T] = loop.create_future()

        def call() -> None:
            error: Exception | None = None
            try:
                result = fn(*args, **kwargs)
            except Exception as raised:  # noqa: BLE001 - passed to the caller
                error = raised
            loop.call_later(life.pause(), resolve, None if error is not None else result, error)

        def resolve(result: Any, error: Exception | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        self._free_at = max(self._free_at, loop.time()) + life.pause()
        loop.call_at(self._free_at, call)
        return await future

    def submit(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Raise NotImplementedError: only the search for crashed processes uses this method."""
        raise NotImplementedError

    async def close(self) -> None:
        """Wait for the remaining calls, then end."""
        await asyncio.sleep(max(0.0, self._free_at - self._life.loop.time()))
