"""The batcher: it collects single jobs into a batch, by size and by time."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING

from missive.app.terms import BatchTerms, HandlerRoute
from missive.engine.job import BatchJob, Job

if TYPE_CHECKING:
    from missive.engine.intake.source import Source


class Batcher:
    """Collects the next batch of one handler and one source.

    `full` is called with a batch that has its size, or whose first job has waited long enough.
    """

    def __init__(
        self,
        route: HandlerRoute,
        source: Source,
        terms: BatchTerms,
        call_later: Callable[[float, Callable[[], None]], Callable[[], None]],
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
