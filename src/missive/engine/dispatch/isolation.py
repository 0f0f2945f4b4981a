"""Isolation: a message that may have killed a process runs alone."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from missive.app.terms import HandlerRoute
from missive.engine.dispatch.dispatcher import Dispatcher
from missive.engine.dispatch.held import HeldJobs
from missive.engine.job import Job, Work
from missive.engine.runtime import Runtime
from missive.engine.workers.pool import Pool

logger = logging.getLogger("missive")


class IsolatingDispatcher(Dispatcher):
    """A dispatcher that runs each suspect alone: after all running work has come back, and before other work starts.

    Suspects keep their turn. `isolated` is called with the jobs that begin to run alone, and with none at their end;
    `survived` is called with each suspect that came back. The others wait for a suspect until its timeout.
    Without suspects, this dispatcher costs one check of an empty set for each chunk.
    """

    def __init__(
        self,
        pools: Sequence[Pool],
        pool_of: Mapping[HandlerRoute, Pool],
        concurrency: int,
        held_jobs: HeldJobs,
        runtime: Runtime,
    ) -> None:
        super().__init__(pools, pool_of, concurrency, held_jobs, runtime)
        self.survived: Callable[[Job], None] = lambda _: None
        self.isolated: Callable[[Sequence[Job]], None] = lambda _: None
        self._suspects: set[Job] = set()
        self._alone: Work | None = None
        self._late: list[Work] = []
        """Suspects that ran alone past their timeout and have not come back."""

    def _end_isolation(self) -> None:
        self._alone = None
        self.isolated([])

    def suspect(self, job: Job) -> None:
        """Let a job run alone when its turn comes."""
        self._suspects.add(job)

    def is_suspect(self, work: Work) -> bool:
        """Return whether work contains a suspect."""
        return bool(self._suspects) and not self._suspects.isdisjoint(work.jobs)

    def dispatch(self) -> None:
        """Submit ready work up to the first suspect, and the suspect when nothing runs."""
        if not self._suspects and self._alone is None:
            super().dispatch()
            return
        if self._alone is not None:
            return
        # Decided suspects have come back, or became dead letters before dispatch.
        self._suspects = {job for job in self._suspects if job.decision is None}
        behind = self._cut()
        super().dispatch()
        if behind and not self._ready and not self._busy and not self._stopped:
            self._alone = behind.popleft()
            self.isolated(self._alone.jobs)
            self._ready.append(self._alone)
            super().dispatch()
            if self._ready:  # a stuck handler leaves no free worker now
                self._end_isolation()
                behind.appendleft(self._ready.pop())
        self._ready.extend(behind)

    @property
    def _busy(self) -> bool:
        """Whether a handler runs within its timeout. A stuck handler may never come back, and is not waited for."""
        return self.running > sum(pool.overdue for pool in self._pools)

    def returned(self, works: Sequence[Work]) -> None:
        """Note works that came back from the pools, and whether the suspect did."""
        super().returned(works)
        if self._alone is not None and any(work is self._alone for work in works):
            came_back = [self._alone]
            self._end_isolation()
        elif self._late:
            came_back = [late for late in self._late if any(work is late for work in works)]
        else:
            return
        for suspect in came_back:
            if suspect in self._late:
                self._late.remove(suspect)
            for job in suspect.jobs:
                self.survived(job)

    def poll(self) -> None:
        """Check the limiters, and whether a suspect, or the handlers before it, are stuck by now."""
        super().poll()
        if self._alone is not None and (active := self._alone.active) and all(job.overdue for job in active):
            logger.warning(
                "%s: a message that may have killed a process ran alone past its timeout; the others run again",
                active[0].handler,
            )
            self._late.append(self._alone)
            self._end_isolation()
            self.dispatch()
        if self._suspects:
            self.dispatch()

    def _cut(self) -> deque[Work]:
        """Take the first suspect and everything behind it out of the ready work."""
        first = next((place for place, work in enumerate(self._ready) if self.is_suspect(work)), len(self._ready))
        return deque([self._ready.pop() for _ in range(len(self._ready) - first)][::-1])

    def withdraw(self) -> list[Job]:
        """Take out every unstarted job."""
        return self._without(super().withdraw())

    def withdraw_those(self, which: Callable[[Job], bool]) -> list[Job]:
        """Take out the unstarted jobs for which `which` is true."""
        return self._without(super().withdraw_those(which))

    def _without(self, jobs: list[Job]) -> list[Job]:
        self._suspects.difference_update(jobs)
        return jobs

    def _withdraw_heads(self) -> list[Job]:
        jobs = super()._withdraw_heads()
        if self._alone is not None and not set(self._alone.jobs).isdisjoint(jobs):  # no worker had started it
            self._end_isolation()
        return jobs
