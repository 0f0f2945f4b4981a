"""Notices: the writer of dead letters tells the observers about each dead letter once, in chunks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from missive.dlq.record import Record
from missive.engine.job import Job
from missive.engine.runtime import Runtime
from missive.engine.state import EngineState
from missive.telemetry.observer import Attempted

_NONE: Mapping[str, str] = {}


class Notices:
    """The dead letters that the observers do not know yet. Without observers, every call has no effect."""

    def __init__(self, state: EngineState, runtime: Runtime) -> None:
        self._notes = state.observers.dead_lettered
        self._runtime = runtime
        self._told: set[Job] = set()
        """Pending jobs that were reported before their records were durable, during an outage of the store."""
        self._rejected: list[Job] = []

    def written(self, jobs: Sequence[Job], records: Mapping[Job, Record] | None, joined: Mapping[str, str]) -> None:
        """Report jobs that are stored. `joined` has the stored ids of records that joined others."""
        if not self._notes:
            return
        self._report([job for job in jobs if job not in self._told] if self._told else jobs, records, joined)
        self._told.difference_update(jobs)

    def delayed(self, jobs: Sequence[Job]) -> None:
        """Report jobs whose records cannot be written now."""
        if self._notes:
            self._report([job for job in jobs if job not in self._told])
            self._told.update(jobs)

    def rejected(self, job: Job) -> None:
        """Report a job that the transport keeps, together with the others of its chunk."""
        if self._notes:
            if not self._rejected:
                self._runtime.call_later(0, self._report_rejected)
            self._rejected.append(job)

    def refused(self, job: Job) -> None:
        """Report a job that stops the engine, because it has no place. Without an exception, the error says it all."""
        if job.decision is not None and job.decision.failure is not None:
            self._report([job])

    def _report_rejected(self) -> None:
        rejected, self._rejected = self._rejected, []
        self._report(rejected)

    def _report(
        self, jobs: Sequence[Job], records: Mapping[Job, Record] | None = None, joined: Mapping[str, str] = _NONE
    ) -> None:
        attempts = []
        for job in jobs:
            if job.parked is None and (decision := job.decision) is not None:
                stored, group = None, None
                if records is not None and (record := records.get(job)) is not None:
                    stored, group = joined.get(record.id, record.id), record.fingerprint
                what = decision.reason or decision.outcome
                attempts.append(Attempted(what, job.handler, decision.label, decision.failure, stored, group))
        for note in self._notes if attempts else ():
            note(attempts)
