"""The dispatcher: it submits routed jobs to the worker pools when their lanes and limiters allow."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING

from missive.app.terms import HandlerRoute
from missive.engine.dispatch.batcher import Batcher, Batchers
from missive.engine.dispatch.circuit import Circuit, CircuitLimiter
from missive.engine.dispatch.held import HeldJobs
from missive.engine.dispatch.lanes import Lanes
from missive.engine.dispatch.limiters import AnyLimiter, Limiters
from missive.engine.job import BatchJob, Job, LaneRun, Work, route_of
from missive.engine.runtime import Runtime
from missive.engine.stages import Stages
from missive.engine.workers.pool import Pool
from missive.rates import Rate

if TYPE_CHECKING:
    from missive.engine.intake.source import Source

_LONGEST_RUN = 256
"""Maximum number of messages of one lane that a worker takes at once."""


class Dispatcher:
    """Submits each job to its pool in turn.

    A job waits behind the earlier jobs of its lane, then for its batch, then for the limiters of its handler and its
    source, and finally, in the pool, for a free worker. Every step is O(1), whatever the number of lanes. A job that
    waits for its own lane, batch or limiter does not count against the credit of others.
    """

    def __init__(
        self,
        pools: Sequence[Pool],
        pool_of: Mapping[HandlerRoute, Pool],
        concurrency: int,
        held_jobs: HeldJobs,
        runtime: Runtime,
    ) -> None:
        self.stages = Stages()
        """The stages of the engine; set by the assembly."""
        self.combines = any(route.terms.batch is not None for route in pool_of)
        """Whether works may be batches or lane runs, and not only single jobs."""
        self._pools = pools
        self._pool_of = {**pool_of, **{pool.lane_route: pool for pool in pools}}
        self._concurrency = concurrency
        self._held_jobs = held_jobs
        self._runtime = runtime
        self.lanes = Lanes()
        self._ready: deque[Work] = deque()
        self.limiters = Limiters(pool_of, concurrency, runtime.monotonic)
        self._batchers = Batchers(self.limiters, runtime.call_later, self._batch_full)
        self._stopped = False
        self._circuit_opened = False
        for circuit in self.circuits.values():
            circuit.opened = self._recall
        self._plain = not self.limiters and not self.combines
        """Whether no job needs a batch or a limiter."""

    @property
    def circuits(self) -> Mapping[str, Circuit]:
        """The state of each dependency, by the name of its breaker."""
        return self.limiters.circuits

    def busy(self) -> dict[str, float]:
        """Return the handlers that cannot start a parked message now, each with the seconds until the next look."""
        return {} if self._plain else self.limiters.busy()

    def limit(self, source: Source, rate: Rate) -> None:
        """Limit how many messages of a source start in a period."""
        self.limiters.limit(source, rate)
        self._plain = False

    @property
    def running(self) -> int:
        """The number of jobs and batches that the workers have."""
        return sum(pool.outstanding for pool in self._pools)

    # Lanes

    def add_unordered(self, jobs: Sequence[Job]) -> None:
        """Queue jobs without a lane: nearly all jobs of most applications."""
        if self._plain and not self.stages.intercepts:
            self._ready += jobs
        else:
            for job in jobs:
                self.add_head(job)

    def add(self, job: Job) -> None:
        """Queue a job at the end of its lane."""
        if job.lane is None:
            self.add_head(job)
            return
        self.combines = True
        if self.lanes.enter(job.lane, job):
            self.add_head(job)
            return
        job.source.mark_waiting(job)
        if not self._plain:
            self._join_batch(job.lane, job)

    def add_run(self, lane: Hashable, jobs: Sequence[Job]) -> None:
        """Queue jobs of one source at the end of their common lane."""
        self.combines = True
        first = self.lanes.enter_all(lane, jobs)
        jobs[0].source.mark_all_waiting(jobs[1:] if first else jobs)
        if first:
            self.add_head(jobs[0])
        elif not self._plain:
            self._join_batch(lane, jobs[0])

    def add_head(self, job: Job) -> None:
        """Queue a job that is the head of its lane, or has none."""
        if job.due:
            seconds, job.due = job.due - self._runtime.monotonic(), 0.0
            if seconds > 0:
                self._held_jobs.hold(job, seconds)
                return
        intercepts = self.stages.intercepts
        if intercepts and job.route in intercepts and not all(start(job) for start in self.stages.start):
            return
        if self._plain:
            if job.waiting:
                job.source.mark_ready(job)
            self._ready.append(job)
        elif (route := route_of(job)).terms.batch is not None:
            self._add_to_batch(job, route)
        else:
            self._admit(job)

    def leave_lane(self, job: Job) -> None:
        """Take a job out of its lane, and let the next job of the lane run."""
        if job.lane is not None:
            following = self.lanes.leave(job.lane)
            job.lane = None
            if following is not None:
                self.add_head(following)

    def leave_lane_together(self, lane: Hashable, count: int) -> None:
        """Take the last `count` jobs of the head out of a lane, and let the next job of the lane run."""
        if lane is not None and (following := self.lanes.leave(lane, count)) is not None:
            self.add_head(following)

    def end_lane(self, head: Job) -> list[Job]:
        """Take the head and all waiting jobs out of a lane. Return the waiting jobs, in order."""
        lane, head.lane = head.lane, None
        behind = self.lanes.end(lane)
        for job in behind:
            job.lane = None
            job.source.mark_ready(job)
        return behind

    def step_back(self, jobs: list[Job], *, held: bool) -> None:
        """Return unstarted jobs of one lane to the front of it; `held` when an earlier job holds the lane."""
        head, others = ([], jobs) if held else (jobs[:1], jobs[1:])
        if others:
            self.lanes.step_back(others[0].lane, others)
            for job in others:
                job.source.mark_waiting(job)
        for job in head:
            self.add_head(job)

    def is_suspect(self, work: Work) -> bool:  # noqa: ARG002 - see `IsolatingDispatcher`
        """Return whether work must run alone."""
        return False

    # Batches

    def _add_to_batch(self, job: Job, route: HandlerRoute) -> None:
        if self.is_suspect(job):
            self._admit(BatchJob(route, job.source, [job]))
            return
        batcher = self._batchers.of(route, job.source)
        job.source.mark_waiting(job)
        batcher.add([job])
        if job.lane is not None:
            self._add_lane_to_batch(batcher, job.lane)

    def _join_batch(self, lane: Hashable, job: Job) -> None:
        """Let the first waiting job of a lane join the batch that has the jobs before it."""
        route = route_of(job)
        if route.terms.batch is not None and self.lanes.waiting(lane)[0] is job:
            self._add_lane_to_batch(self._batchers.of(route, job.source), lane)

    def _add_lane_to_batch(self, batcher: Batcher, lane: Hashable) -> None:
        """Let the waiting jobs of a lane join the batch of its head, up to the first job of another handler."""
        while batcher.has(lane):
            room, count = batcher.room, 0
            for job in self.lanes.waiting(lane):
                if count == room or not batcher.suits(job) or job.due or self.is_suspect(job):
                    break
                count += 1
            if not count:
                return
            batcher.add(self.lanes.follow(lane, count))

    def _batch_full(self, batch: BatchJob) -> None:
        self._admit(batch)
        self.dispatch()

    # Limiters

    def _admit(self, work: Work) -> None:
        """Let work pass all its limiters or none: work that waits at one limiter uses nothing of another."""
        limiters = self.limiters.of(work)
        closed = next((limiter for limiter in limiters if limiter.waiting or not limiter.admits(work)), None)
        if closed is None:
            self._pass(work, limiters)
        else:
            self._wait(work, closed)

    def _pass(self, work: Work, limiters: Sequence[AnyLimiter]) -> None:
        for limiter in limiters:
            limiter.enter(work)
        work.source.mark_all_ready(work.jobs)
        self._ready.append(work)

    def _wait(self, work: Work, limiter: AnyLimiter) -> None:
        if isinstance(limiter, CircuitLimiter) and isinstance(work, Job):
            for overflow in self.stages.overflow:
                if overflow(work, limiter):
                    return
        limiter.waiting.append(work)
        work.source.mark_all_waiting(work.jobs)
        self._schedule_check(limiter)

    def _open(self, limiter: AnyLimiter) -> None:
        """Let the waiting work of a limiter pass, as far as it may."""
        while limiter.waiting and limiter.admits(limiter.waiting[0]):
            work = limiter.waiting.popleft()
            limiters = self.limiters.of(work)
            closed = next(
                (one for one in limiters if one is not limiter and (one.waiting or not one.admits(work))), None
            )
            if closed is None:
                self._pass(work, limiters)
            else:
                self._wait(work, closed)
        self._schedule_check(limiter)

    def _schedule_check(self, limiter: AnyLimiter) -> None:
        """Check a limiter again when its rate or its circuit lets work pass."""
        if limiter.alarm is None and (seconds := limiter.opens_in()) is not None:
            limiter.alarm = self._runtime.call_later(seconds, lambda: self._check(limiter))

    def _check(self, limiter: AnyLimiter) -> None:
        limiter.alarm = None
        self._open(limiter)
        self.dispatch()

    def poll(self) -> None:
        """Check the limiters that wait for a handler to start, which no worker reports."""
        if self._plain:
            return
        for limiter in self.limiters.all:
            if limiter.waiting and limiter.alarm is None:
                self._open(limiter)
        self.dispatch()

    def returned(self, works: Sequence[Work]) -> None:
        """Note works that came back from the pools, and let others pass their limiters."""
        if len(self._pools) == 1:
            self._pools[0].outstanding -= len(works)
        else:
            for work in works:
                self._pool_of[route_of(work)].outstanding -= 1
        if not self._plain:
            for work in works:
                for limiter in self.limiters.of(work):
                    limiter.leave(work)
                    self._open(limiter)

    def _recall(self) -> None:
        self._circuit_opened = True

    # The pools

    def dispatch(self) -> None:
        """Submit ready work to the pools.

        While only one pool has work, it gets everything and limits the concurrency itself. While both have work, at
        most as many works are submitted as may run at once.
        """
        if self._circuit_opened:
            # Submitted jobs that have not started must wait at the opened circuit as well.
            self._circuit_opened = False
            self.withdraw_those(lambda _: False)
        ready = self._ready
        if not ready or self._stopped:
            return
        if len(self._pools) == 1:
            self._pools[0].submit([self._with_lane(work) for work in ready] if self.lanes else ready)
            ready.clear()
            return
        chunks: dict[Pool, list[Work]] = {pool: [] for pool in self._pools}
        submitted = {pool: pool.outstanding for pool in self._pools}
        while ready:
            pool = self._pool_of[route_of(ready[0])]
            total = sum(submitted.values())
            if total != submitted[pool] and total >= self._concurrency:
                break
            chunks[pool].append(self._with_lane(ready.popleft()))
            submitted[pool] += 1
        for pool, works in chunks.items():
            if works:
                pool.submit(works)

    def _with_lane(self, work: Work) -> Work:
        """Return a lane run of a job and the next jobs of its lane with the same source and pool that run freely."""
        if not isinstance(work, Job) or (lane := work.lane) is None or not self.lanes.first(lane):
            return work
        if not self._runs_freely(work):
            return work
        pool, route, count = self._pool_of[route_of(work)], work.route, 0
        for following in self.lanes.waiting(lane):
            if following.source is not work.source:
                break
            if following.route is route and self._plain:
                if following.due or self.is_suspect(following):
                    break
            elif self._pool_of[route_of(following)] is not pool or not self._runs_freely(following):
                break
            count += 1
            if count == _LONGEST_RUN - 1:
                break
        if not count:
            return work
        return LaneRun(pool.lane_route, work.source, work, deque(self.lanes.follow(lane, count)), deque())

    def _runs_freely(self, job: Job) -> bool:
        """Return whether no delay, stage, batch or limiter stands before a job."""
        if job.due or self.is_suspect(job):
            return False
        route = route_of(job)
        if route in self.stages.intercepts:
            return False
        return self._plain or (route.terms.batch is None and not self.limiters.restrict(route, job.source))

    # Withdrawal

    def stop(self) -> None:
        """Submit nothing more."""
        self._stopped = True

    def resume(self) -> None:
        """Submit work again, including the jobs that were queued since `withdraw`."""
        self._stopped = False
        self.dispatch()

    def withdraw(self) -> list[Job]:
        """Take out every unstarted job, in the order of the lanes, and remove the lanes."""
        waiting = self.lanes.withdraw()
        heads = self._withdraw_heads()
        for job in heads:
            self.leave_lane(job)
        for job in waiting:
            job.lane = None
            job.source.mark_ready(job)
        return [*heads, *waiting]

    def withdraw_those(self, which: Callable[[Job], bool]) -> list[Job]:
        """Take out the unstarted jobs for which `which` is true; the others keep their order."""
        waiting = self.lanes.withdraw()
        heads = self._withdraw_heads()
        for job in heads:
            if job.lane is not None:
                self.lanes.leave(job.lane)
        taken = []
        for job in (*heads, *waiting):
            job.source.mark_ready(job)
            if which(job):
                job.lane = None
                taken.append(job)
            else:
                self.add(job)
        return taken

    def _withdraw_heads(self) -> list[Job]:
        passed = [work for pool in self._pools for work in pool.withdraw()]
        passed += self._ready
        self._ready.clear()
        # The waiting works come out first, so that none follows when another leaves its limiter.
        works: list[Work] = []
        for limiter in self.limiters.all:
            works += limiter.waiting
            limiter.waiting.clear()
        for work in passed:
            for limiter in self.limiters.of(work):
                limiter.withdrawn(work)
        jobs = [job for work in (*passed, *works) for job in work.jobs]
        jobs += self._batchers.withdraw()
        for job in jobs:
            job.source.mark_ready(job)
        return jobs
