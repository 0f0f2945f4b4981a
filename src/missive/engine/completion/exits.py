"""Exits: how jobs leave the engine: settled, filed, given back to the transport, or lost with their lease."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence

from missive.engine.completion.dead_letters import DeadLetterWriter
from missive.engine.dispatch.dispatcher import Dispatcher
from missive.engine.dispatch.held import HeldJobs
from missive.engine.intake.admission import Admission
from missive.engine.intake.source import GONE, Source
from missive.engine.job import Job
from missive.engine.stages import Stages
from missive.engine.state import EngineState
from missive.engine.workers.decision import SHUTDOWN
from missive.engine.workers.pool import Pool
from missive.transport import Disposition, Session

logger = logging.getLogger("missive")


class Exits:
    """Takes jobs out of the stations, and accounts for each job that leaves."""

    stages = Stages()
    """The stages of the engine; set by the assembly."""

    def __init__(
        self,
        pools: Sequence[Pool],
        dispatcher: Dispatcher,
        held_jobs: HeldJobs,
        admission: Admission,
        dead_letters: DeadLetterWriter,
        state: EngineState,
    ) -> None:
        self._pools = pools
        self._dispatcher = dispatcher
        self._held_jobs = held_jobs
        self._admission = admission
        self._dead_letters = dead_letters
        self._state = state

    @property
    def draining(self) -> bool:
        """Whether a drain has begun."""
        return self._state.draining

    def settle(self, jobs: Sequence[Job]) -> None:
        """Settle jobs whose outcome is durable."""
        for source in self._state.sources:
            if mine := [job for job in jobs if job.source is source]:
                source.settler.add(mine)

    def settled(self, source: Source, jobs: Sequence[Job], lost: int) -> None:
        """Account for jobs that left the engine. The transport did not confirm `lost` of them."""
        state = self._state
        state.report.redelivered += lost
        for settled in source.stages.settled:
            settled(source, jobs, bool(lost))
        source.return_credit(len(jobs), sum([len(job.delivery.body) for job in jobs]))
        if state.draining or (source.ended and not source.items):
            state.changed.set()

    def forget(self, jobs: Sequence[Job]) -> None:
        """Drop jobs that cannot be settled any more; their transport redelivers them."""
        for job in jobs:
            self._dispatcher.leave_lane(job)
            self.settled(job.source, [job], 1)

    def may_start(self, job: Job) -> bool:
        """Return whether a job may still start here: no drain has begun, and its lane stays."""
        return job.owned and not self._state.draining and job.delivery.lane not in job.source.leaving

    def give_back(self, jobs: Sequence[Job]) -> None:
        """Return unhandled jobs to their transport, or file them where the transport cannot take them back."""
        for job in jobs:
            if job.session is None or not job.owned:
                self.settled(job.source, [job], 1)
            elif job.capabilities.release == "none":
                self._keep(job)
            else:
                job.decision, job.disposition = None, Disposition.release
                self._state.report.released += 1
                job.source.settler.add([job])

    def keep_deleted(self, source: Source, jobs: Collection[Job]) -> None:
        """File jobs that a drain gives back, and whose messages were deleted: nothing redelivers them."""
        if not jobs:
            return
        self._state.report.released -= len(jobs)
        source.count_gone(len(jobs))
        for job in jobs:
            job.disposition = Disposition.ack
            self._keep(job)

    def _keep(self, job: Job) -> None:
        """File an unstarted job that its transport cannot take back; without a sink, run it while there is time."""
        if self._dead_letters.has_sink or job.decision is not None:
            job.decision = SHUTDOWN
            self._dead_letters.add(job)
        else:
            self._enter(job)

    def _enter(self, job: Job) -> None:
        if job.route is not None:
            self._admission.enter(job)
        else:
            self._admission.queue(job.source, [job])

    # Jobs that have not started

    def withdraw(self, which: Callable[[Job], bool]) -> list[Job]:
        """Take out the jobs for which `which` is true and that wait for a worker, their lane or another attempt."""
        held: list[Job] = []
        # A job that leaves its lane may let the next one be held, which must be taken as well.
        while found := self._held_jobs.withdraw(which) + [job for take in self.stages.withdraw for job in take(which)]:
            for job in found:
                job.source.mark_ready(job)
                self._dispatcher.leave_lane(job)
            held += found
        return [*held, *self._dispatcher.withdraw_those(which)]

    def release_waiting(self, source: Source, before: float) -> None:
        """Give back the unstarted jobs that arrived before a time: their leases end too soon for their handlers."""
        self.give_back(self.withdraw(lambda job: job.source is source and job.arrived < before))
        self._dispatcher.dispatch()

    # Jobs that belong to another consumer now

    def session_lost(self, source: Source, session: Session) -> None:
        """Drop the unstarted jobs of a dead session; their transport redelivers them."""
        for lost in source.stages.session_lost:
            lost(source)
        if session not in source.vanished:
            self.forget(self.withdraw(lambda job: job.session is session))
        self._dispatcher.dispatch()

    # Jobs whose messages the transport no longer has

    def detach(self, source: Source, jobs: Sequence[Job]) -> None:
        """Keep jobs whose messages were deleted while they were held: they end here, without a settlement."""
        for job in jobs:
            job.session = GONE
        source.count_gone(len(jobs))

    def end_detached(self, source: Source, jobs: Sequence[Job]) -> None:
        """End detached jobs. Keep jobs that were on their way back to the transport."""
        ended: list[Job] = []
        rejected = 0
        for job in jobs:
            disposition, job.disposition = job.disposition, Disposition.ack
            unhandled = disposition in (Disposition.release, Disposition.delay)
            if unhandled and self._state.draining:
                self._keep(job)
            elif disposition is Disposition.release:
                self._enter(job)
            elif disposition is Disposition.delay and job.decision is not None:
                self._held_jobs.hold(job, job.decision.delay)
            else:
                rejected += disposition is Disposition.reject
                ended.append(job)
        if rejected:
            logger.error(
                "%s: %d dead letters are lost, because their queue was deleted before the broker could store them",
                source.adapter.url,
                rejected,
            )
        if ended:
            self.settled(source, ended, 0)

    def revoke(self, jobs: Sequence[Job]) -> None:
        """Drop jobs that another consumer has now: cancel their handlers, and settle nothing of them."""
        for job in jobs:
            job.session = None
        for pool in self._pools:
            pool.cancel(jobs)
        self.forget(self.withdraw(lambda job: job.session is None))
        self._dispatcher.dispatch()
