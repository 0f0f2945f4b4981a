"""Held jobs: they wait in memory, unsettled, until they are due."""

from __future__ import annotations

from collections.abc import Callable

from missive.engine.job import Job
from missive.engine.runtime import Runtime


class HeldJobs:
    """Jobs that wait until they are due. `due` is called with each job then; `Redelivery` sets it."""

    due: Callable[[Job], None]

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._held: dict[Job, Callable[[], None]] = {}

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, job: Job, seconds: float) -> None:
        """Hold a job. Meanwhile, it does not count against the credit of others."""
        job.source.mark_waiting(job)
        self._held[job] = self._runtime.call_later(seconds, lambda: self._release(job))

    def _release(self, job: Job) -> None:
        del self._held[job]
        self.due(job)

    def withdraw(self, which: Callable[[Job], bool]) -> list[Job]:
        """Take out the held jobs for which `which` is true."""
        found = [job for job in self._held if which(job)]
        for job in found:
            self._held.pop(job)()
        return found
