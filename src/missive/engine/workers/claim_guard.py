"""Claim guard: a handler with `once=` runs only while its claim holds, and its duplicates are decided as such."""

from __future__ import annotations

from typing import Any

from missive.app.context import ProcessingContext
from missive.app.terms import HandlerRoute
from missive.engine.job import BatchJob, Job
from missive.engine.workers.decision import ACKED, DUPLICATE, LAPSED
from missive.engine.workers.handlers import Clock, CompiledAsyncHandler, CompiledHandler


def guard_claims(route: HandlerRoute, handler: CompiledHandler, clock: Clock) -> CompiledHandler:
    """Return the guarded handler of a sync route; the same handler for a route without `once=`."""
    if route.terms.once is None:
        return handler

    def run(work: Job | BatchJob, worker: ProcessingContext[Any]) -> None:
        if _may_run(work, clock):
            handler(work, worker)
            _decide_duplicates(work)

    return run


def guard_claims_async(route: HandlerRoute, handler: CompiledAsyncHandler, clock: Clock) -> CompiledAsyncHandler:
    """Return the guarded handler of an async route; the same handler for a route without `once=`."""
    if route.terms.once is None:
        return handler

    async def run(work: Job | BatchJob, worker: ProcessingContext[Any]) -> None:
        if _may_run(work, clock):
            await handler(work, worker)
            _decide_duplicates(work)

    return run


def _may_run(work: Job | BatchJob, clock: Clock) -> bool:
    """Return whether the claim of a job still holds.

    A claim can lapse while the process is suspended. Another process may own the effect afterwards, so the handler must
    not start.
    """
    if isinstance(work, BatchJob) or work.claim is None or clock() < work.claim.until:
        return True
    work.decision = LAPSED
    return False


def _decide_duplicates(work: Job | BatchJob) -> None:
    for job in work.jobs:
        if job.duplicate and job.decision is ACKED:
            job.decision = DUPLICATE
