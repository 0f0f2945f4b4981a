"""Chains of handlers with `once=`: nothing runs whose claim ran out, and a duplicate is told from what was handled."""

from __future__ import annotations

from typing import Any

from missive.app.context import ProcessingContext
from missive.app.terms import HandlerRoute
from missive.engine.job import BatchJob, Job
from missive.engine.workers.decision import ACKED, DUPLICATE, LAPSED
from missive.engine.workers.handlers import AsyncChain, Clock, SyncChain


def sync_once(route: HandlerRoute, chain: SyncChain, clock: Clock) -> SyncChain:
    """Compile what goes around the chain of a sync route; the chain itself where it has no `once=`."""
    if route.terms.once is None:
        return chain

    def run(work: Job | BatchJob, worker: ProcessingContext[Any]) -> None:
        if _may_run(work, clock):
            chain(work, worker)
            _told(work)

    return run


def async_once(route: HandlerRoute, chain: AsyncChain, clock: Clock) -> AsyncChain:
    """Do the same around the chain of an async route."""
    if route.terms.once is None:
        return chain

    async def run(work: Job | BatchJob, worker: ProcessingContext[Any]) -> None:
        if _may_run(work, clock):
            await chain(work, worker)
            _told(work)

    return run


def _may_run(work: Job | BatchJob, clock: Clock) -> bool:
    """Tell whether a claim still holds: a process that was stopped for so long may begin nothing that others have."""
    if isinstance(work, BatchJob) or work.claim is None or clock() < work.claim.until:
        return True
    work.decision = LAPSED
    return False


def _told(work: Job | BatchJob) -> None:
    for job in work.jobs:
        if job.duplicate and job.decision is ACKED:
            job.decision = DUPLICATE
