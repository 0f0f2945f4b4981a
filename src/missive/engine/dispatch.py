"""Dispatch: which jobs run now. The heads of their lanes do, as far as their handlers' own limits let them."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

from missive.adapters.contract import Session
from missive.engine.execution import Pool
from missive.engine.job import Job
from missive.engine.lanes import Lanes
from missive.errors import ProcessingFailed
from missive.routing.route import Route


class Dispatcher:
    """Takes routed jobs, and gives each to its pool when its turn has come.

    A job waits behind those of its lane, then for the concurrency of its handler, then for a free worker. The
    first two waits are here, and the last is the pool's. All steps are O(1), however many lanes there are.
    """

    def __init__(self, pools: Sequence[Pool], pool_of: Mapping[Route, Pool], concurrency: int) -> None:
        self._pools = pools
        self._pool_of = pool_of
        self._concurrency = concurrency
        self._lanes = Lanes()
        self._ready: deque[Job] = deque()
        self._gates = {route: Gate(route.terms.concurrency) for route in pool_of if route.terms.concurrency is not None}
        self._stopped = False

    @property
    def running(self) -> int:
        """How many jobs are with the workers."""
        return sum(pool.outstanding for pool in self._pools)

    def add_unordered(self, jobs: Sequence[Job]) -> None:
        """Queue jobs that have no lane: nearly all, of most applications."""
        if self._gates:
            for job in jobs:
                self.add_head(job)
        else:
            self._ready += jobs

    def add(self, job: Job) -> None:
        """Queue a job at the end of its lane."""
        if job.lane is None or self._lanes.enter(job.lane, job):
            self.add_head(job)

    def add_head(self, job: Job) -> None:
        """Queue a job that is the first of its lane."""
        if not self._gates or (gate := self._gates.get(_route(job))) is None or gate.enter(job):
            self._ready.append(job)

    def returned(self, job: Job, route: Route) -> None:
        """Note that a job came back from its pool: somebody else may run."""
        self._pool_of[route].outstanding -= 1
        if self._gates:
            self._leave_gate(job)

    def _leave_gate(self, job: Job) -> None:
        gate = self._gates.get(_route(job))
        if gate is not None and (following := gate.leave()) is not None:
            self._ready.append(following)

    def leave_lane(self, job: Job) -> None:
        """Let the next of its lane run: a job is done with, or does not keep the others waiting."""
        if job.lane is not None:
            following = self._lanes.leave(job.lane)
            job.lane = None
            if following is not None:
                self.add_head(following)

    def dispatch(self) -> None:
        """Give ready jobs to their pools.

        While one pool alone has work it gets everything, for it keeps the concurrency by itself; while both have,
        no more jobs are given out than may run in all.
        """
        ready = self._ready
        if not ready or self._stopped:
            return
        if len(self._pools) == 1:
            self._pools[0].submit(ready)
            ready.clear()
            return
        chunks: dict[Pool, list[Job]] = {pool: [] for pool in self._pools}
        given = {pool: pool.outstanding for pool in self._pools}
        while ready:
            pool = self._pool_of[_route(ready[0])]
            total = sum(given.values())
            if total != given[pool] and total >= self._concurrency:
                break
            chunks[pool].append(ready.popleft())
            given[pool] += 1
        for pool, jobs in chunks.items():
            if jobs:
                pool.submit(jobs)

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
        return [*heads, *waiting]

    def withdraw_of(self, session: Session) -> list[Job]:
        """Take out those of a session that is dead; the others keep their order."""
        waiting, lost = self._lanes.withdraw(), []
        for job in self._withdraw_heads():
            if job.session is session:
                self.leave_lane(job)
                lost.append(job)
            else:
                self.add_head(job)
        for job in waiting:
            if job.session is session:
                job.lane = None
                lost.append(job)
            else:
                self.add(job)
        return lost

    def _withdraw_heads(self) -> list[Job]:
        passed = [job for pool in self._pools for job in pool.withdraw()]
        passed += self._ready
        self._ready.clear()
        # Before any gate is left, so that nobody follows.
        waiting = [job for gate in self._gates.values() for job in gate.withdraw()]
        for job in passed:
            self._leave_gate(job)
        return [*passed, *waiting]


class Gate:
    """How many jobs of one handler are on their way through a pool: a limit of its own, within the concurrency."""

    __slots__ = ("_limit", "_running", "_waiting")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._running = 0
        self._waiting: deque[Job] = deque()

    def enter(self, job: Job) -> bool:
        """Tell whether a job may go on; else it waits."""
        if self._running < self._limit:
            self._running += 1
            return True
        self._waiting.append(job)
        return False

    def leave(self) -> Job | None:
        """End one; returns the next that may go on."""
        if self._waiting:
            return self._waiting.popleft()
        self._running -= 1
        return None

    def withdraw(self) -> list[Job]:
        """Take out those that wait."""
        jobs = list(self._waiting)
        self._waiting.clear()
        return jobs


def _route(job: Job) -> Route:
    if job.route is None:
        raise ProcessingFailed("a job without a route cannot be run")
    return job.route
