"""The simulated runtime: workers and client threads are turns of one loop, and take random stretches of its time."""

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
"""The wall clock when a schedule begins: an instant like any other."""


class SimulatedRuntime(Runtime):
    """Virtual time, counted ids, and no threads, for one life of an engine."""

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
    """Workers of sync handlers, each of which is called on the loop, at the beginning or the end of its virtual time.

    So it is at one instant for all others, as if no thread had run beside it, and still overlaps with them: from its
    start until its result is told, its worker is busy.
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
        self._loop.call_later(self._life.moment(), self._wake)

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

    def _begin(self, slot: int) -> None:
        work = self._works.popleft()
        self._current[slot] = work
        if isinstance(work, LaneRun):
            self._next_of(slot, work, work.first)
        else:
            self._start(slot, work, functools.partial(self._done, slot, work))

    def _next_of(self, slot: int, run: LaneRun, job: Job) -> None:
        """Run a job of a lane, and then the next, as `compile_lane_run` does."""
        run.current = job

        def done() -> None:
            run.ran.append(job)
            if ends_run(run, job) or not run.left or self._life.either():
                self._done(slot, run)
            else:
                self._next_of(slot, run, run.left.popleft())

        self._start(slot, job, done)

    def _start(self, slot: int, work: Job | BatchJob, done: Callable[[], None]) -> None:
        life = self._life
        life.started(work)
        if self._stopped and not life.dead:
            life.world.fail(Promise.nothing_left, "a handler began after its workers were stopped")
        # A job may be run at the end of its time, for a timeout to find it at work; a batch has its halves to run.
        late = isinstance(work, Job) and life.either()
        if isinstance(work, Job):
            work.started = self._clock()
        if not late:
            self._run(slot, work)
        self._loop.call_later(life.duration(work), self._end, slot, work, late, done)

    def _run(self, slot: int, work: Work) -> None:
        # In a context of its own, so that what a handler sets in a context variable is gone for the next message.
        contextvars.Context().run(self._handlers[work.route], work, self._contexts[slot])  # type: ignore[index]

    def _end(self, slot: int, work: Job | BatchJob, late: bool, done: Callable[[], None]) -> None:
        if late and not self._life.dead:
            self._run(slot, work)
        self._life.ended(work, cancelled=False)
        done()

    def _done(self, slot: int, work: Work) -> None:
        self._outbox.put(work)
        if self._works:
            self._begin(slot)
        else:
            self._current[slot] = None
            self._free.append(slot)
            self._outbox.flush()


def _resolve(awaitable: Awaitable[Any]) -> object:
    """Run what a sync handler returned, as far as it does not wait."""
    steps = awaitable.__await__()
    try:
        next(steps)
    except StopIteration as done:
        return done.value
    raise UsageError("what a sync handler returns cannot wait in a simulation: make the handler an `async def`")


class WatchedPool(LoopPool):
    """Tasks for async handlers, as in production; it tells when one starts and ends."""

    def __init__(self, life: Life, *arguments: Any) -> None:
        super().__init__(*arguments)
        chains = {route: _watched(chain, life) for route, chain in self._handlers.items()}
        # A run of a lane tells of each of its jobs.
        chains[self.lane_route] = compile_async_lane_run(chains, self._clock)
        self._handlers = chains


def _watched(chain: CompiledAsyncHandler, life: Life) -> CompiledAsyncHandler:
    async def run(work: Work, worker: ProcessingContext[Any]) -> None:
        life.started(work)
        await chain(work, worker)
        task = asyncio.current_task()
        overdue = any(job.overdue for job in work.jobs)
        life.ended(work, cancelled=task is not None and task.cancelling() > 0 and not overdue)

    return run


class InlineClient:
    """Calls on a client's thread, one after the other, each at one instant and after a while."""

    def __init__(self, life: Life, _name: str) -> None:
        self._life = life
        self._free_at = 0.0

    async def run(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Make a call and wait for its result. Cancelled, it is still made."""
        life, loop = self._life, self._life.loop
        future: asyncio.Future[T] = loop.create_future()

        def call() -> None:
            error: Exception | None = None
            try:
                result = fn(*args, **kwargs)
            except Exception as raised:  # noqa: BLE001 - the caller gets it
                error = raised
            loop.call_later(life.moment(), tell, None if error is not None else result, error)

        def tell(result: Any, error: Exception | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        self._free_at = max(self._free_at, loop.time()) + life.moment()
        loop.call_at(self._free_at, call)
        return await future

    def submit(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Refuse: only what watches for deaths of processes asks so, and here no process dies."""
        raise NotImplementedError

    async def close(self) -> None:
        """End, after the calls that wait."""
        await asyncio.sleep(max(0.0, self._free_at - self._life.loop.time()))
