"""Relocation: messages that wait for their lane, limit or retry move to the store, and make room for others."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from missive.adapters.replay import ReplaySession
from missive.dlq.contract import Query, Store
from missive.dlq.record import Status
from missive.engine.completion.exits import Exits
from missive.engine.completion.parking import LIMITED, ParkingLot
from missive.engine.dispatch.dispatcher import Dispatcher
from missive.engine.dispatch.held import HeldJobs
from missive.engine.intake.source import Source
from missive.engine.job import Job, LaneRun
from missive.engine.runtime import Runtime
from missive.engine.state import EngineState
from missive.engine.store import StoreClient
from missive.engine.workers.pool import Pool
from missive.errors import StoreError
from missive.ids import after

_SOON = 1.0
"""A retry that is due earlier stays in memory, in seconds."""


class Relocation:
    """Parks waiting messages of a source: whole lanes in their order, and messages without a lane."""

    def __init__(
        self,
        service: str,
        store: StoreClient,
        parking: ParkingLot,
        dispatcher: Dispatcher,
        held_jobs: HeldJobs,
        exits: Exits,
        pools: Sequence[Pool],
        state: EngineState,
        runtime: Runtime,
    ) -> None:
        self._service = service
        self._store = store
        self._parking = parking
        self._dispatcher = dispatcher
        self._held_jobs = held_jobs
        self._exits = exits
        self._pools = pools
        self._state = state
        self._runtime = runtime
        self._lanes: set[str] = set()
        """The names in the store of the lanes that were parked here, until they are known to be empty."""
        self._limited = False
        """Whether messages were parked that wait for a limit."""
        self._due = 0.0
        """When the last retry that was parked here is due, in seconds since 1970."""

    async def has_left(self) -> bool:
        """Return whether messages that were parked here still wait in the store, or run.

        They would have run in memory before the end of the input, so the engine does not end before them.
        """
        if not (self._lanes or self._limited or self._due):
            return False
        if any(source.items for source in self._state.sources):
            return True
        try:
            self._lanes, self._limited, due = await self._store.look_up(self._look)
        except StoreError:
            return True  # the source of the store's records reports the outage
        if due is None or due > self._due:
            self._due = 0.0
        return bool(self._lanes or self._limited or self._due)

    def _look(self, store: Store) -> tuple[set[str], bool, float | None]:
        """Return the lanes that are left, whether messages wait for a limit, and when the next record is due."""
        service, waiting = self._service, (Status.parked, Status.queued)
        lanes = self._lanes & store.lanes(service).keys() if self._lanes else set[str]()
        limited = self._limited and bool(store.count(Query(service=service, statuses=waiting, label=LIMITED.label)))
        return lanes, limited, store.next_due(service) if self._due else None

    def relieve(self, source: Source, count: int) -> bool:
        """Park at least `count` waiting messages of a source, where possible. Return whether any can be parked."""
        if self._state.draining:
            return True
        freed = self._park_limited(source, source.waiting - count)
        if freed < count:
            freed += self._park_held(source)
        able = freed > 0
        if freed < count and (lanes := self._choose(source, count - freed)):
            able = self._park_lanes(lanes) or able
        self._dispatcher.dispatch()
        return able

    def _park_limited(self, source: Source, keep: int) -> int:
        parked = 0
        for work, limiter in self._dispatcher.limiters.surplus(source, max(0, keep)):
            self._limited = True
            self._parking.park_waiting(work, limiter)
            parked += len(work.jobs)
        return parked

    def _park_held(self, source: Source) -> int:
        """Park retries without a lane that are not due soon."""
        due_in = self._held_jobs.due_in
        found: dict[Job, float] = {}

        def moves(job: Job) -> bool:
            if job.source is not source or job.lane is not None or job.delivery.record is not None:
                return False
            if (seconds := due_in(job)) < _SOON:
                return False
            found[job] = seconds
            return True

        for job in self._held_jobs.withdraw(moves):
            job.source.mark_ready(job)
            self._due = max(self._due, self._runtime.time() + found[job])
            self._parking.park_held(job, found[job])
        return len(found)

    def _choose(self, source: Source, count: int) -> set[Hashable]:
        """Return the longest lanes, without the lanes that their transport pauses."""
        chosen: set[Hashable] = set()
        paused = source.session is None or source.session.capabilities.pauses
        for lane, length in self._dispatcher.lanes.longest():
            if count <= 0:
                break
            if not (paused and isinstance(lane, tuple) and lane[0] is source):
                chosen.add(lane)
                count -= length
        return chosen

    def _park_lanes(self, lanes: set[Hashable]) -> bool:
        """Park lanes; return whether any of them can be parked."""
        due_in = self._held_jobs.due_in
        of_lanes: dict[Hashable, list[tuple[Job, float]]] = {lane: [] for lane in lanes}
        found: dict[Job, tuple[Hashable, float]] = {}

        def moves(job: Job) -> bool:
            if job.lane not in lanes:
                return False
            found[job] = job.lane, due_in(job)
            return True

        for job in self._exits.withdraw(moves):
            lane, seconds = found[job]
            of_lanes[lane].append((job, seconds))
        able = False
        for lane, jobs in of_lanes.items():
            name = self._name_of([job for job, _ in jobs])
            able = able or name is not None
            if name is None or not self._adopt_heads(lane, name):
                self._put_back(lane, jobs)
            else:
                self._lanes.add(name)
                self._parking.park_lane(name, jobs)
        return able

    def _name_of(self, jobs: Sequence[Job]) -> str | None:
        """Return the name in the store of the lane of jobs; None when it cannot be parked, or is parked already."""
        if not jobs or any(job.delivery.record is not None for job in jobs) or (route := jobs[0].route) is None:
            return None
        try:
            name = self._parking.lane_of(jobs[0], route)
        except Exception:  # noqa: BLE001 - the key has no name in the store
            return None
        return None if name in self._parking.lanes else name

    def _adopt_heads(self, lane: Hashable, name: str) -> bool:
        """Let the store adopt the running messages of a lane, and return whether none is left to its transport.

        An earlier message is never left to its transport while later ones are in the store.
        """
        count = self._dispatcher.lanes.heads(lane)
        if not count:
            return True
        running = [(work, job) for pool in self._pools for work, job in pool.running if job.lane == lane]
        store = next((source for source in self._state.sources if isinstance(source.session, ReplaySession)), None)
        if len(running) != count or store is None or not isinstance(store.session, ReplaySession):
            return False
        if not all(job.owned and job.delivery.record is None for _, job in running):
            return False
        last = ""
        for work, job in running:
            last = after(last, self._runtime.new_id())
            if isinstance(work, Job):
                self._dispatcher.limiters.release(work)
            elif isinstance(work, LaneRun):
                work.source = store
            else:
                work.mixed = True
            self._parking.adopt(job, name, store, store.session, last)
        return True

    def _put_back(self, lane: Hashable, jobs: Sequence[tuple[Job, float]]) -> None:
        for job, seconds in jobs:
            job.lane = lane
            if seconds and self._dispatcher.lanes.enter(lane, job):
                self._held_jobs.hold(job, seconds)
            else:
                self._dispatcher.add(job)
