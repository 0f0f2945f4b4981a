"""The batcher: it collects single jobs into a batch, by size and by time."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from missive.app.terms import BatchTerms, HandlerRoute
from missive.engine.dispatch.limiters import Limiters
from missive.engine.job import BatchJob, Job
from missive.errors import ProcessingFailed

if TYPE_CHECKING:
    from missive.engine.intake.source import Source


CallLater: TypeAlias = Callable[[float, Callable[[], None]], Callable[[], None]]
"""Calls a function after some seconds; returns the function that cancels the call."""


class Batcher:
    """Collects the next batch of one handler and one source.

    `full` is called with a batch that has its size, or whose first job has waited long enough.
    """

    def __init__(
        self,
        route: HandlerRoute,
        source: Source,
        terms: BatchTerms,
        call_later: CallLater,
        full: Callable[[BatchJob], None],
    ) -> None:
        self._route = route
        self._source = source
        self._terms = terms
        self._call_later = call_later
        self._full = full
        self._jobs: list[Job] = []
        self._lanes: set[Hashable] = set()
        self._cancel: Callable[[], None] | None = None

    @property
    def room(self) -> int:
        """The number of jobs that the batch still takes."""
        return self._terms.size - len(self._jobs)

    def suits(self, job: Job) -> bool:
        """Return whether a job has the same handler and the same source."""
        return job.route is self._route and job.source is self._source

    def add(self, jobs: Sequence[Job]) -> None:
        """Add startable jobs of one lane, at most `room`."""
        self._jobs += jobs
        if (lane := jobs[0].lane) is not None:
            self._lanes.add(lane)
        if len(self._jobs) >= self._terms.size:
            self._close()
        elif self._cancel is None:
            self._cancel = self._call_later(self._terms.wait, self._close)

    def has(self, lane: Hashable) -> bool:
        """Return whether the batch has jobs of a lane, so that the next job of the lane may join."""
        return lane in self._lanes

    def withdraw(self) -> list[Job]:
        """Take out the collected jobs."""
        jobs, self._jobs = self._jobs, []
        self._lanes.clear()
        if self._cancel is not None:
            self._cancel()
            self._cancel = None
        return jobs

    def _close(self) -> None:
        jobs = self.withdraw()
        if jobs:
            self._full(BatchJob(self._route, self._source, jobs))


class Batchers:
    """The batchers of one engine, by handler and source."""

    def __init__(self, limiters: Limiters, call_later: CallLater, full: Callable[[BatchJob], None]) -> None:
        self._limiters = limiters
        self._call_later = call_later
        self._full = full
        self._batchers: dict[tuple[HandlerRoute, Source], Batcher] = {}

    def of(self, route: HandlerRoute, source: Source) -> Batcher:
        """Return the batcher of a handler and a source."""
        batcher = self._batchers.get((route, source))
        if batcher is None:
            if (terms := route.terms.batch) is None:
                raise ProcessingFailed(f"{route.name} takes no batches")
            terms = BatchTerms(self._limiters.batch_size(source, terms.size), terms.wait)
            batcher = self._batchers[route, source] = Batcher(route, source, terms, self._call_later, self._full)
        return batcher

    def withdraw(self) -> list[Job]:
        """Take out all collected jobs."""
        return [job for batcher in self._batchers.values() for job in batcher.withdraw()]
