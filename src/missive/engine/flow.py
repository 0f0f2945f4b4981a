"""The flow of messages through the rooms, one way: fetch → route → lane → execute → decide → settle."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, cast

from missive.adapters.base import Adapter
from missive.app.processor import Processor
from missive.app.terms import HandlerRoute
from missive.dlq.contract import Sink, Store
from missive.dlq.failure import capture
from missive.dlq.once import OnceStore
from missive.dlq.record import Attempt
from missive.engine.completion.attempts import Attempts
from missive.engine.completion.dead_letters import DeadLetterWriter
from missive.engine.completion.idempotency import BUSY_SECONDS, Claims, leased_routes
from missive.engine.completion.parking import BEHIND, BREAKER_OPEN, HOLD_SECONDS, MOST_HELD, ParkingLot, park_routes
from missive.engine.completion.settlement import Settler
from missive.engine.dispatch.circuit import CircuitLimiter
from missive.engine.dispatch.dispatcher import Dispatcher
from missive.engine.dispatch.isolation import IsolatingDispatcher
from missive.engine.intake.assignment import Assignment
from missive.engine.intake.backpressure import Pauser
from missive.engine.intake.factory import message_factory
from missive.engine.intake.leases import LeaseRenewer
from missive.engine.intake.source import Source, SourceHost
from missive.engine.intake.watchdog import Watchdog
from missive.engine.job import BatchJob, Job, LaneRun, Work, by_lane
from missive.engine.processes.crashes import Crashes
from missive.engine.report import Report
from missive.engine.runtime import Runtime
from missive.engine.workers.decision import (
    ACKED,
    DEPENDENCY_DOWN,
    DUPLICATE,
    HELD,
    NACK_SECONDS,
    SHUTDOWN,
    Decision,
    decide,
    decide_discarded,
    decide_misrouted,
)
from missive.engine.workers.pool import Outbox, Pool
from missive.errors import Fatal, MissiveError, NotSettled, ProcessingFailed
from missive.messages import Message, RawMessage
from missive.outcome import Outcome, Reason
from missive.routing.route import Route
from missive.routing.router import Misrouted
from missive.transport import Delivery, Disposition, Session

_LOOK = 0.02
"""Seconds between two looks for results that no worker told of yet, while something runs."""

logger = logging.getLogger("missive")


def make_job(
    source: Source, session: Session, delivery: Delivery, make: Callable[[Delivery], Message], arrived: float
) -> Job:
    """Make the message of a delivery, and the job that takes it through the rooms."""
    try:
        message = make(delivery)
    except Exception as error:  # noqa: BLE001 - a message class of the user's may raise anything
        message = RawMessage(delivery.body, headers=delivery.headers)
        job = Job(source, session, delivery, message, delivery.attempt, arrived=arrived)
        job.decision = Decision(Outcome.dead_lettered, Reason.unreadable, failure=capture(error))
        return job
    return Job(source, session, delivery, message, delivery.attempt, arrived=arrived)


def _orders(routes: Sequence[HandlerRoute]) -> dict[HandlerRoute, int]:
    """Return a number for each route that says what orders it; those that say the same have the same number."""
    numbers: dict[Callable[[Message], Hashable], int] = {}
    return {r: numbers.setdefault(key, len(numbers)) for r in routes if (key := r.terms.ordered_by) is not None}


class Flow:
    """Carries jobs from room to room; all of it on the engine's loop. What to start and stop, the lifecycle says.

    `fail` is called with what must stop the engine. `changed` is set when a source has nothing unsettled any more,
    and while draining whenever something was settled.
    """

    def __init__(
        self,
        processor: Processor[Any],
        adapters: Sequence[Adapter],
        sink: Sink | None,
        concurrency: int,
        handlers_loop: asyncio.AbstractEventLoop,
        runtime: Runtime,
        *,
        fail: Callable[[MissiveError], None],
    ) -> None:
        self.report = Report()
        self.changed = asyncio.Event()
        self._make = message_factory(processor.message_cls)
        self._runtime = runtime
        self._fail = fail
        self._draining = False
        routes = processor.freeze()
        self._find = processor.router().find
        self._orders = _orders(routes)
        self._held: dict[Job, Callable[[], None]] = {}
        self._outbox = outbox = Outbox(asyncio.get_running_loop(), self._collect)
        sync_routes = [route for route in routes if route.discards is None and not route.terms.is_async]
        async_routes = [route for route in routes if route.terms.is_async]
        clock = runtime.monotonic
        sync_pool = runtime.thread_pool(processor, concurrency, outbox, sync_routes, handlers_loop, clock)
        async_pool = runtime.loop_pool(processor, concurrency, outbox, async_routes, handlers_loop, clock)
        # Hooks run in the workers there are: a processor without a sync handler has no threads.
        self.pools: list[Pool] = [sync_pool] if sync_routes or not async_routes else []
        self.pools += [async_pool] if async_routes else []
        pool_of = {route: async_pool if route.terms.is_async else sync_pool for route in routes}
        self._routes = routes
        self._concurrency = concurrency
        self.largest_batch = max((route.terms.batch.size for route in routes if route.terms.batch), default=1)
        self._together = any(route.terms.batch is not None or route.terms.ordered_by is not None for route in routes)
        isolating = IsolatingDispatcher(self.pools, pool_of, concurrency, runtime) if isinstance(sink, Store) else None
        self.dispatcher = Dispatcher(self.pools, pool_of, concurrency, runtime) if isolating is None else isolating
        self.dispatcher.keep_for = self._keep_for
        self.filing = DeadLetterWriter(
            processor.name,
            sink,
            runtime,
            routes=routes,
            public=processor.public,
            filed=self._filed,
            refused=self._refused,
            changed=self._nudge,
        )
        self.crashes = (
            None if isolating is None else Crashes(processor.name, self.filing, runtime, isolating, self._find)
        )
        self._once = any(route.terms.once is not None for route in routes)
        parking = park_routes(routes, sink)
        self.attempts = self.lot = None
        if isinstance(sink, Store):
            self.attempts = Attempts(processor.name, self.filing, runtime)
            self.lot = ParkingLot(processor.name, self.filing, runtime, parking)
            self.dispatcher.overflow = self._overflow
        self.claims = self._claims_of(processor.name, leased_routes(routes, sink), sink)
        self.sources = [
            Source(
                a,
                SourceHost(processor.name, runtime, self.filing),
                runtime,
                accept=self._accept,
                take=self._take,
                lost=self._lost,
                over=self.changed.set,
                blocked=self._is_blocked,
                pace=lambda source: self.pausers[source].apply(),
                prepare=self._prepare if isinstance(sink, Store) else None,
            )
            for a in adapters
        ]
        for source in self.sources:
            if source.adapter.rate_limit is not None:
                self.dispatcher.limit(source, source.adapter.rate_limit)
        self.settlers = {source: Settler(source, runtime, settled=self._settled) for source in self.sources}
        self.pausers = {source: Pauser(source, runtime, self.settlers[source].crowded) for source in self.sources}
        for source in self.sources:
            source.host.lanes = Assignment(
                source,
                runtime,
                self.settlers[source],
                self.pausers[source],
                withdraw=self._withdraw_those,
                forget=self._forget,
                revoke=self._lost_leases,
                look=self._look_at_store,
            )
        self.watchdogs = {
            source: Watchdog(source, runtime, busy=functools.partial(self._is_held_back, source))
            for source in self.sources
        }
        longest = max((route.terms.timeout for route in routes if route.discards is None), default=0.0)
        self.keepers = {
            source: LeaseRenewer(source, runtime, longest, lost=self._lost_leases, waiting=self._release_waiting)
            for source in self.sources
        }

    async def _look_at_store(self) -> None:
        """Learn what others left in the store that had the lanes which are taken up: crashes, and lanes they parked."""
        if self.crashes is not None:
            await self.crashes.look()
        if self.lot is not None:
            await self.lot.look()

    def _claims_of(self, service: str, leased: frozenset[HandlerRoute], sink: Sink | None) -> Claims | None:
        """Return what claims effects, if there is anything to claim; for that it stands before the dispatcher."""
        if not leased or not isinstance(sink, OnceStore):
            return None
        claims = Claims(
            service,
            self.filing,
            sink,
            self._runtime,
            [route for route in self._routes if route in leased],
            self._concurrency,
            answered=self._answered,
            finished=self._finished,
            changed=self._nudge,
        )
        self.dispatcher.leased, self.dispatcher.claim = leased, claims.ask
        return claims

    def _is_blocked(self) -> bool:
        """Tell whether the store cannot be written, so that nothing more is to be fetched."""
        return self.filing.down or (self.claims is not None and self.claims.down)

    def _is_held_back(self, source: Source) -> bool:
        """Tell whether there is a reason of ours why a source delivers nothing."""
        return self._is_blocked() or self._draining or self.pausers[source].paused

    @property
    def unsettled(self) -> int:
        """How many deliveries are fetched and not settled."""
        return sum(source.items for source in self.sources)

    # fetch → route → lane

    async def _prepare(self, source: Source, deliveries: Sequence[Delivery]) -> None:
        """Learn what the store knows of deliveries, before they are taken."""
        again = any([delivery.redelivered for delivery in deliveries])  # noqa: C419 - twice as quick
        if again and self.crashes is not None:
            await self.crashes.look()
        if self.attempts is not None and (again or self.attempts.is_early(source)):
            await self.attempts.look(source, deliveries)

    def _accept(self, source: Source, session: Session) -> None:
        """Refuse a session that cannot do what the handlers, and the dead letter queue, ask. Raises `Fatal`."""
        if self.filing.sink is not None and self.filing.sink.rejects and not session.capabilities.rejects:
            raise Fatal(
                f"{source.adapter.url} has no dead letter facility of its own, or was not told of one, and dead letters"
                " are left to the broker (broker:): say another store with dlq= or --dlq"
            )
        lease = session.capabilities.lease
        if lease is None or session.capabilities.renewable:
            return
        for route in self._routes:
            if route.discards is None and route.terms.timeout > lease:
                raise Fatal(
                    f"{source.adapter.url}: the lease is {lease:g} s and cannot be renewed, but {route.name} may take"
                    f" {route.terms.timeout:g} s. Lower its timeout=."
                )

    def _take(self, source: Source, session: Session, deliveries: Sequence[Delivery]) -> None:
        if session.capabilities.max_watermark:
            deliveries = self._fresh(source, deliveries)
        jobs = self._jobs_of(source, session, deliveries)
        if self.crashes is not None:
            self.crashes.examine(jobs)
        if session.capabilities.lease is not None:
            self.keepers[source].hold(session, jobs)
        if session.capabilities.pauses or session.capabilities.commit == "cumulative":
            lanes = by_lane(jobs)
            if session.capabilities.pauses:
                self.pausers[source].took(lanes)
            self.settlers[source].started(session, lanes)
        self._queue_all(source, jobs)
        self.dispatcher.dispatch()

    def _queue_all(self, source: Source, jobs: Sequence[Job]) -> None:
        """HandlerRoute jobs, and put each into its lane, if it has one."""
        parked = self.lot is not None and self.lot.lanes
        unordered: list[Job] = []
        natural: list[Job] = []
        find = self._find
        for job in jobs:
            route = None if job.decision is not None else find(job.message)
            if route is None or isinstance(route, Misrouted) or route.discards is not None:
                self._end_at_once(job, route)
                continue
            job.route = route
            if route.terms.ordered_by is not None or parked:
                self._queue(job, route)
            elif job.delivery.lane is None:
                unordered.append(job)
            else:
                natural.append(job)
        if natural:
            self._queue_natural(source, natural)
        if self.claims is not None:
            for job in unordered:
                self.dispatcher.add_head(job)
        else:
            self.dispatcher.add_unordered(unordered)

    def _jobs_of(self, source: Source, session: Session, deliveries: Sequence[Delivery]) -> list[Job]:
        """Make the jobs of deliveries, which go on with the attempts that were spent on them before."""
        make, now = self._make, self._runtime.monotonic()
        jobs = [make_job(source, session, delivery, make, now) for delivery in deliveries]
        if self.attempts is not None:
            self.attempts.take(jobs)
        if jobs and jobs[0].delivery.record is not None:
            for job in jobs:
                if (failed_at := job.delivery.record.failed_at) is not None:
                    job.failed_at = now - (self._runtime.time() - failed_at)
        return jobs

    def _fresh(self, source: Source, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """Return what was not handled before, by whoever had its lane; the credit of the rest is given back."""
        fresh = self.settlers[source].fresh(deliveries)
        if len(fresh) < len(deliveries):
            size = sum([len(delivery.body) for delivery in deliveries]) - sum([len(d.body) for d in fresh])
            source.release(len(deliveries) - len(fresh), size)
        return fresh

    def _routed(self, job: Job) -> HandlerRoute | None:
        """Find the route of a job; None where there is nothing to run, and the job is on its way already."""
        route = None if job.decision is not None else self._find(job.message)
        if route is None or isinstance(route, Misrouted) or route.discards is not None:
            self._end_at_once(job, route)
            return None
        job.route = route
        return route

    def _end_at_once(self, job: Job, found: HandlerRoute | Misrouted | None) -> None:
        """Go on with a job of which there is nothing to run."""
        if isinstance(found, Route):
            job.route, job.decision = found, decide_discarded(found)
            self.report.discarded[found.name] += 1
            self.settlers[job.source].add([job])
            return
        if found is not None:
            job.decision = decide_misrouted(found)
        self.filing.add(job)  # also what could not even be made a message

    def _queue_natural(self, source: Source, jobs: Sequence[Job]) -> None:
        """Put routed jobs, which nothing else orders, into the lanes of their transport."""
        self._together = True
        for name, of_lane in by_lane(jobs).items():
            lane = (source, name)
            for job in of_lane:
                job.lane = lane
            self.dispatcher.add_run(lane, of_lane)

    def _queue(self, job: Job, route: HandlerRoute) -> None:
        """Put a routed job into its lane, if it has one."""
        if route.terms.ordered_by is None:
            if job.delivery.lane is not None:
                job.lane = (job.source, job.delivery.lane)
                self._together = True
        else:
            try:
                key = route.terms.key_of(job.message)
            except Exception as error:  # noqa: BLE001 - a callable of the user's may raise anything
                job.decision = decide(None, error)
                self.filing.add(job)
                return
            job.lane = None if key is None else (self._orders[route], key)
        if self.lot is not None and self.lot.lanes and self._waits_in_lot(job, route):
            return
        self.dispatcher.add(job)

    # execute → decide → settle

    def look(self) -> None:
        """Look, from now on, at what runs: what is overdue is interrupted, what nobody told of is collected."""
        self._outbox.deliver()
        if runs := [run for pool in self.pools for run in pool.runs()]:
            self._collect_early(runs)
        running = self.dispatcher.running
        if running:
            now = self._runtime.monotonic()
            for pool in self.pools:
                if expired := pool.expire(now):
                    self._say_overdue(expired)
            stuck = [job for pool in self.pools for job in pool.stuck(now)]
            hopeless = len(stuck) >= self._concurrency or any(pool.blocked(now) for pool in self.pools)
            if stuck and hopeless and not self._draining:
                self._fail(_stuck(stuck))
        self.dispatcher.look()
        self._runtime.call_later(_LOOK if running else _LOOK * 5, self.look)

    def _say_overdue(self, jobs: Sequence[Job]) -> None:
        for name, count in Counter(job.route.name for job in jobs if job.route is not None).items():
            logger.warning("%s: %d past the timeout", name, count)
        threads = [job.route for job in jobs if job.route is not None and not job.route.terms.is_async]
        if threads:
            logger.warning(
                "a thread cannot be interrupted: %s keeps its worker, and its message stays unsettled, until it ends",
                threads[0].name,
            )

    def _collect(self, works: Sequence[Work]) -> None:
        self.dispatcher.returned(works)
        done: dict[Source, list[Job]] = {}
        if self._together:
            self._finish(self._unpacked(works, done), done)
        else:  # works are jobs
            jobs = cast("Sequence[Job]", works)
            self._finish(self._passed(self.sources[0], jobs, done) if len(self.sources) == 1 else jobs, done)

    def _collect_early(self, runs: Sequence[LaneRun]) -> None:
        """Go on with what runs of lanes have run, while their workers are at the next."""
        done: dict[Source, list[Job]] = {}
        others: list[Job] = []
        for run in runs:
            jobs = run.take_early()
            if jobs and run.current is not None:  # which is what the credit of its lane is for now
                run.source.put_forward(run.current)
            others += self._passed(run.source, jobs, done)
        self._finish(others, done)

    def _finish(self, jobs: Iterable[Job], done: dict[Source, list[Job]]) -> None:  # noqa: C901 - one frame for each
        """Go on with jobs as they are decided, and settle those that are `done`."""
        for job in jobs:
            route, decision = job.route, job.decision
            if route is None or decision is None:
                raise ProcessingFailed("a job came back from execution undecided")
            if job.behind:
                job.source.put_forward(job)
            if job.session is None:
                # Its lease went to somebody else, for which it was interrupted here: it ends there.
                self._forget([job])
                continue
            outcome = decision.outcome
            if outcome is Outcome.acked:
                self.report.handled[route.name] += 1
            elif outcome is Outcome.discarded:
                self.report.discarded[route.name] += 1
            elif outcome is Outcome.dead_lettered:
                self._bury(job, route, decision)
                continue
            else:
                self._hold(job, route)
                continue
            if job.lane is not None:
                self.dispatcher.leave_lane(job)
            if job.source in done:
                done[job.source].append(job)
            else:
                done[job.source] = [job]
        for source, settle in done.items():
            self.settlers[source].add(self._told_once(settle) if self._once else settle)
        self.dispatcher.dispatch()

    # Effects that happen once

    def _answered(self, jobs: Sequence[Job]) -> None:
        """Go on with jobs whose effects were to be claimed."""
        for job in jobs:
            job.source.put_forward(job)
            if job.decision is not None:
                self.dispatcher.leave_lane(job)
                if job.decision is DUPLICATE:
                    self.report.duplicates += 1
                    self.settlers[job.source].add([job])
                else:
                    self.filing.add(job)
            elif not job.ours:
                self._forget([job])
            elif self._draining or job.delivery.lane in job.source.leaving:
                self.dispatcher.leave_lane(job)
                self._give_back([job])
            elif job.claim is not None:
                self.dispatcher.add_head(job)
            else:
                if job.route is not None and job.route.terms.on_lane_retry == "pass":
                    self.dispatcher.leave_lane(job)
                self._keep_for(job, BUSY_SECONDS)
        self.dispatcher.dispatch()

    def _told_once(self, jobs: list[Job]) -> list[Job]:
        """Count duplicates as such; returns what can be settled now, without waiting for the end of a claim."""
        for job in jobs:
            if job.decision is DUPLICATE and job.route is not None:
                self.report.duplicates += 1
                self.report.handled.subtract((job.route.name,))
                self.report.handled += Counter()  # drops what has come to nothing
        if self.claims is None:
            return jobs
        free = [job for job in jobs if job.claim is None]
        self.claims.finish([job for job in jobs if job.claim is not None])
        return free

    def _finished(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            self.settlers[job.source].add([job])

    def _unpacked(self, works: Sequence[Work], done: dict[Source, list[Job]]) -> Iterator[Job]:
        """Yield jobs, those that came together one by one; what was not run waits again."""
        for work in works:
            if isinstance(work, Job):
                yield work
                continue
            if isinstance(work, LaneRun):
                self._step_back(work.withdraw(), held=work.blocked)
                ran = work.take()
            else:
                ran, left = self._sorted(work)
                self._step_back(left, held=True)
            yield from self._passed(work.source, ran, done)

    def _passed(self, source: Source, jobs: Sequence[Job], done: dict[Source, list[Job]]) -> list[Job]:
        """Add those that are handled and nothing else, nearly all, to what is done; returns the others."""
        handled = self.report.handled
        acked: list[Job] = []
        others: list[Job] = []
        behind = since = entered = 0
        route, lane = None, None
        for job in jobs:
            if job.decision is not ACKED or job.session is None:
                others.append(job)
                continue
            if job.behind:
                job.behind = False
                behind += 1
            if job.route is not route:
                if route is not None:
                    handled[route.name] += len(acked) - since
                route, since = job.route, len(acked)
            if job.lane is not lane:
                self.dispatcher.leave_lane_together(lane, len(acked) - entered)
                lane, entered = job.lane, len(acked)
            job.lane = None
            acked.append(job)
        if route is not None:
            source.behind -= behind
            handled[route.name] += len(acked) - since
            done.setdefault(source, []).extend(acked)
            self.dispatcher.leave_lane_together(lane, len(acked) - entered)
        return others

    def _sorted(self, work: BatchJob) -> tuple[list[Job], list[Job]]:
        """Return what of a batch is done with or the first held of its lane, and what waits behind such a one."""
        if not [job for job in work.jobs if job.decision is not ACKED]:
            return work.jobs, []
        ran: list[Job] = []
        left: list[Job] = []
        lanes: set[Hashable] = set()
        for job in work.jobs:
            decision = job.decision
            if decision is None:
                job.anew()
                left.append(job)
                continue
            if decision.outcome in HELD and job.lane is not None and work.route.terms.on_lane_retry != "pass":
                if job.lane in lanes:
                    # A handler may hold several of one key: they come again one after the other, each at its time.
                    self._count_held(job, work.route, decision)
                    job.due = self._runtime.monotonic() + decision.delay
                    self._next_attempt(job)
                    left.append(job)
                    continue
                lanes.add(job.lane)
            ran.append(job)
        return ran, left

    def _step_back(self, jobs: Sequence[Job], *, held: bool) -> None:
        """Let jobs that were given out and not run wait again, or go back to their transport."""
        lanes: dict[Hashable, list[Job]] = {}
        gone: list[Job] = []
        for job in jobs:
            if self._draining or not job.ours or job.delivery.lane in job.source.leaving:
                job.source.put_forward(job)
                self.dispatcher.leave_lane(job)
                gone.append(job)
            else:
                lanes.setdefault(job.lane, []).append(job)
        for of_lane in lanes.values():
            self.dispatcher.step_back(of_lane, held=held)
        self._give_back(gone)

    def _bury(self, job: Job, route: HandlerRoute, decision: Decision) -> None:
        """File a dead letter, unless it failed for something that is known to be down."""
        if decision.blames is None or not self._is_down(job, route, decision):
            self.filing.add(job)
            self.dispatcher.leave_lane(job)

    def _hold(self, job: Job, route: HandlerRoute) -> None:
        """Keep a retried or nacked job, unsettled, until it is due."""
        decision = job.decision
        if decision is None or not job.ours:
            self._forget([job])
            return
        if decision.blames is not None and self._is_down(job, route, decision):
            return
        if self.claims is not None:
            self.claims.let_go([job])
        if self.attempts is not None and decision.outcome is Outcome.retried:
            self.attempts.spent(job)
        if self._draining or job.delivery.lane in job.source.leaving:
            self._count_held(job, route, decision)
            self.dispatcher.leave_lane(job)
            self._give_back([job])
            return
        if self._parks(job, route, decision) or self._sends_back(job, route, decision):
            return
        self._count_held(job, route, decision)
        if route.terms.on_lane_retry == "pass":
            self.dispatcher.leave_lane(job)
        self._keep_for(job, decision.delay)

    # What waits for longer

    def _parks(self, job: Job, route: HandlerRoute, decision: Decision) -> bool:
        """Park what is due so late that it is not held here, or cannot be; tells whether it is."""
        lot, session, on_lane_retry = self.lot, job.session, route.terms.on_lane_retry
        if lot is None or session is None or (job.lane is not None and on_lane_retry == "block"):
            return False
        able = session.capabilities
        long = decision.delay > HOLD_SECONDS
        if not long and not (decision.outcome is Outcome.nacked and able.release == "none"):
            return False
        if on_lane_retry != "park" and long and decision.delay <= able.max_delay:
            return False
        lane = None
        if on_lane_retry == "park":
            try:
                lane = lot.lane_of(job, route)
            except Exception as error:  # noqa: BLE001 - a key that has no name in the store
                job.decision = decide(None, error)
                self.filing.add(job)
                self.dispatcher.leave_lane(job)
                return True
        self._tally(decision)
        behind: list[Job] = []
        if lane is not None and (queue := job.lane) is not None:
            behind = self._withdraw_those(lambda other: other is not job and other.lane == queue)
        lot.park(job, decision.delay, lane)
        for other in behind:
            self._park_behind(other, str(lane))
        self.dispatcher.leave_lane(job)
        return True

    def _park_behind(self, job: Job, lane: str) -> None:
        if self.lot is not None:
            job.decision = BEHIND
            self.lot.park(job, None, lane)

    def _waits_in_lot(self, job: Job, route: HandlerRoute) -> bool:
        """Park what comes after others of its lane that are parked; tells whether it is."""
        lane = None if self.lot is None else self.lot.keeps(job, route)
        if lane is None:
            return False
        job.lane = None
        job.source.put_forward(job)
        self._park_behind(job, lane)
        return True

    def _sends_back(self, job: Job, route: HandlerRoute, decision: Decision) -> bool:
        """Let the transport hold what is due late, where it can; tells whether it does."""
        session = job.session
        if session is None or not HOLD_SECONDS < decision.delay <= session.capabilities.max_delay:
            return False
        if job.lane is not None and route.terms.on_lane_retry != "pass":
            return False
        self._tally(decision)
        job.disposition = Disposition.delay
        self.dispatcher.leave_lane(job)
        self.settlers[job.source].add([job])
        return True

    def _overflow(self, job: Job, gate: CircuitLimiter) -> bool:
        """Park what would wait for an open breaker with many others; tells whether it is."""
        circuit, route, lot = gate.circuit, job.route, self.lot
        if (
            lot is None
            or circuit.up
            or len(gate.waiting) < MOST_HELD
            or route is None
            or not job.ours
            or self._draining
        ):
            return False
        lane, behind = None, list[Job]()
        if job.lane is not None:
            if route.terms.on_lane_retry != "park":
                return False
            try:
                lane = lot.lane_of(job, route)
            except Exception:  # noqa: BLE001 - a key that has no name in the store: it is said when it is to be parked
                return False
            behind = self.dispatcher.end_lane(job)
        job.decision = BREAKER_OPEN
        job.source.put_forward(job)
        lot.park(job, lot.spread(circuit.breaker.name, circuit.opens_in), lane)
        for other in behind:
            self._park_behind(other, str(lane))
        return True

    def _tally(self, decision: Decision) -> None:
        if decision.outcome is Outcome.nacked:
            self.report.nacked += 1
        else:
            self.report.retried += 1

    def _is_down(self, job: Job, route: HandlerRoute, decision: Decision) -> bool:
        """Hold a job that failed for the sake of a dependency that is known to be down: it spends no attempt."""
        circuit = self.dispatcher.circuits.get(decision.blames or "")
        if circuit is None:
            return False
        own = route.terms.breaker is not None and route.terms.breaker.name == decision.blames
        if decision.trips and not own:  # nobody told it yet
            circuit.failed(trips=True)
        if circuit.up:
            return False
        if self.claims is not None:
            self.claims.let_go([job])
        if self._draining or not job.ours or job.delivery.lane in job.source.leaving:
            self.dispatcher.leave_lane(job)
            self._give_back([job])
        elif own:
            job.anew()
            self.dispatcher.add_head(job)
        else:
            job.decision = DEPENDENCY_DOWN
            if route.terms.on_lane_retry == "pass":
                self.dispatcher.leave_lane(job)
            self._keep_for(job, max(NACK_SECONDS, circuit.opens_in))
        return True

    def _count_held(self, job: Job, route: HandlerRoute, decision: Decision) -> None:
        self._tally(decision)
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
        job.history = (*job.history[-9:], attempt)

    def _keep_for(self, job: Job, seconds: float) -> None:
        job.source.put_behind(job)
        self._held[job] = self._runtime.call_later(seconds, lambda: self._again(job))

    def _next_attempt(self, job: Job) -> None:
        if job.decision is not None and job.decision.outcome is Outcome.retried:
            job.attempt += 1
        job.anew()

    def _again(self, job: Job) -> None:
        del self._held[job]
        if not job.ours:
            self._forget([job])
            return
        self._next_attempt(job)
        if job.lane is None and job.route is not None:
            self._queue(job, job.route)
        else:
            self.dispatcher.add_head(job)
        self.dispatcher.dispatch()

    def _filed(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            if job.parked is not None:
                self.report.parked += 1
                if self.lot is not None:
                    self.lot.filed(job)
            elif job.decision is not None:
                self.report.dead[str(job.decision.reason)] += 1
        if self.crashes is not None:
            self.crashes.filed(jobs)
        for source in self.sources:
            self.settlers[source].add([job for job in jobs if job.source is source])

    def _settled(self, source: Source, jobs: Sequence[Job], not_ours: int) -> None:
        self.report.redelivered += not_ours
        if self.attempts is not None:
            self.attempts.settled(jobs, gone=bool(not_ours))
        if self.lot is not None and self.lot.lanes:
            self.lot.settled(jobs)
        if self.claims is not None:
            self.claims.let_go(jobs)
        if source.leased:
            self.keepers[source].let_go(jobs)
        if source.pauses:
            self.pausers[source].settled(jobs)
        source.release(len(jobs), sum([len(job.delivery.body) for job in jobs]))
        if self._draining or (source.ended and not source.items):
            self.changed.set()

    def _lost(self, source: Source, session: Session) -> None:
        """Let go of the unstarted jobs of a dead session: their transport delivers them again."""
        self.settlers[source].lost()
        self.pausers[source].lost()
        self._forget(self._withdraw_those(lambda job: job.session is session))
        self.dispatcher.dispatch()

    def _lost_leases(self, jobs: Sequence[Job]) -> None:
        """Let go of jobs that somebody else has now; what runs is cancelled, and settled no more."""
        for job in jobs:
            job.session = None
        for pool in self.pools:
            pool.cancel(jobs)
        self._forget(self._withdraw_those(lambda job: job.session is None))
        self.dispatcher.dispatch()

    def _release_waiting(self, source: Source, before: float) -> None:
        """Give back what came before a time and did not begin: its lease, which cannot be renewed, would not last."""
        self._give_back(self._withdraw_those(lambda job: job.source is source and job.arrived < before))
        self.dispatcher.dispatch()

    def _withdraw_those(self, which: Callable[[Job], bool]) -> list[Job]:
        """Take out some of those that wait here, for a worker, their lane or another attempt."""
        held: list[Job] = []
        # One that leaves its lane may let another be held there that is to be taken too.
        while found := [job for job in self._held if which(job)] + self._unclaimed(which):
            for job in found:
                if (cancel := self._held.pop(job, None)) is not None:
                    cancel()
                job.source.put_forward(job)
                self.dispatcher.leave_lane(job)
            held += found
        return [*held, *self.dispatcher.withdraw_those(which)]

    def _unclaimed(self, which: Callable[[Job], bool]) -> list[Job]:
        return [] if self.claims is None else self.claims.withdraw_those(which)

    def _forget(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            self.dispatcher.leave_lane(job)
            self._settled(job.source, [job], 1)

    def _refused(self, job: Job, why: NotSettled) -> None:
        job.source.refused += 1
        self._fail(why)
        self.changed.set()

    def _nudge(self) -> None:
        for source in self.sources:
            source.nudge()

    # Draining

    def stop_dispatch(self) -> None:
        """Give no more jobs to the workers."""
        self._draining = True
        self.dispatcher.stop()
        if self.crashes is not None:
            self.crashes.stopping()

    def drain(self, left: Sequence[tuple[Source, Session, Sequence[Delivery]]]) -> None:
        """Give back what was not started, and what sessions had `left` in their hands."""
        self.stop_dispatch()
        jobs = self.dispatcher.withdraw()
        jobs += self._withdraw_those(lambda _: True)
        now = self._runtime.monotonic()
        for source, session, deliveries in left:
            source.took(deliveries)
            jobs += [make_job(source, session, delivery, self._make, now) for delivery in deliveries]
        self._give_back(jobs)
        self.dispatcher.go_on()

    def _give_back(self, jobs: Sequence[Job]) -> None:
        """Return unhandled jobs to their transport, or file them where it cannot take them back."""
        for job in jobs:
            if job.session is None or not job.ours:
                self._settled(job.source, [job], 1)
            elif job.session.capabilities.release == "none":
                self._keep(job)
            else:
                job.decision, job.disposition = None, Disposition.release
                self.report.released += 1
                self.settlers[job.source].add([job])

    def _keep(self, job: Job) -> None:
        """File an unstarted job that its transport cannot take back; without a sink, run it while there is time."""
        if self.filing.sink is not None or job.decision is not None:
            job.decision = SHUTDOWN
            self.filing.add(job)
            return
        if (route := job.route or self._routed(job)) is not None:
            self._queue(job, route)

    async def finished(self) -> None:
        """Wait until all is settled, but for what was refused for want of a dead letter queue."""
        while any(source.items > source.refused for source in self.sources):
            self.changed.clear()
            await self.changed.wait()


def _stuck(jobs: Sequence[Job]) -> ProcessingFailed:
    names = ", ".join(sorted({job.route.name for job in jobs if job.route is not None}))
    return ProcessingFailed(
        f"every worker is stuck in a handler past its timeout ({names}), and none can be interrupted: stopping, so that"
        " what restarts this process starts afresh"
    )
