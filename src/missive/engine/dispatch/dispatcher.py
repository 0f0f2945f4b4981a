"""Dispatch: what runs now. The heads of their lanes do, as far as the limits of handlers and sources let them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from missive.app.terms import BatchTerms, HandlerRoute
from missive.engine.dispatch.batcher import Batcher
from missive.engine.dispatch.circuit import CircuitLimiter, circuits_of
from missive.engine.dispatch.delays import Delays
from missive.engine.dispatch.lanes import Lanes
from missive.engine.dispatch.limiter import Limiter
from missive.engine.job import BatchJob, Job, LaneRun, Work
from missive.engine.runtime import Runtime
from missive.engine.stages import Stages
from missive.engine.workers.pool import Pool
from missive.errors import ProcessingFailed
from missive.rates import Rate

if TYPE_CHECKING:
    from missive.engine.intake.source import Source

AnyGate: TypeAlias = Limiter | CircuitLimiter

_AHEAD = 2
"""So many times the concurrency is given out of what has a breaker: more would run before it is known that it opens."""
_LONGEST_RUN = 256
"""So many messages of one lane are given to a worker at a time."""


class Dispatcher:
    """Takes routed jobs, and gives each to its pool when its turn has come.

    A job waits behind those of its lane, then with others for its batch, then for the limits of its handler and of
    its source, then for a free worker. The last wait is the pool's, and the others are here. All steps are O(1),
    however many lanes there are. What waits for something of its own is `behind`: it is no reason to fetch less.
    """

    def __init__(
        self,
        pools: Sequence[Pool],
        pool_of: Mapping[HandlerRoute, Pool],
        concurrency: int,
        delays: Delays,
        runtime: Runtime,
    ) -> None:
        self._pools = pools
        self._pool_of = {**pool_of, **{pool.lane_route: pool for pool in pools}}
        self._concurrency = concurrency
        self._delays = delays
        self._runtime = runtime
        self._lanes = Lanes()
        self._ready: deque[Work] = deque()
        self._gates: dict[HandlerRoute, Limiter] = {}
        self._source_gates: dict[Source, Limiter] = {}
        self.circuits = circuits_of(pool_of, runtime.monotonic, _AHEAD * concurrency)
        """What is known of the dependencies of handlers, by the names of their breakers."""
        gates = {name: CircuitLimiter(circuit) for name, circuit in self.circuits.items()}
        self._breaker_gates = {r: gates[b.name] for r in pool_of if (b := r.terms.breaker) is not None}
        self._breakers = list(gates.values())
        self._opened = False
        for circuit in self.circuits.values():
            circuit.opened = self._recall
        self._largest: dict[Source, int] = {}
        """How many messages of a source its rate ever lets pass at once."""
        self._gatherers: dict[tuple[HandlerRoute, Source], Batcher] = {}
        self._stopped = False
        self.stages = Stages()
        """The stages of the engine; set by the assembly."""
        self.combines = any(route.terms.batch is not None for route in pool_of)
        """Whether works may be batches or lane runs, and not only single jobs."""
        for route in pool_of:
            terms = route.terms
            if terms.concurrency is not None or terms.rate_limit is not None:
                clock = runtime.monotonic
                self._gates[route] = Limiter(terms.concurrency, terms.rate_limit, clock)
        self._plain = not self._gates and not self._breakers and all(route.terms.batch is None for route in pool_of)

    def limit(self, source: Source, rate: Rate) -> None:
        """Limit how many messages of one source begin in a stretch of time."""
        self._source_gates[source] = Limiter(None, rate, self._runtime.monotonic)
        self._largest[source] = rate.messages
        self._plain = False

    @property
    def running(self) -> int:
        """How many jobs and batches are with the workers."""
        return sum(pool.outstanding for pool in self._pools)

    # Waiting

    def add_unordered(self, jobs: Sequence[Job]) -> None:
        """Queue jobs that have no lane: nearly all, of most applications."""
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
        if self._lanes.enter(job.lane, job):
            self.add_head(job)
            return
        job.source.mark_waiting(job)
        if not self._plain:
            self._follow_batch(job.lane, job)

    def add_run(self, lane: Hashable, jobs: Sequence[Job]) -> None:
        """Queue jobs of one source at the end of the lane that they have in common."""
        self.combines = True
        first = self._lanes.enter_all(lane, jobs)
        jobs[0].source.mark_all_waiting(jobs[1:] if first else jobs)
        if first:
            self.add_head(jobs[0])
        elif not self._plain:
            self._follow_batch(lane, jobs[0])

    def add_head(self, job: Job) -> None:
        """Queue a job that is the first of its lane."""
        if job.due:
            seconds, job.due = job.due - self._runtime.monotonic(), 0.0
            if seconds > 0:
                self._delays.hold(job, seconds)
                return
        intercepts = self.stages.intercepts
        if intercepts and job.route in intercepts and not all(start(job) for start in self.stages.start):
            return
        if self._plain:
            if job.waiting:
                job.source.mark_ready(job)
            self._ready.append(job)
        elif (route := _route(job)).terms.batch is not None:
            self._gather(job, route)
        else:
            self._admit(job)

    def is_suspect(self, work: Work) -> bool:  # noqa: ARG002 - see `IsolatingDispatcher`
        """Tell whether something has to run with nothing beside it."""
        return False

    def _gather(self, job: Job, route: HandlerRoute) -> None:
        if self.is_suspect(job):
            self._admit(BatchJob(route, job.source, [job]))
            return
        gatherer = self._gatherer(route, job.source)
        job.source.mark_waiting(job)
        gatherer.add([job])
        if job.lane is not None:
            self._take_along(gatherer, job.lane)

    def _follow_batch(self, lane: Hashable, job: Job) -> None:
        """Let what begins to wait in a lane join the batch that those before it are being gathered for."""
        route = _route(job)
        if route.terms.batch is not None and self._lanes.waiting(lane)[0] is job:
            self._take_along(self._gatherer(route, job.source), lane)

    def _take_along(self, gatherer: Batcher, lane: Hashable) -> None:
        """Let those that wait in a lane join those of it in a batch, as far as they are for the same."""
        while gatherer.has(lane):
            room, count = gatherer.room, 0
            for job in self._lanes.waiting(lane):
                if count == room or not gatherer.suits(job) or job.due or self.is_suspect(job):
                    break
                count += 1
            if not count:
                return
            gatherer.add(self._lanes.follow(lane, count))

    def _gatherer(self, route: HandlerRoute, source: Source) -> Batcher:
        gatherer = self._gatherers.get((route, source))
        if gatherer is None:
            if (terms := route.terms.batch) is None:
                raise ProcessingFailed(f"{route.name} takes no batches")
            size = min(terms.size, self._largest.get(source, terms.size))
            gatherer = self._gatherers[route, source] = Batcher(
                route, source, BatchTerms(size, terms.wait), self._runtime.call_later, self._gathered
            )
        return gatherer

    def _gathered(self, batch: BatchJob) -> None:
        self._admit(batch)
        self.dispatch()

    def _admit(self, work: Work) -> None:
        """Let something pass all its gates, or none: who waits at one takes no place in another."""
        gates = self._gates_of(work)
        closed = next((gate for gate in gates if gate.waiting or not gate.admits(work)), None)
        if closed is None:
            self._pass(work, gates)
        else:
            self._wait(work, closed)

    def _pass(self, work: Work, gates: Sequence[AnyGate]) -> None:
        for gate in gates:
            gate.enter(work)
        work.source.mark_all_ready(work.jobs)
        self._ready.append(work)

    def _wait(self, work: Work, gate: AnyGate) -> None:
        if isinstance(gate, CircuitLimiter) and isinstance(work, Job):
            for overflow in self.stages.overflow:
                if overflow(work, gate):
                    return
        gate.waiting.append(work)
        work.source.mark_all_waiting(work.jobs)
        self._arm(gate)

    def _open(self, gate: AnyGate) -> None:
        while gate.waiting and gate.admits(gate.waiting[0]):
            work = gate.waiting.popleft()
            gates = self._gates_of(work)
            closed = next((one for one in gates if one is not gate and (one.waiting or not one.admits(work))), None)
            if closed is None:
                self._pass(work, gates)
            else:
                self._wait(work, closed)
        self._arm(gate)

    def _arm(self, gate: AnyGate) -> None:
        """Look at a gate again when its rate lets somebody through."""
        if gate.alarm is None and (seconds := gate.opens_in()) is not None:
            gate.alarm = self._runtime.call_later(seconds, lambda: self._alarm(gate))

    def _alarm(self, gate: AnyGate) -> None:
        gate.alarm = None
        self._open(gate)
        self.dispatch()

    def look(self) -> None:
        """Look at the gates that wait for a handler to begin, of which nobody tells."""
        if self._plain:
            return
        for gate in self._all_gates:
            if gate.waiting and gate.alarm is None:
                self._open(gate)
        self.dispatch()

    # Coming back

    def returned(self, works: Sequence[Work]) -> None:
        """Note what came back from the pools: others may run."""
        if len(self._pools) == 1:
            self._pools[0].outstanding -= len(works)
        else:
            for work in works:
                self._pool_of[_route(work)].outstanding -= 1
        if not self._plain:
            for work in works:
                for gate in self._gates_of(work):
                    gate.leave(work)
                    self._open(gate)

    def _gates_of(self, work: Work) -> list[AnyGate]:
        route = _route(work)
        gates = (self._breaker_gates.get(route), self._gates.get(route), self._source_gates.get(work.source))
        return [gate for gate in gates if gate is not None]

    @property
    def _all_gates(self) -> list[AnyGate]:
        return [*self._breakers, *self._gates.values(), *self._source_gates.values()]

    def leave_lane(self, job: Job) -> None:
        """Let the next of its lane run: a job is done with, or does not keep the others waiting."""
        if job.lane is not None:
            following = self._lanes.leave(job.lane)
            job.lane = None
            if following is not None:
                self.add_head(following)

    def end_lane(self, head: Job) -> list[Job]:
        """Take the head of a lane out, and all that wait behind it, which are returned in their order."""
        lane, head.lane = head.lane, None
        behind = self._lanes.end(lane)
        for job in behind:
            job.lane = None
            job.source.mark_ready(job)
        return behind

    def leave_lane_together(self, lane: Hashable, count: int) -> None:
        """Let the next of a lane run, once so many that ran one after the other were the last of its head."""
        if lane is not None and (following := self._lanes.leave(lane, count)) is not None:
            self.add_head(following)

    def step_back(self, jobs: list[Job], *, held: bool) -> None:
        """Let jobs of one lane that came back without having run wait again; behind one that is held, if there is."""
        head, others = ([], jobs) if held else (jobs[:1], jobs[1:])
        if others:
            self._lanes.step_back(others[0].lane, others)
            for job in others:
                job.source.mark_waiting(job)
        for job in head:
            self.add_head(job)

    def _recall(self) -> None:
        self._opened = True

    def dispatch(self) -> None:
        """Give ready jobs to their pools.

        While one pool alone has work it gets everything, for it keeps the concurrency by itself; while both have,
        no more jobs are given out than may run in all.
        """
        if self._opened:
            # What was let through and has not begun waits with the others.
            self._opened = False
            self.withdraw_those(lambda _: False)
        ready = self._ready
        if not ready or self._stopped:
            return
        if len(self._pools) == 1:
            self._pools[0].submit([self._with_lane(work) for work in ready] if self._lanes else ready)
            ready.clear()
            return
        chunks: dict[Pool, list[Work]] = {pool: [] for pool in self._pools}
        given = {pool: pool.outstanding for pool in self._pools}
        while ready:
            pool = self._pool_of[_route(ready[0])]
            total = sum(given.values())
            if total != given[pool] and total >= self._concurrency:
                break
            chunks[pool].append(self._with_lane(ready.popleft()))
            given[pool] += 1
        for pool, works in chunks.items():
            if works:
                pool.submit(works)

    def _with_lane(self, work: Work) -> Work:
        """Take along what waits behind a job in its lane, as far as the same pool runs it and no gate is on the way."""
        if not isinstance(work, Job) or (lane := work.lane) is None or not self._lanes.first(lane):
            return work
        if not self._runs_freely(work):
            return work
        pool, route, count = self._pool_of[_route(work)], work.route, 0
        for following in self._lanes.waiting(lane):
            if following.route is route and self._plain:
                if following.due or self.is_suspect(following):
                    break
            elif self._pool_of[_route(following)] is not pool or not self._runs_freely(following):
                break
            count += 1
            if count == _LONGEST_RUN - 1:
                break
        if not count:
            return work
        return LaneRun(pool.lane_route, work.source, work, deque(self._lanes.follow(lane, count)), deque())

    def _runs_freely(self, job: Job) -> bool:
        if job.due or self.is_suspect(job):
            return False
        route = _route(job)
        if route in self.stages.intercepts:
            return False
        return self._plain or not (
            route.terms.batch is not None
            or route in self._gates
            or route in self._breaker_gates
            or job.source in self._source_gates
        )

    # Stopping

    def stop(self) -> None:
        """Give no more jobs to the pools."""
        self._stopped = True

    def go_on(self) -> None:
        """Give jobs to the pools again: those that were queued since `withdraw`."""
        self._stopped = False
        self.dispatch()

    def withdraw(self) -> list[Job]:
        """Take out every job that no worker has started, in the order of their lanes, and forget their lanes."""
        waiting = self._lanes.withdraw()
        heads = self._withdraw_heads()
        for job in heads:
            self.leave_lane(job)
        for job in waiting:
            job.lane = None
            job.source.mark_ready(job)
        return [*heads, *waiting]

    def withdraw_those(self, which: Callable[[Job], bool]) -> list[Job]:
        """Take out some of those that no worker has started; the others keep their order."""
        waiting = self._lanes.withdraw()
        heads = self._withdraw_heads()
        for job in heads:
            if job.lane is not None:
                self._lanes.leave(job.lane)
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
        # Before any gate is left, so that nobody follows.
        works = [work for gate in self._all_gates for work in _taken(gate.waiting)]
        for work in passed:
            for gate in self._gates_of(work):
                gate.withdrawn(work)
        jobs = [job for work in (*passed, *works) for job in work.jobs]
        jobs += [job for gatherer in self._gatherers.values() for job in gatherer.withdraw()]
        for job in jobs:
            job.source.mark_ready(job)
        return jobs


def _taken(waiting: deque[Work]) -> Iterable[Work]:
    works = list(waiting)
    waiting.clear()
    return works


def _route(work: Work) -> HandlerRoute:
    if work.route is None:
        raise ProcessingFailed("a job without a route cannot be run")
    return work.route
