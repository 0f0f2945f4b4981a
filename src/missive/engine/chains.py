"""Chains: a route compiled to the one function that a worker calls for a message: hooks, handler, decision."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeAlias

from missive.context import HandlingContext, ProcessingContext
from missive.engine.decision import ACKED, decide
from missive.engine.job import Job
from missive.routing.route import Route

Clock: TypeAlias = Callable[[], float]
Resolve: TypeAlias = Callable[[Awaitable[Any]], object]
"""Waits, in a sync worker, for what a handler returned that is awaitable."""
SyncChain: TypeAlias = Callable[[Any, ProcessingContext[Any]], None]
"""Runs a job, or a batch of them."""
AsyncChain: TypeAlias = Callable[[Any, ProcessingContext[Any]], Coroutine[Any, Any, None]]


def sync_chain(  # noqa: C901 - what runs for each message is one frame
    route: Route, resolve: Resolve, clock: Clock, *, keep_error: bool = False
) -> SyncChain:
    """Compile a sync route.

    `keep_error` leaves the exception itself on the job, with all that its frames hold, and looks at the clock itself:
    for tests only, where no engine looks after the job.
    """
    handler, before, after = route.handler, route.before, route.after

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
        if keep_error:
            job.overdue = job.overdue or clock() > job.deadline
        recorded = context.recorded
        if error is None and recorded is None and not job.overdue:
            job.decision = decision = ACKED
        else:
            job.decision = decision = decide(recorded, error, overdue=job.overdue)
        if after:
            context.conclude(decision.outcome, error)
            for hook in after:
                try:
                    hook(worker, context)
                except BaseException as raised:  # noqa: BLE001 - as above
                    error = raised if error is None else error
            # A hook may have raised, or recorded an outcome of its own.
            job.decision = decide(context.recorded, error, overdue=job.overdue)
        if keep_error:
            job.error = error
        del error  # its traceback has this frame: a circle that would keep the message until the next collection

    return run


def async_chain(route: Route, clock: Clock, *, keep_error: bool = False) -> AsyncChain:
    """Compile an async route: the same with its hooks and handler awaited where they are awaitable."""
    handler, before, after = route.handler, route.before, route.after

    async def run(job: Job, worker: ProcessingContext[Any]) -> None:
        job.started = clock()
        context = HandlingContext(job.message, worker, job.attempt, job.delivery.native, job.source.adapter, job)
        error: BaseException | None = None
        try:
            for hook in before:
                await resolved(hook(worker, context))
            await resolved(handler(job.message, context))
        except BaseException as raised:  # noqa: BLE001 - also a cancelled handler is that message failing
            error = raised
        recorded = context.recorded
        if error is None and recorded is None and not job.overdue:
            job.decision = decision = ACKED
        else:
            job.decision = decision = decide(recorded, error, overdue=job.overdue)
        if after:
            context.conclude(decision.outcome, error)
            for hook in after:
                try:
                    await resolved(hook(worker, context))
                except BaseException as raised:  # noqa: BLE001 - as above
                    error = raised if error is None else error
            # A hook may have raised, or recorded an outcome of its own.
            job.decision = decide(context.recorded, error, overdue=job.overdue)
        if keep_error:
            job.error = error
        del error  # its traceback has this frame: a circle that would keep the message until the next collection

    return run


async def resolved(returned: object) -> None:
    """Wait for what a callable returned, if it is awaitable."""
    if returned is not None and inspect.isawaitable(returned):
        await returned
