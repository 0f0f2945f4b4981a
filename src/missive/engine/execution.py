"""Execution: handlers on worker threads and on a loop of their own, never on the engine's, in chunks."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import queue
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeAlias

from missive.context import HandlingContext, HandlingHook, ProcessingContext, ProcessingHook
from missive.engine.decision import ACKED, decide
from missive.engine.job import Job
from missive.errors import ProcessingFailed
from missive.processor import Hooks, Processor
from missive.routing.route import Route, callable_name

SyncChain: TypeAlias = Callable[[Job, ProcessingContext[Any]], None]
AsyncChain: TypeAlias = Callable[[Job, ProcessingContext[Any]], Coroutine[Any, Any, None]]

_CHUNK = 64
"""So many results at the most wait in a worker before the engine is told; so many jobs run before a loop is yielded."""


def sync_chain(route: Route, resolve: Callable[[Awaitable[Any]], object], *, keep_error: bool = False) -> SyncChain:
    """Compile a sync route: hooks, handler, decision. `resolve` waits for what a handler returned if it is awaitable.

    `keep_error` leaves the exception itself on the job, with all that its frames hold: for tests only.
    """
    handler, before, after = route.handler, route.before, route.after

    def run(job: Job, worker: ProcessingContext[Any]) -> None:
        context = HandlingContext(job.message, worker, job.attempt, job.delivery.native, job.source.adapter)
        error: BaseException | None = None
        try:
            for hook in before:
                hook(worker, context)
            returned = handler(job.message, context)
            if returned is not None and inspect.isawaitable(returned):
                resolve(returned)
        except BaseException as raised:  # noqa: BLE001 - also sys.exit() in a handler is that message failing
            error = raised
        if context.opened is not None:
            error = context.opened.close(error, resolve)
        recorded = context.recorded
        job.decision = decision = ACKED if error is None and recorded is None else decide(recorded, error)
        if after:
            context.conclude(decision.outcome, error)
            late = _run_after(after, worker, context, resolve)
            error = late if error is None else error
            del late  # as below
            # A hook may have raised, or recorded an outcome of its own.
            job.decision = decide(context.recorded, error)
        if keep_error:
            job.error = error
        del error  # its traceback has this frame: a circle that would keep the message until the next collection

    return run


def async_chain(route: Route, *, keep_error: bool = False) -> AsyncChain:
    """Compile an async route: the same with its hooks and handler awaited where they are awaitable."""
    handler, before, after = route.handler, route.before, route.after

    async def run(job: Job, worker: ProcessingContext[Any]) -> None:
        context = HandlingContext(job.message, worker, job.attempt, job.delivery.native, job.source.adapter)
        error: BaseException | None = None
        try:
            for hook in before:
                await _resolved(hook(worker, context))
            await _resolved(handler(job.message, context))
        except BaseException as raised:  # noqa: BLE001 - also a cancelled handler is that message failing
            error = raised
        if context.opened is not None:
            error = await context.opened.aclose(error)
        recorded = context.recorded
        job.decision = decision = ACKED if error is None and recorded is None else decide(recorded, error)
        if after:
            context.conclude(decision.outcome, error)
            late = await _run_async_after(after, worker, context)
            error = late if error is None else error
            del late  # as below
            # A hook may have raised, or recorded an outcome of its own.
            job.decision = decide(context.recorded, error)
        if keep_error:
            job.error = error
        del error  # its traceback has this frame: a circle that would keep the message until the next collection

    return run


def _run_after(
    hooks: Sequence[HandlingHook],
    worker: ProcessingContext[Any],
    context: HandlingContext[Any],
    resolve: Callable[[Awaitable[Any]], object],
) -> BaseException | None:
    """Run all hooks and close what they opened; returns what was raised first, which what they opened sees."""
    error: BaseException | None = None
    for hook in hooks:
        try:
            hook(worker, context)
        except BaseException as raised:  # noqa: BLE001 - whatever it is, the message fails
            error = raised if error is None else error
    if context.opened is not None:
        error = context.opened.close(error, resolve)
    try:
        return error
    finally:
        del error  # its traceback has this frame


async def _run_async_after(
    hooks: Sequence[HandlingHook], worker: ProcessingContext[Any], context: HandlingContext[Any]
) -> BaseException | None:
    """Do the same, with the hooks awaited where they are awaitable."""
    error: BaseException | None = None
    for hook in hooks:
        try:
            await _resolved(hook(worker, context))
        except BaseException as raised:  # noqa: BLE001 - whatever it is, the message fails
            error = raised if error is None else error
    if context.opened is not None:
        error = await context.opened.aclose(error)
    try:
        return error
    finally:
        del error  # its traceback has this frame


async def _resolved(returned: object) -> None:
    if returned is not None and inspect.isawaitable(returned):
        await returned


class Outbox:
    """Carries finished jobs to the engine's loop, many at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, collect: Callable[[list[Job]], None]) -> None:
        self._loop = loop
        self._collect = collect
        self._done: deque[Job] = deque()
        self._told = False

    def put(self, job: Job) -> None:
        """Add a finished job, from any thread; the engine hears of it at the next `flush`, or by looking."""
        self._done.append(job)
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
        done, jobs = self._done, []
        while done:
            jobs.append(done.popleft())
        if jobs:
            self._collect(jobs)


