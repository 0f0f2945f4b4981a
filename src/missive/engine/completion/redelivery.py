"""Redelivery: failed jobs become dead letters, or wait in memory, in the transport or in the store for another run."""

from __future__ import annotations

from missive.app.terms import HandlerRoute
from missive.dlq.record import Attempt
from missive.engine.completion.dead_letters import DeadLetterWriter
from missive.engine.completion.exits import Exits
from missive.engine.completion.parking import ParkingLot
from missive.engine.dispatch.dispatcher import Dispatcher
from missive.engine.dispatch.held import HeldJobs
from missive.engine.intake.admission import Admission
from missive.engine.job import Job
from missive.engine.runtime import Runtime
from missive.engine.stages import Stages
from missive.engine.state import EngineState
from missive.engine.workers.decision import DEPENDENCY_DOWN, NACK_SECONDS, Decision
from missive.errors import ProcessingFailed
from missive.outcome import Outcome
from missive.transport import Disposition

_KEPT_ATTEMPTS = 9
"""How many earlier attempts a job keeps in its history."""


class Redelivery:
    """Decides where a job that did not succeed waits, and runs it again when it is due."""

    stages = Stages()
    """The stages of the engine; set by the assembly."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        held_jobs: HeldJobs,
        admission: Admission,
        dead_letters: DeadLetterWriter,
        exits: Exits,
        parking: ParkingLot | None,
        state: EngineState,
        runtime: Runtime,
    ) -> None:
        self._dispatcher = dispatcher
        self._held_jobs = held_jobs
        self._admission = admission
        self._dead_letters = dead_letters
        self._exits = exits
        self._parking = parking
        self._state = state
        self._report = state.report
        self._runtime = runtime
        held_jobs.due = self.run_again

    def bury(self, job: Job, route: HandlerRoute, decision: Decision) -> None:
        """File a dead letter, unless the failure belongs to a dependency that is known to be down."""
        if decision.blames is None or not self._waits_for_dependency(job, route, decision):
            self._dead_letters.add(job)
            self._dispatcher.leave_lane(job)

    def hold(self, job: Job, route: HandlerRoute) -> None:
        """Keep a retried or nacked job, unsettled, until it is due."""
        decision = job.decision
        if decision is None or not job.owned:
            self._exits.forget([job])
            return
        if decision.stops is not None:
            failure = f"{decision.stops}. Unsettled messages are redelivered if the transport can"
            self._state.fail(ProcessingFailed(failure))
        if decision.blames is not None and self._waits_for_dependency(job, route, decision):
            return
        for held in self.stages.held:
            held(job)
        if not self._exits.may_start(job):
            self.count(job, route, decision)
            self._dispatcher.leave_lane(job)
            self._exits.give_back([job])
            return
        if self._parking is not None and self._parking.take_over(job, route, decision):
            return
        if self._sends_back(job, route, decision):
            return
        self.count(job, route, decision)
        if route.terms.on_lane_retry == "pass":
            self._dispatcher.leave_lane(job)
        self._held_jobs.hold(job, decision.delay)

    def _sends_back(self, job: Job, route: HandlerRoute, decision: Decision) -> bool:
        """Let the transport hold a job with a long delay, where it can; return whether it does."""
        if not self._runtime.limits.hold_seconds < decision.delay <= job.capabilities.max_delay:
            return False
        if job.lane is not None and route.terms.on_lane_retry != "pass":
            return False
        self._report.count_held(decision.outcome)
        job.disposition = Disposition.delay
        self._dispatcher.leave_lane(job)
        job.source.settler.add([job])
        return True

    def _waits_for_dependency(self, job: Job, route: HandlerRoute, decision: Decision) -> bool:
        """Hold a job that failed because of a dependency that is down, without spending an attempt.

        Return False when the dependency is not known to be down.
        """
        circuit = self._dispatcher.circuits.get(decision.blames or "")
        if circuit is None:
            return False
        own = route.terms.breaker is not None and route.terms.breaker.name == decision.blames
        if decision.trips and not own:  # the limiter of another route reports to the circuit only for its own jobs
            circuit.failed(trips=True)
        if circuit.up:
            return False
        for released in self.stages.released:
            released(job)
        if not self._exits.may_start(job):
            self._dispatcher.leave_lane(job)
            self._exits.give_back([job])
        elif own:
            job.reset_run()
            self._dispatcher.add_head(job)
        else:
            job.decision = DEPENDENCY_DOWN
            if route.terms.on_lane_retry == "pass":
                self._dispatcher.leave_lane(job)
            self._held_jobs.hold(job, max(NACK_SECONDS, circuit.opens_in))
        return True

    def count(self, job: Job, route: HandlerRoute, decision: Decision) -> None:
        """Count a job that is held, and record a spent attempt in its history."""
        self._report.count_held(decision.outcome)
        if decision.outcome is Outcome.nacked:
            return
        failure = decision.failure
        attempt = Attempt(
            at=self._runtime.time(),
            reason=str(decision.outcome),
            attempt=job.attempt,
            handler=route.name,
            error=None if failure is None else failure.type,
        )
        job.history = (*job.history[-_KEPT_ATTEMPTS:], attempt)

    def next_attempt(self, job: Job) -> None:
        """Prepare a job for its next run, which is a new attempt after a retry."""
        if job.decision is not None and job.decision.outcome is Outcome.retried:
            job.attempt += 1
        job.reset_run()

    def run_again(self, job: Job) -> None:
        """Queue a held job that is due."""
        job.source.mark_ready(job)
        if not job.owned:
            self._exits.forget([job])
            return
        self.next_attempt(job)
        if job.lane is None:
            self._admission.enter(job)
        else:
            self._dispatcher.add_head(job)
        self._dispatcher.dispatch()
