"""Execution: what all workers have in common, and how results come back to the engine, in chunks."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Any

from missive.app.hooks import Hooks
from missive.app.processor import Processor
from missive.app.terms import Terms
from missive.engine.job import Job, LaneRun, Work
from missive.engine.processes.inflight import InFlightLog
from missive.engine.workers.handlers import Clock
from missive.matchers.selectors import Everything
from missive.routing.route import Route

CHUNK = 64
"""So many results at the most wait in a worker before the engine is told; so many jobs run before a loop is yielded."""

_MANY = 32
"""So many results of one run of a lane are told at once."""


class Outbox:
    """Carries finished jobs to the engine's loop, many at a time."""

    collect: Callable[[list[Work]], None]
    """Receives finished work, on the engine's loop; set by the assembly."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._done: deque[Work] = deque()
        self._told = False

    def put(self, work: Work) -> None:
        """Add what is finished, from any thread; the engine hears of it at the next `flush`, or by looking."""
        self._done.append(work)
        if not self._told and (len(self._done) >= CHUNK or (type(work) is LaneRun and len(work.ran) >= _MANY)):
            self.flush()

    def flush(self) -> None:
        """Tell the engine that there are results, from any thread."""
        if self._done and not self._told:
            self._told = True
            try:
                self._loop.call_soon_threadsafe(self.deliver)
            except RuntimeError:  # the engine is gone: a forced stop left this worker behind
                return

    def deliver(self) -> None:
        """Hand over what is there; on the engine's loop."""
        self._told = False
        done, finished = self._done, []
        while done:
            finished.append(done.popleft())
        if finished:
            self.collect(finished)


class Pool(ABC):
    """Workers of one kind. All methods are called on the engine's loop."""

    def __init__(self, processor: Processor[Any], concurrency: int, outbox: Outbox, clock: Clock) -> None:
        self._processor = processor
        self._hooks: Hooks = processor.registry.hooks()
        self._concurrency = concurrency
        self._outbox = outbox
        self._clock = clock
        self.lane_route = Route("(lane)", Everything(), _nothing, Terms())
        """What runs of lanes are known by in this pool."""
        self._current: list[Work | None] = [None] * concurrency
        """What each worker is at; written by the workers, and here only read."""
        self.outstanding = 0
        """Jobs and batches that were submitted and have not come back."""
        self.in_flight: InFlightLog | None = None
        """Where it is noted what runs, for the case that the process dies of it; set before `start`, if at all."""

    @abstractmethod
    async def start(self) -> None:
        """Start the workers and run their hooks. Raises `ProcessingFailed` when one raises."""

    def submit(self, works: Sequence[Work]) -> None:
        """Queue jobs and batches; they come back through the outbox, decided."""
        self.outstanding += len(works)
        self._submit(works)

    def withdraw(self) -> list[Work]:
        """Take back what no worker has started."""
        works = self._withdraw()
        self.outstanding -= len(works)
        for work in self._current:
            if isinstance(work, LaneRun):
                works += work.withdraw()
        return works

    def runs(self) -> list[LaneRun]:
        """Return the runs of lanes that go on, and have run something already."""
        return [work for work in self._current if isinstance(work, LaneRun) and work.ran]

    def expire(self, now: float) -> list[Job]:
        """Interrupt what runs past its timeout, as far as that can be done; returns what was found just now."""
        expired = []
        for slot, active in self._active():
            late = [job for job in active if now > job.deadline]
            if len(late) == len(active) and not all(job.overdue for job in active):
                for job in active:
                    started, job.overdue = job.started, True
                    if job.started != started:  # it has just begun anew, in a smaller batch
                        job.overdue = False
                self._interrupt(slot, active[0])
                expired += active
        return expired

    def _active(self) -> list[tuple[int, list[Job]]]:
        """Return what each worker is at that is at anything."""
        return [
            (slot, active) for slot, work in enumerate(self._current) if work is not None and (active := work.active)
        ]

    def cancel(self, jobs: Collection[Job]) -> None:
        """Interrupt running jobs that are no longer ours, as far as that can be done."""
        for slot, active in self._active():
            if all(job in jobs for job in active):
                self._interrupt(slot, active[0])

    def _interrupt(self, slot: int, job: Job) -> None:  # noqa: B027 - a thread cannot be interrupted
        """Interrupt a worker, where one can be."""

    @property
    def overdue(self) -> int:
        """How many workers are at something past its timeout."""
        return sum(active[0].overdue for _, active in self._active())

    def stuck(self, now: float) -> list[Job]:
        """Return what workers are at that may never come back."""
        return [active[0] for _, active in self._active() if self._hangs(active[0], now)]

    def blocked(self, now: float) -> bool:  # noqa: ARG002 - others look at the clock
        """Tell whether one that is stuck keeps all others from going on."""
        return False

    def _hangs(self, job: Job, now: float) -> bool:  # noqa: ARG002 - others give it time
        return job.overdue

    @abstractmethod
    def _submit(self, works: Sequence[Work]) -> None: ...

    @abstractmethod
    def _withdraw(self) -> list[Work]: ...

    @abstractmethod
    async def stop(self) -> None:
        """Run the hooks and end the workers, but for one that is still stuck in a handler."""


def _nothing() -> None:
    """Do nothing: a run of a lane calls the handlers of its jobs."""
