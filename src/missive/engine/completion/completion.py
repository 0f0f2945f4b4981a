"""Completion: decided jobs come back from the workers and go on to settlement, redelivery or the dead letters."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import cast

from missive.engine.completion.exits import Exits
from missive.engine.completion.redelivery import Redelivery
from missive.engine.dispatch.dispatcher import Dispatcher
from missive.engine.intake.source import Source
from missive.engine.job import BatchJob, Job, LaneRun, Work
from missive.engine.runtime import Runtime
from missive.engine.stages import Stages
from missive.engine.state import EngineState
from missive.engine.workers.decision import ACKED, HELD, LAPSED
from missive.errors import ProcessingFailed
from missive.outcome import Outcome
from missive.telemetry.observer import Attempted


class Completion:
    """Collects finished work from the workers, in chunks."""

    stages = Stages()
    """The stages of the engine; set by the assembly."""

    def __init__(
        self, dispatcher: Dispatcher, exits: Exits, redelivery: Redelivery, state: EngineState, runtime: Runtime
    ) -> None:
        self._dispatcher = dispatcher
        self._exits = exits
        self._redelivery = redelivery
        self._sources = state.sources
        self._report = state.report
        self._retried = state.observers.retried
        self._runtime = runtime

    def collect(self, works: Sequence[Work]) -> None:
        """Complete works that came back from the workers."""
        self._dispatcher.returned(works)
        done: dict[Source, list[Job]] = {}
        if self._dispatcher.combines:
            self._finish(self._unpack(works, done), done)
        else:  # every work is a job
            jobs = cast("Sequence[Job]", works)
            self._finish(self._pass_acked(self._sources[0], jobs, done) if len(self._sources) == 1 else jobs, done)

    def collect_early(self, runs: Sequence[LaneRun]) -> None:
        """Complete the jobs that lane runs have finished, while their workers go on."""
        done: dict[Source, list[Job]] = {}
        others: list[Job] = []
        for run in runs:
            jobs = run.take_early()
            if jobs and run.current is not None:  # the credit of the lane counts for the running job now
                run.source.mark_ready(run.current)
            others += self._pass_acked(run.source, jobs, done)
        self._finish(others, done)

    def filed(self, jobs: Sequence[Job]) -> None:
        """Settle jobs whose records are durable."""
        for job in jobs:
            if job.parked is not None:
                self._report.parked += 1
            elif job.decision is not None:
                self._report.dead[str(job.decision.reason)] += 1
        for filed in self.stages.filed:
            filed(jobs)
        self._exits.settle(jobs)

    def _finish(self, jobs: Iterable[Job], done: dict[Source, list[Job]]) -> None:  # noqa: C901, PLR0912 - one call for each job would cost more
        """Send each job where its decision says, and settle it together with the jobs that are `done`."""
        retried: list[Attempted] = []
        for job in jobs:
            route, decision = job.route, job.decision
            if route is None or decision is None:
                raise ProcessingFailed("a job came back from execution undecided")
            if job.waiting:
                job.source.mark_ready(job)
            if job.session is None:
                # Another consumer has the lease, and the handler was interrupted for that.
                self._exits.forget([job])
                continue
            outcome = decision.outcome
            if outcome is Outcome.acked:
                self._report.handled[route.name] += 1
            elif outcome is Outcome.discarded:
                self._report.discarded[route.name] += 1
            elif outcome is Outcome.dead_lettered:
                self._redelivery.bury(job, route, decision)
                continue
            else:
                if self._retried and decision is not LAPSED:
                    retried.append(Attempted(outcome, route.name, decision.label, decision.failure))
                self._redelivery.hold(job, route)
                continue
            if job.lane is not None:
                self._dispatcher.leave_lane(job)
            if job.source in done:
                done[job.source].append(job)
            else:
                done[job.source] = [job]
        for source, concluded in done.items():
            settle = concluded
            for conclude in self.stages.conclude:
                settle = conclude(settle)
            source.settler.add(settle)
        self._dispatcher.dispatch()
        if retried:
            for note in self._retried:
                note(retried)

    def _pass_acked(self, source: Source, jobs: Sequence[Job], done: dict[Source, list[Job]]) -> list[Job]:
        """Add acked jobs, which are nearly all, to `done`; return the others. This is the fast path."""
        handled = self._report.handled
        acked: list[Job] = []
        others: list[Job] = []
        waiting = since = entered = 0
        route, lane = None, None
        for job in jobs:
            if job.decision is not ACKED or job.session is None:
                others.append(job)
                continue
            if job.waiting:
                job.waiting = False
                waiting += 1
            if job.route is not route:
                if route is not None:
                    handled[route.name] += len(acked) - since
                route, since = job.route, len(acked)
            if job.lane is not lane:
                self._dispatcher.leave_lane_together(lane, len(acked) - entered)
                lane, entered = job.lane, len(acked)
            job.lane = None
            acked.append(job)
        if route is not None:
            source.waiting -= waiting
            handled[route.name] += len(acked) - since
            done.setdefault(source, []).extend(acked)
            self._dispatcher.leave_lane_together(lane, len(acked) - entered)
        return others

    # Batches and lane runs

    def _unpack(self, works: Sequence[Work], done: dict[Source, list[Job]]) -> Iterator[Job]:
        """Yield the jobs of works one by one; jobs that did not run wait again."""
        for work in works:
            if isinstance(work, Job):
                yield work
                continue
            if isinstance(work, LaneRun):
                self._step_back(work.withdraw(), held=work.blocked)
                ran = work.take()
            else:
                ran, left = self._split_batch(work)
                self._step_back(left, held=True)
                if work.mixed:
                    yield from ran
                    continue
            yield from self._pass_acked(work.source, ran, done)

    def _split_batch(self, work: BatchJob) -> tuple[list[Job], list[Job]]:
        """Return the finished jobs of a batch, and the jobs that wait behind the first held job of their lane."""
        if not [job for job in work.jobs if job.decision is not ACKED]:
            return work.jobs, []
        ran: list[Job] = []
        left: list[Job] = []
        lanes: set[Hashable] = set()
        for job in work.jobs:
            decision = job.decision
            if decision is None:
                job.reset_run()
                left.append(job)
                continue
            if decision.outcome in HELD and job.lane is not None and work.route.terms.on_lane_retry != "pass":
                if job.lane in lanes:
                    # A handler may hold several messages of one key. They run again one by one, each when it is due.
                    self._redelivery.count(job, work.route, decision)
                    job.due = self._runtime.monotonic() + decision.delay
                    self._redelivery.next_attempt(job)
                    left.append(job)
                    continue
                lanes.add(job.lane)
            ran.append(job)
        return ran, left

    def _step_back(self, jobs: Sequence[Job], *, held: bool) -> None:
        """Return jobs that were submitted and did not run to their lanes, or to their transport."""
        lanes: dict[Hashable, list[Job]] = {}
        gone: list[Job] = []
        for job in jobs:
            if self._exits.may_start(job):
                lanes.setdefault(job.lane, []).append(job)
            else:
                job.source.mark_ready(job)
                self._dispatcher.leave_lane(job)
                gone.append(job)
        for of_lane in lanes.values():
            self._dispatcher.step_back(of_lane, held=held)
        self._exits.give_back(gone)
