"""Chains of handlers with `once=`: nothing runs whose claim ran out, and a duplicate is told from what was handled."""

from __future__ import annotations

from typing import Any

from missive.context import ProcessingContext
from missive.engine.chains import AsyncChain, Clock, SyncChain
from missive.engine.decision import ACKED, DUPLICATE, LAPSED
from missive.engine.job import Job
from missive.routing.route import Route


def sync_once(route: Route, chain: SyncChain, clock: Clock) -> SyncChain:
    """Compile what goes around the chain of a sync route; the chain itself where it has no `once=`."""
    if route.terms.once is None:
        return chain

    def run(job: Job, worker: ProcessingContext[Any]) -> None:
        if _may_run(job, clock):
            chain(job, worker)
            _told(job)

    return run


def async_once(route: Route, chain: AsyncChain, clock: Clock) -> AsyncChain:
    """Do the same around the chain of an async route."""
    if route.terms.once is None:
        return chain

    async def run(job: Job, worker: ProcessingContext[Any]) -> None:
        if _may_run(job, clock):
            await chain(job, worker)
            _told(job)

    return run


def _may_run(job: Job, clock: Clock) -> bool:
    """Tell whether a claim still holds: a process that was stopped for so long may begin nothing that others have."""
    if job.claim is None or clock() < job.claim.until:
        return True
    job.decision = LAPSED
    return False


def _told(job: Job) -> None:
    if job.duplicate and job.decision is ACKED:
        job.decision = DUPLICATE
