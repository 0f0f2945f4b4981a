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
        self._held: dict[Job, tuple[Callable[[], None], float]] = {}
        """The cancellation of each held job's timer, and when the job is due, on the engine's clock."""

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, job: Job, seconds: float) -> None:
        """Hold a job. Meanwhile, it does not count against the credit of others."""
        job.source.mark_waiting(job)
        timer = self._runtime.call_later(seconds, lambda: self._release(job))
        self._held[job] = timer, self._runtime.monotonic() + seconds

    def _release(self, job: Job) -> None:
        del self._held[job]
        self.due(job)

    def due_in(self, job: Job) -> float:
        """Return when a job is due, in seconds from now; 0 for a job that is not held."""
        held = self._held.get(job)
        return 0.0 if held is None else max(0.0, held[1] - self._runtime.monotonic())

    def withdraw(self, which: Callable[[Job], bool]) -> list[Job]:
        """Take out the held jobs for which `which` is true."""
        found = [job for job in self._held if which(job)]
        for job in found:
            self._held.pop(job)[0]()
        return found
