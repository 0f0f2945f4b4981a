"""Deletions: released messages that their transport has deleted meanwhile, so that nothing redelivers them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from missive.engine.job import Job
from missive.errors import StoreError, Transient
from missive.transport import Disposition, Session


async def find_deleted(session: Session | None, jobs: Sequence[Job]) -> Collection[Job]:
    """Return the released jobs of a session whose positions no longer exist. Empty without an answer."""
    if session is None or session.capabilities.commit != "cumulative":
        return ()
    released = [job for job in jobs if job.disposition is Disposition.release and job.session is session]
    lanes = [lane for lane in dict.fromkeys(job.delivery.lane for job in released) if lane is not None]
    if not lanes:
        return ()
    try:
        first = await session.first_positions(lanes)
    except (StoreError, Transient):
        return ()
    return {
        job
        for job in released
        if job.session is session and (job.delivery.position or 0) < first.get(job.delivery.lane or "", 0)
    }
