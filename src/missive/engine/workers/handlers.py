"""Chains: a route compiled to the one function that a worker calls for a message: hooks, handler, decision."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeAlias

from missive.app.context import HandlingContext, HandlingHook, ProcessingContext
from missive.app.terms import HandlerRoute
from missive.engine.job import Job, LaneRun
from missive.engine.workers.decision import ACKED, HELD
from missive.engine.workers.retrying import decide_attempt

Clock: TypeAlias = Callable[[], float]
Resolve: TypeAlias = Callable[[Awaitable[Any]], object]
"""Waits, in a sync worker, for what a handler returned that is awaitable."""
SyncChain: TypeAlias = Callable[[Any, ProcessingContext[Any]], None]
"""Runs a job, or a batch of them."""
AsyncChain: TypeAlias = Callable[[Any, ProcessingContext[Any]], Coroutine[Any, Any, None]]


_SLICE = 0.002
"""Seconds after which a run of a lane makes place for others."""


def sync_chain(route: HandlerRoute, resolve: Resolve, clock: Clock, *, keep_error: bool = False) -> SyncChain:
    """Compile a sync route.

    `keep_error` leaves the exception itself on the job, with all that its frames hold, and looks at the clock itself:
    for tests only, where no engine looks after the job.
    """
    handler, before, after = route.handler, route.terms.before, route.terms.after

    def run(job: Job, worker: ProcessingContext[Any]) -> None:
        job.started = clock()
        context = HandlingContext(job.message, worker, job.attempt, job.delivery.native, job.source.adapter, job)
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
        if keep_error:
            job.overdue = job.overdue or clock() > job.deadline
        recorded = context.recorded
        if error is None and recorded is None and not job.overdue:
            decision = ACKED
        else:
            decision = decide_attempt(job, recorded, error, clock)
        if after:
            context.conclude(decision.outcome, error)
            late = run_after(after, worker, context, resolve)
            error = late if error is None else error
            del late  # as below
            # A hook may have raised, taken too long, or recorded an outcome of its own.
            decision = decide_attempt(job, context.recorded, error, clock)
        if keep_error:
            job.error = error
        job.decision = decision  # in the end: until then it is at work
        del error  # its traceback has this frame: a circle that would keep the message until the next collection

    return run


def async_chain(route: HandlerRoute, clock: Clock, *, keep_error: bool = False) -> AsyncChain:
    """Compile an async route: the same with its hooks and handler awaited where they are awaitable."""
    handler, before, after = route.handler, route.terms.before, route.terms.after
    always_awaitable = inspect.iscoroutinefunction(handler)

    async def run(job: Job, worker: ProcessingContext[Any]) -> None:
        job.started = clock()
        context = HandlingContext(job.message, worker, job.attempt, job.delivery.native, job.source.adapter, job)
        error: BaseException | None = None
        try:
            for hook in before:
                await resolved(hook(worker, context))
            if always_awaitable:  # of which nothing else needs to be asked
                await handler(job.message, context)
            else:
                await resolved(handler(job.message, context))
        except BaseException as raised:  # noqa: BLE001 - also a cancelled handler is that message failing
            error = raised
        if context.opened is not None:
            error = await context.opened.aclose(error)
        recorded = context.recorded
        if error is None and recorded is None and not job.overdue:
            decision = ACKED
        else:
            decision = decide_attempt(job, recorded, error, clock)
        if after:
            context.conclude(decision.outcome, error)
            late = await run_async_after(after, worker, context)
            error = late if error is None else error
            del late  # as below
            # A hook may have raised, taken too long, or recorded an outcome of its own.
            decision = decide_attempt(job, context.recorded, error, clock)
        if keep_error:
            job.error = error
        job.decision = decision  # in the end: until then it is at work
        del error  # its traceback has this frame: a circle that would keep the message until the next collection

    return run


def run_after(
    hooks: Sequence[HandlingHook], worker: ProcessingContext[Any], context: HandlingContext[Any], resolve: Resolve
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


async def run_async_after(
    hooks: Sequence[HandlingHook], worker: ProcessingContext[Any], context: HandlingContext[Any]
) -> BaseException | None:
    """Do the same, with the hooks awaited where they are awaitable."""
    error: BaseException | None = None
    for hook in hooks:
        try:
            await resolved(hook(worker, context))
        except BaseException as raised:  # noqa: BLE001 - whatever it is, the message fails
            error = raised if error is None else error
    if context.opened is not None:
        error = await context.opened.aclose(error)
    try:
        return error
    finally:
        del error  # its traceback has this frame


def sync_lane_chain(chains: Mapping[HandlerRoute, SyncChain], clock: Clock) -> SyncChain:
    """Compile what runs several jobs of a lane, each with the chain of its route and in a context of its own."""

    def run(work: LaneRun, worker: ProcessingContext[Any]) -> None:
        until = clock() + _SLICE
        left, done, copy_context = work.left, work.ran.append, contextvars.copy_context
        work.current = job = work.first
        while True:
            copy_context().run(chains[job.route], job, worker)  # type: ignore[index]
            done(job)
            if (job.decision is not ACKED and ends_run(work, job)) or clock() > until:
                return
            try:
                work.current = job = left.popleft()
            except IndexError:
                return

    return run


def async_lane_chain(chains: Mapping[HandlerRoute, AsyncChain], clock: Clock) -> AsyncChain:
    """Compile what runs several jobs of a lane; it ends early where one left something for the next."""

    async def run(work: LaneRun, worker: ProcessingContext[Any]) -> None:
        until = clock() + _SLICE
        clean = contextvars.copy_context()
        task = asyncio.current_task()
        left, done, copy_context = work.left, work.ran.append, contextvars.copy_context
        work.current = job = work.first
        while True:
            await chains[job.route](job, worker)  # type: ignore[index]
            done(job)
            if (job.decision is not ACKED and ends_run(work, job)) or clock() > until:
                return
            if task is not None and task.cancelling():
                return
            try:
                if copy_context() != clean:
                    return
            except Exception:  # noqa: BLE001 - a value's own __eq__ may raise, or not answer yes or no
                return
            try:
                work.current = job = left.popleft()
            except IndexError:
                return

    return run


def ends_run(work: LaneRun, job: Job) -> bool:
    """Tell whether the rest of a lane may not run yet, because a job is held before it."""
    decision = job.decision
    if decision is None or decision.outcome not in HELD:
        return False
    work.blocked = job.route is not None and job.route.terms.on_lane_retry != "pass"
    return work.blocked


async def resolved(returned: object) -> None:
    """Wait for what a callable returned, if it is awaitable."""
    if returned is not None and inspect.isawaitable(returned):
        await returned