class Pool(ABC):
    """Workers of one kind. All methods are called on the engine's loop."""

    def __init__(self, processor: Processor[Any], concurrency: int, outbox: Outbox) -> None:
        self._processor = processor
        self._hooks: Hooks = processor.hooks
        self._concurrency = concurrency
        self._outbox = outbox
        self.outstanding = 0
        """Jobs that were submitted and have not come back."""

    @abstractmethod
    async def start(self) -> None:
        """Start the workers and run their hooks. Raises `ProcessingFailed` when one raises."""

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queue jobs; they come back through the outbox, decided."""
        self.outstanding += len(jobs)
        self._submit(jobs)

    def withdraw(self) -> list[Job]:
        """Take back the jobs that no worker has started."""
        jobs = self._withdraw()
        self.outstanding -= len(jobs)
        return jobs

    @abstractmethod
    def _submit(self, jobs: Sequence[Job]) -> None: ...

    @abstractmethod
    def _withdraw(self) -> list[Job]: ...

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
    ) -> None:
        super().__init__(processor, concurrency, outbox)

        def resolve(returned: Awaitable[Any]) -> object:
            return asyncio.run_coroutine_threadsafe(_awaited(returned), handlers_loop).result()

        self._chains = {route: sync_chain(route, resolve) for route in routes}
        self._resolve = resolve
        self._inbox: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._stopped: list[asyncio.Future[None]] = []

    async def start(self) -> None:
        """Start the threads and run `before_processing` in each."""
        loop = asyncio.get_running_loop()
        started: list[asyncio.Future[None]] = []
        for number in range(self._concurrency):
            ready, stopped = loop.create_future(), loop.create_future()
            started.append(ready)
            self._stopped.append(stopped)
            thread = threading.Thread(
                target=self._work, args=(loop, ready, stopped), name=f"missive-handler-{number + 1}", daemon=True
            )
            self._threads.append(thread)
            thread.start()
        for failed in await asyncio.gather(*started, return_exceptions=True):
            if failed is not None:
                raise failed

    def _submit(self, jobs: Sequence[Job]) -> None:
        put = self._inbox.put
        for job in jobs:
            put(job)

    def _withdraw(self) -> list[Job]:
        jobs: list[Job] = []
        while True:
            try:
                job = self._inbox.get_nowait()
            except queue.Empty:
                return jobs
            if job is not None:
                jobs.append(job)

    async def stop(self) -> None:
        """Let each thread run `after_processing` and end; one that is stuck in a handler is left behind."""
        for _ in self._threads:
            self._inbox.put(None)
        if self._stopped and not self.outstanding:
            for failed in await asyncio.gather(*self._stopped, return_exceptions=True):
                if failed is not None:
                    raise failed

    def _work(
        self, loop: asyncio.AbstractEventLoop, ready: asyncio.Future[None], stopped: asyncio.Future[None]
    ) -> None:
        context: ProcessingContext[Any] = ProcessingContext(self._processor)
        failed = run_hooks(self._hooks.before_processing, context)
        _tell(loop, ready, failed)
        if failed is None:
            self._handle(context)
        failed = end_worker(self._hooks.after_processing, context, self._resolve)
        _tell(loop, stopped, failed)

    def _handle(self, context: ProcessingContext[Any]) -> None:
        inbox, outbox, chains = self._inbox, self._outbox, self._chains
        clean = contextvars.copy_context()
        while True:
            try:
                job = inbox.get_nowait()
            except queue.Empty:
                outbox.flush()
                job = inbox.get()
            if job is None:
                return
            # In a copy, so that what a handler sets in a context variable is gone for the next message.
            clean.copy().run(chains[job.route], job, context)  # type: ignore[index]
            outbox.put(job)


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
    ) -> None:
        super().__init__(processor, concurrency, outbox)
        self._chains = {route: async_chain(route) for route in routes}
        self._loop = handlers_loop
        self._jobs: deque[Job] = deque()
        self._runners: set[asyncio.Task[None]] = set()
        self._context: ProcessingContext[Any] = ProcessingContext(processor)
        self._clean = contextvars.Context()

    async def start(self) -> None:
        """Run `before_processing` on the handlers' loop."""
        starting = run_async_hooks(self._hooks.before_processing, self._context)
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(starting, self._loop))

    def _submit(self, jobs: Sequence[Job]) -> None:
        self._jobs.extend(jobs)
        self._loop.call_soon_threadsafe(self._spawn)

    def _withdraw(self) -> list[Job]:
        jobs: list[Job] = []
        while self._jobs:
            try:
                jobs.append(self._jobs.popleft())
            except IndexError:  # a runner took the last one
                break
        return jobs

    async def stop(self) -> None:
        """Cancel what still runs, then run `after_processing`."""
        stopping = self._stop()
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(stopping, self._loop))

    async def _stop(self) -> None:
        for runner in self._runners:
            runner.cancel()
        await asyncio.gather(*self._runners, return_exceptions=True)
        await end_async_worker(self._hooks.after_processing, self._context)

    def _spawn(self) -> None:
        for _ in range(min(self._concurrency - len(self._runners), len(self._jobs))):
            runner = self._loop.create_task(self._run(), context=self._clean.copy())
            self._runners.add(runner)
            runner.add_done_callback(self._ended)

    def _ended(self, runner: asyncio.Task[None]) -> None:
        self._runners.discard(runner)
        if self._jobs:
            self._spawn()

    async def _run(self) -> None:
        jobs, outbox, chains, context = self._jobs, self._outbox, self._chains, self._context
        clean = contextvars.copy_context()
        task = asyncio.current_task()
        done = 0
        while True:
            try:
                job = jobs.popleft()
            except IndexError:
                break
            await chains[job.route](job, context)  # type: ignore[index]
            outbox.put(job)
            done += 1
            if (task is not None and task.cancelling()) or not _same(contextvars.copy_context(), clean):
                break
            if done % _CHUNK == 0:
                outbox.flush()
                await asyncio.sleep(0)
        outbox.flush()


async def _awaited(returned: Awaitable[Any]) -> object:
    return await returned


def _same(one: contextvars.Context, other: contextvars.Context) -> bool:
    try:
        return bool(one == other)
    except Exception:  # noqa: BLE001 - a value's own __eq__ may raise, or not answer yes or no
        return False


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
            await _resolved(hook(context))
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
