"""Pool: the part that worker threads and worker tasks share, which is queues, timeouts and running work."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import Any

from missive.app.hooks import Hooks
from missive.app.processor import Processor
from missive.app.terms import Terms
from missive.dlq.failure import describe_exception
from missive.engine.job import Job, LaneRun, Work, route_of
from missive.engine.processes.inflight import InFlightLog
from missive.engine.workers.decision import decide_escaped
from missive.engine.workers.handlers import Clock
from missive.engine.workers.outbox import Outbox
from missive.matchers.selectors import Everything
from missive.routing.route import Route

logger = logging.getLogger("missive")


class Pool(ABC):
    """Workers of one kind. The engine calls all methods on its loop."""

    def __init__(self, processor: Processor[Any], concurrency: int, outbox: Outbox, clock: Clock) -> None:
        self._processor = processor
        self._hooks: Hooks = processor.registry.hooks()
        self._concurrency = concurrency
        self._outbox = outbox
        self._clock = clock
        self.lane_route = Route("(lane)", Everything(), _nothing, Terms())
        """The route of all lane runs in this pool."""
        self._current: list[Work | None] = [None] * concurrency
        """The running work of each worker. Workers write it; the engine's loop only reads it."""
        self.outstanding = 0
        """Number of jobs, batches and lane runs that were submitted and have not returned."""
        self.in_flight: InFlightLog | None = None
        """The log of running messages, for the case that one of them kills the process; set before `start`, if ever."""

    @abstractmethod
    async def start(self) -> None:
        """Start the workers and run their hooks. Raises `ProcessingFailed` when a hook raises."""

    def submit(self, works: Sequence[Work]) -> None:
        """Queue work. The outbox returns it, decided."""
        self.outstanding += len(works)
        self._submit(works)

    def withdraw(self) -> list[Work]:
        """Take out the work that no worker has started."""
        works = self._withdraw()
        self.outstanding -= len(works)
        for work in self._current:
            if isinstance(work, LaneRun):
                works += work.withdraw()
        return works

    @property
    def running(self) -> list[tuple[Work, Job]]:
        """The jobs whose handlers run now, each with its work."""
        works = ((self._current[index], active) for index, active in self._active())
        return [(work, job) for work, active in works if work is not None for job in active]

    def runs(self) -> list[LaneRun]:
        """Return the running lane runs that have finished a job."""
        return [work for work in self._current if isinstance(work, LaneRun) and work.ran]

    def expire(self, now: float) -> list[Job]:
        """Interrupt handlers past their timeout, where that is possible. Return the jobs that are newly overdue."""
        expired = []
        for index, active in self._active():
            late = [job for job in active if now > job.deadline]
            if len(late) == len(active) and not all(job.overdue for job in active):
                for job in active:
                    started, job.overdue = job.started, True
                    if job.started != started:  # the job has just started again, in a smaller batch
                        job.overdue = False
                self._interrupt(index, active[0])
                expired += active
        return expired

    def _active(self) -> list[tuple[int, list[Job]]]:
        """Return the index and the running jobs of each busy worker."""
        return [
            (index, active) for index, work in enumerate(self._current) if work is not None and (active := work.active)
        ]

    def cancel(self, jobs: Collection[Job]) -> None:
        """Interrupt the handlers of jobs that this engine no longer owns, where that is possible."""
        for index, active in self._active():
            if all(job in jobs for job in active):
                self._interrupt(index, active[0])

    def _interrupt(self, index: int, job: Job) -> None:  # noqa: B027 - a pool may be unable to interrupt
        """Interrupt a worker, where that is possible."""

    def rescue(self, work: Work, error: BaseException) -> None:
        """Decide the running jobs of work whose compiled handler raised, so that no job is left in limbo."""
        logger.error("%s: the worker of a handler was interrupted: %s", route_of(work).name, describe_exception(error))
        for job in work.active:
            job.decision = decide_escaped(error)
        if isinstance(work, LaneRun) and work.current is not None and work.current not in work.ran:
            work.ran.append(work.current)

    @property
    def overdue(self) -> int:
        """The number of workers whose handler is past its timeout."""
        return sum(active[0].overdue for _, active in self._active())

    def stuck(self, now: float) -> list[Job]:
        """Return one job for each worker that may never return."""
        return [active[0] for _, active in self._active() if self._hangs(active[0], now)]

    def blocked(self, now: float) -> bool:  # noqa: ARG002 - other pools use it
        """Return whether one stuck handler blocks all workers."""
        return False

    def hanging(self, now: float) -> list[list[Job]]:
        """Return the running jobs of each worker that may never return; of several jobs together, one may hang.

        A worker that returns later has no effect on its jobs.
        """
        return [active for _, active in self._active() if self._hangs(active[0], now)]

    def _hangs(self, job: Job, now: float) -> bool:  # noqa: ARG002 - other pools use it
        return job.overdue

    @abstractmethod
    def _submit(self, works: Sequence[Work]) -> None: ...

    @abstractmethod
    def _withdraw(self) -> list[Work]: ...

    @abstractmethod
    async def stop(self) -> None:
        """Run the hooks and end the workers. A worker that is stuck in a handler is left behind."""


def _nothing() -> None:
    """Do nothing: a lane run calls the handlers of its jobs instead."""
