"""The execution of handlers in a test client: compiled handlers, processing contexts and timeouts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

from missive.app.context import ProcessingContext
from missive.app.processor import Processor
from missive.app.terms import HandlerRoute
from missive.engine.job import BatchJob, Job, Work
from missive.engine.workers.compiler import compile_async_route, compile_route
from missive.engine.workers.hooks import end_async_worker, end_worker, run_async_hooks, run_hooks
from missive.messages import Message
from missive.resources.key import Overrides

M = TypeVar("M", bound=Message)

_CANCEL_SECONDS = 0.02
"""Time between two cancellations of a handler that is past its timeout, in seconds."""


class Handlers(Generic[M]):
    """The compiled handlers of a processor, with one processing context for sync and one for async handlers.

    `resolve` waits, in the thread of the sync handlers, for an awaitable that a sync handler returned.
    """

    def __init__(
        self, processor: Processor[M], overrides: Overrides, resolve: Callable[[Awaitable[Any]], object]
    ) -> None:
        routes = [route for route in processor.freeze() if route.discards is None]
        self._hooks = processor.registry.hooks()
        self._resolve = resolve
        self._sync = {
            route: compile_route(route, resolve, time.monotonic, standalone=True)
            for route in routes
            if not route.terms.is_async
        }
        self._async = {
            route: compile_async_route(route, time.monotonic, standalone=True)
            for route in routes
            if route.terms.is_async
        }
        self._context: ProcessingContext[M] = ProcessingContext(processor, overrides=overrides)
        self._loop_context: ProcessingContext[M] = ProcessingContext(processor, overrides=overrides)
        self.has_async = bool(self._async)
        self.has_sync = bool(self._sync) or not self._async
        """Whether a thread for sync handlers exists. A processor without handlers has one, which runs the hooks."""

    def is_sync(self, work: Work) -> bool:
        """Return whether the handler of a job or batch is sync."""
        return work.route in self._sync

    def run(self, work: Work) -> None:
        """Run a sync handler."""
        if work.route is not None:
            self._sync[work.route](work, self._context)

    async def run_async(self, work: Work) -> None:
        """Run an async handler in the current task, and cancel it after its timeout, as the engine does."""
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        if task is None or work.route is None:
            return

        alarm: asyncio.Handle

        def check_deadline() -> None:
            nonlocal alarm
            late = time.monotonic() - max((job.deadline for job in work.active), default=float("inf"))
            if late > 0 and not all(job.overdue for job in work.active):
                for job in work.active:
                    job.overdue = True
                task.cancel()
            alarm = loop.call_later(_CANCEL_SECONDS if late > 0 else min(-late, 1e6), check_deadline)

        alarm = loop.call_soon(check_deadline)
        try:
            await self._async[work.route](work, self._loop_context)
        finally:
            alarm.cancel()
            while task.cancelling():
                task.uncancel()

    def start(self) -> None:
        """Run the `before_processing` hooks of sync handlers. Raise `ProcessingFailed` when one fails."""
        _raise_failed(run_hooks(self._hooks.before_processing, self._context))

    async def start_async(self) -> None:
        """Run the `before_processing` hooks of async handlers. Raise `ProcessingFailed` when one fails."""
        await run_async_hooks(self._hooks.before_processing, self._loop_context)

    def end(self) -> None:
        """Run the `after_processing` hooks of sync handlers and close their resources. Raise the first failure."""
        _raise_failed(end_worker(self._hooks.after_processing, self._context, self._resolve))

    async def end_async(self) -> None:
        """Run the `after_processing` hooks of async handlers and close their resources. Raise the first failure."""
        await end_async_worker(self._hooks.after_processing, self._loop_context)


def group_batches(jobs: Sequence[Job]) -> list[Work]:
    """Return the undecided jobs. Group jobs of a batch handler into batches of its size."""
    works: list[Work] = []
    batches: dict[HandlerRoute, BatchJob] = {}
    for job in jobs:
        route = job.route
        if job.decision is not None or route is None:
            continue
        terms = route.terms.batch
        if terms is None:
            works.append(job)
        elif route in batches and len(batches[route].jobs) < terms.size:
            batches[route].jobs.append(job)
        else:
            batches[route] = BatchJob(route, job.source, [job])
            works.append(batches[route])
    return works


def _raise_failed(failed: Exception | None) -> None:
    if failed is not None:
        raise failed
