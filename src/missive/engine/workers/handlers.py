"""Compiled handlers: one function for each route, which runs the hooks and the handler and decides the attempt."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeAlias

from missive.app.context import HandlingContext, HandlingHook, ProcessingContext
from missive.app.terms import HandlerRoute
from missive.engine.job import Job
from missive.engine.workers.decision import ACKED
from missive.engine.workers.policies import decide_attempt

Clock: TypeAlias = Callable[[], float]
"""Returns monotonic seconds."""
Resolve: TypeAlias = Callable[[Awaitable[Any]], object]
"""Waits, in a sync worker, for an awaitable that a handler returned."""
CompiledHandler: TypeAlias = Callable[[Any, ProcessingContext[Any]], None]
"""Runs a job, a batch or a lane run in a sync worker."""
CompiledAsyncHandler: TypeAlias = Callable[[Any, ProcessingContext[Any]], Coroutine[Any, Any, None]]
"""Runs a job, a batch or a lane run in an async worker."""


def compile_handler(
    route: HandlerRoute, resolve: Resolve, clock: Clock, *, standalone: bool = False
) -> CompiledHandler:
    """Compile a sync route of single messages.

    With `standalone`, the handler runs without an engine, in a test client. The handler then checks its timeout
    itself, and leaves its exception on the job, with everything that the frames of the exception hold.
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
        except BaseException as raised:  # noqa: BLE001 - even sys.exit() in a handler only fails the message
            error = raised
        if context.opened is not None:
            error = context.opened.close(error, resolve)
        if standalone:
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
            del late  # for the same reason as `error` below
            # A hook may have raised an exception, passed the timeout, or recorded an outcome.
            decision = decide_attempt(job, context.recorded, error, clock)
        if standalone:
            job.error = error
        job.decision = decision  # last: an undecided job counts as running
        del error  # its traceback refers to this frame, and the cycle would keep the message until a collection

    return run


def compile_async_handler(route: HandlerRoute, clock: Clock, *, standalone: bool = False) -> CompiledAsyncHandler:
    """Compile an async route of single messages. Hooks are awaited when they return an awaitable."""
    handler, before, after = route.handler, route.terms.before, route.terms.after
    always_awaitable = inspect.iscoroutinefunction(handler)

    async def run(job: Job, worker: ProcessingContext[Any]) -> None:
        job.started = clock()
        context = HandlingContext(job.message, worker, job.attempt, job.delivery.native, job.source.adapter, job)
        error: BaseException | None = None
        try:
            for hook in before:
                await resolved(hook(worker, context))
            if always_awaitable:  # saves a check for each message
                await handler(job.message, context)
            else:
                await resolved(handler(job.message, context))
        except BaseException as raised:  # noqa: BLE001 - even a cancelled handler only fails the message
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
            del late  # for the same reason as `error` below
            # A hook may have raised an exception, passed the timeout, or recorded an outcome.
            decision = decide_attempt(job, context.recorded, error, clock)
        if standalone:
            job.error = error
        job.decision = decision  # last: an undecided job counts as running
        del error  # its traceback refers to this frame, and the cycle would keep the message until a collection

    return run


def run_after(
    hooks: Sequence[HandlingHook], worker: ProcessingContext[Any], context: HandlingContext[Any], resolve: Resolve
) -> BaseException | None:
    """Run all `after_handling` hooks, then close their resources. Return the first exception, or None.

    The resources see the first exception of the hooks.
    """
    error: BaseException | None = None
    for hook in hooks:
        try:
            hook(worker, context)
        except BaseException as raised:  # noqa: BLE001 - any exception fails the message
            error = raised if error is None else error
    if context.opened is not None:
        error = context.opened.close(error, resolve)
    try:
        return error
    finally:
        del error  # its traceback refers to this frame


async def run_async_after(
    hooks: Sequence[HandlingHook], worker: ProcessingContext[Any], context: HandlingContext[Any]
) -> BaseException | None:
    """Run all `after_handling` hooks in an async worker, then close their resources. Return the first exception."""
    error: BaseException | None = None
    for hook in hooks:
        try:
            await resolved(hook(worker, context))
        except BaseException as raised:  # noqa: BLE001 - any exception fails the message
            error = raised if error is None else error
    if context.opened is not None:
        error = await context.opened.aclose(error)
    try:
        return error
    finally:
        del error  # its traceback refers to this frame


async def resolved(returned: object) -> None:
    """Wait for the return value of a callable, if it is awaitable."""
    if returned is not None and inspect.isawaitable(returned):
        await returned
