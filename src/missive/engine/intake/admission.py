"""Admission: deliveries become jobs, pass the stages, are routed, and enter their lanes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

from missive.app.terms import HandlerRoute, Terms
from missive.dlq.contract import Sink
from missive.dlq.failure import capture
from missive.dlq.record import Record
from missive.engine.completion.dead_letters import DeadLetterWriter
from missive.engine.dispatch.dispatcher import Dispatcher
from missive.engine.intake.assigned import AssignedRoutes, Find
from missive.engine.intake.bounds import enforce_bounds
from missive.engine.intake.factory import message_factory
from missive.engine.intake.source import GONE, Source
from missive.engine.job import Job, by_lane
from missive.engine.order import OrderCheck
from missive.engine.runtime import Runtime
from missive.engine.stages import Stages
from missive.engine.state import EngineState
from missive.engine.workers.decision import ORPHANED, Decision, decide, decide_discarded, decide_misrouted
from missive.errors import Fatal
from missive.messages import Message, RawMessage
from missive.outcome import Outcome, Reason
from missive.routing.router import Misrouted, Router
from missive.transport import Delivery, Session


def make_job(
    source: Source, session: Session, delivery: Delivery, make: Callable[[Delivery], Message], arrived: float
) -> Job:
    """Return the job of a delivery. A message class that raises makes the job a dead letter, `unreadable`."""
    if delivery.too_large is not None:
        job = Job(source, session, delivery, _raw_message(delivery), delivery.attempt, arrived=arrived)
        job.decision = Decision(Outcome.dead_lettered, Reason.too_large, detail=delivery.too_large)
        return job
    if delivery.unreadable is not None:
        job = Job(source, session, delivery, _raw_message(delivery), delivery.attempt, arrived=arrived)
        job.decision = Decision(Outcome.dead_lettered, Reason.unreadable, detail=delivery.unreadable)
        return job
    try:
        message = make(delivery)
    except BaseException as error:  # noqa: BLE001 - a message class of the application may raise anything
        job = Job(source, session, delivery, _raw_message(delivery), delivery.attempt, arrived=arrived)
        job.decision = Decision(Outcome.dead_lettered, Reason.unreadable, failure=capture(error))
        return job
    return Job(source, session, delivery, message, delivery.attempt, arrived=arrived)


def _raw_message(delivery: Delivery) -> Message:
    return RawMessage(delivery.body, headers=delivery.headers)


def _number_orders(routes: Sequence[HandlerRoute]) -> dict[HandlerRoute, int]:
    """Return a number for each route with `ordered_by`. Routes with an equal `ordered_by` share a number."""
    numbers: dict[Callable[[Message], Hashable], int] = {}
    return {r: numbers.setdefault(key, len(numbers)) for r in routes if (key := r.terms.ordered_by) is not None}


class Admission:
    """Admits the deliveries of all sources."""

    stages = Stages()
    """The stages of the engine; set by the assembly."""

    def __init__(
        self,
        message_cls: type[Message],
        router: Router[Terms],
        routes: Sequence[HandlerRoute],
        dispatcher: Dispatcher,
        dead_letters: DeadLetterWriter,
        sink: Sink | None,
        state: EngineState,
        runtime: Runtime,
    ) -> None:
        self._make = message_factory(message_cls)
        self._find = router.find
        self._routes = routes
        self._assigned = AssignedRoutes(routes)
        self._orders = _number_orders(routes)
        self._dispatcher = dispatcher
        self._dead_letters = dead_letters
        self._sink = sink
        self._report = state.report
        self._order = OrderCheck(routes, state)
        self._runtime = runtime

    def check_session(self, source: Source, session: Session) -> None:
        """Compare a new session with the needs of the handlers and the dead letter queue.

        Raises `Fatal`, and `UsageError` where several workers would break the order of a handler.
        """
        self._order.check(source.adapter, session)
        if self._sink is not None and self._sink.rejects and not session.capabilities.rejects:
            raise Fatal(
                f"{source.adapter.url}: dead letters are left to the broker (broker:), but no dead letter facility of"
                " the broker is configured. Set another dead letter store with dlq= or --dlq."
            )
        lease = session.capabilities.lease
        if lease is None or session.capabilities.renewable or source.lapsed is not None:
            return  # a lease that the source learned while running is reported; the process goes on
        for route in self._routes:
            if route.discards is None and route.terms.timeout > lease:
                raise Fatal(
                    f"{source.adapter.url}: the lease is {lease:g} s and cannot be renewed, but {route.name} may take"
                    f" {route.terms.timeout:g} s. Lower its timeout=."
                )

    async def prepare(self, source: Source, deliveries: Sequence[Delivery]) -> None:
        """Let the stages look deliveries up in the store before `take`."""
        redelivered = any([delivery.redelivered for delivery in deliveries])  # noqa: C419 - a list is twice as fast
        for prepare in source.stages.prepare:
            await prepare(source, deliveries, redelivered)

    def take(self, source: Source, session: Session, deliveries: Sequence[Delivery]) -> None:
        """Make jobs of deliveries and queue them."""
        if session.capabilities.max_watermark:
            deliveries = self._without_handled(source, deliveries)
        jobs = self.jobs_of(source, session, deliveries)
        in_lanes = session.capabilities.pauses or session.capabilities.commit == "cumulative"
        lanes = by_lane(jobs) if in_lanes else {}
        for taken in source.stages.taken:
            taken(source, session, jobs, lanes)
        self.queue(source, jobs)
        self._dispatcher.dispatch()

    def take_deleted(self, source: Source, deliveries: Sequence[Delivery]) -> None:
        """Queue deliveries whose messages no longer exist: their outcomes need no settlement."""
        if deliveries:
            source.spend_credit(len(deliveries), enforce_bounds(deliveries, source.adapter.max_body))
            self.take(source, GONE, deliveries)
            source.count_gone(len(deliveries))

    def jobs_of(self, source: Source, session: Session, deliveries: Sequence[Delivery]) -> list[Job]:
        """Return the jobs of deliveries."""
        make, now = self._make, self._runtime.monotonic()
        jobs = [make_job(source, session, delivery, make, now) for delivery in deliveries]
        if jobs and jobs[0].delivery.record is not None:
            for job in jobs:
                record: Record = job.delivery.record
                if (failed_at := record.failed_at) is not None:
                    job.failed_at = now - max(0.0, self._runtime.time() - failed_at)
                if record.is_orphan:
                    job.decision = ORPHANED
        return jobs

    def _without_handled(self, source: Source, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """Return the deliveries that no earlier consumer of their lane handled, and return the credit of the others."""
        fresh = source.settler.fresh(deliveries)
        if len(fresh) < len(deliveries):
            size = sum([len(delivery.body) for delivery in deliveries]) - sum([len(d.body) for d in fresh])
            source.return_credit(len(deliveries) - len(fresh), size)
        return fresh

    def queue(self, source: Source, jobs: Sequence[Job]) -> None:
        """Route jobs, and queue each in its lane or without one."""
        unordered: list[Job] = []
        natural: list[Job] = []
        find: Find = self._find
        admitting = self.stages.admitting
        if jobs and jobs[0].delivery.record is not None:
            find = self._assigned.finder(jobs, find)
        for job in jobs:
            route = None if job.decision is not None else find(job.message)
            if route is None or isinstance(route, Misrouted) or route.discards is not None:
                self._conclude_unhandled(job, route)
                continue
            job.route = route
            if route.terms.ordered_by is not None or admitting:
                self.enter(job)
            elif job.delivery.lane is None:
                unordered.append(job)
            else:
                natural.append(job)
        if natural:
            self._queue_natural(source, natural)
        self._dispatcher.add_unordered(unordered)

    def _conclude_unhandled(self, job: Job, found: HandlerRoute | Misrouted | None) -> None:
        """Settle or file a job that no handler runs."""
        if found is None:
            self._dead_letters.add(job)
        elif isinstance(found, Misrouted):
            job.decision = decide_misrouted(found)
            self._dead_letters.add(job)
        else:
            job.route, job.decision = found, decide_discarded(found)
            self._report.discarded[found.name] += 1
            job.source.settler.add([job])

    def _queue_natural(self, source: Source, jobs: Sequence[Job]) -> None:
        """Queue jobs in the lanes of their transport."""
        for name, of_lane in by_lane(jobs).items():
            lane = (source, name)
            for job in of_lane:
                job.lane = lane
            self._dispatcher.add_run(lane, of_lane)

    def enter(self, job: Job) -> None:
        """Queue a routed job at the end of its lane, if it has one."""
        route = job.route
        if route is None:
            return
        if route.terms.ordered_by is None:
            if job.delivery.lane is not None:
                job.lane = (job.source, job.delivery.lane)
        else:
            try:
                key = route.terms.key_of(job.message)
            except BaseException as error:  # noqa: BLE001 - a callable of the application may raise anything
                job.decision = decide(None, error)
                self._dead_letters.add(job)
                return
            job.lane = None if key is None else (self._orders[route], key)
        jobs: Sequence[Job] = (job,)
        for admit in self.stages.admit:
            jobs = admit(jobs)
        for admitted in jobs:
            self._dispatcher.add(admitted)
