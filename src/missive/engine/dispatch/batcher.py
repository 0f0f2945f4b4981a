"""Gathering: single jobs become batches, by size and by time."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING

from missive.app.terms import BatchTerms, HandlerRoute
from missive.engine.job import BatchJob, Job

if TYPE_CHECKING:
    from missive.engine.intake.source import Source


class Batcher:
    """The batch of one handler and one source that is being gathered.

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
        """How many more are wanted."""
        return self._terms.size - len(self._jobs)

    def suits(self, job: Job) -> bool:
        """Tell whether a job is for the same handler, and of the same source."""
        return job.route is self._route and job.source is self._source

    def add(self, jobs: Sequence[Job]) -> None:
        """Take in jobs of one lane that may run, no more than there is room for."""
        self._jobs += jobs
        if (lane := jobs[0].lane) is not None:
            self._lanes.add(lane)
        if len(self._jobs) >= self._terms.size:
            self._close()
        elif self._cancel is None:
            self._cancel = self._call_later(self._terms.wait, self._close)

    def has(self, lane: Hashable) -> bool:
        """Tell whether jobs of a lane are in what is being gathered, so that the next of them may join."""
        return lane in self._lanes

    def withdraw(self) -> list[Job]:
        """Take out what is being gathered."""
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
