"""Parking: long delays move a message, and the rest of its lane, to the store."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

from missive.adapters.replay import ReplaySession
from missive.app.terms import HandlerRoute
from missive.dlq.contract import RecordLease, Sink, Store
from missive.engine.completion.dead_letters import DeadLetterWriter
from missive.engine.completion.exits import Exits
from missive.engine.completion.records import bare_record
from missive.engine.dispatch.circuit import CircuitLimiter
from missive.engine.dispatch.dispatcher import Dispatcher
from missive.engine.dispatch.limiter import AGAIN, HELD
from missive.engine.dispatch.limiters import AnyLimiter
from missive.engine.intake.source import Source
from missive.engine.job import Job, Parked, Work
from missive.engine.runtime import Runtime
from missive.engine.stages import Stage
from missive.engine.state import EngineState
from missive.engine.store import StoreClient
from missive.engine.workers.decision import Decision, decide
from missive.errors import StoreError, UsageError
from missive.outcome import Outcome, Reason
from missive.routing.route import callable_name
from missive.transport import Delivery, Disposition

_SPACING = 0.001
"""Time between two messages that are parked for the same limiter, in seconds. A dependency that stays down then costs
at most a thousand records a second, instead of all of them at each probe."""
_STALE = 1.0
"""Age from which the known parked lanes are read again, in seconds."""

BEHIND = Decision(Outcome.nacked, Reason.failed, "behind its lane")
"""An earlier message of the lane is parked."""
BREAKER_OPEN = Decision(Outcome.nacked, Reason.failed, "breaker open")
"""The dependency of the handler is down."""
LIMITED = Decision(Outcome.nacked, Reason.failed, "behind a limit")
"""Too many messages wait for the concurrency or the rate of their handler."""

logger = logging.getLogger("missive")


@runtime_checkable
class HoldsDeliveries(Protocol):
    """A stage that keeps something for the delivery of each job."""

    def replaced(self, job: Job, by: Job) -> None:
        """Note that `by` stands for the delivery of a running job, which continues as a record of the store."""


def park_routes(routes: Iterable[HandlerRoute], sink: Sink | None) -> frozenset[HandlerRoute]:
    """Return the routes whose lanes are parked. Raises `UsageError` when the sink is no store."""
    found = frozenset(route for route in routes if route.terms.on_lane_retry == "park")
    if found and not isinstance(sink, Store):
        name = min(route.name for route in found)
        there = "there is no store" if sink is None else f"a {type(sink).__name__} takes only dead letters"
        raise UsageError(
            f"{name}: on_lane_retry='park' parks messages in the dead letter store, but {there}. Set a store with"
            " missive.Processor(dlq='sqlite:///dlq.db'), or use on_lane_retry='block'."
        )
    return found


class ParkingLot(Stage):
    """Parks messages, and parks later messages of a lane behind them until the lane in the store is empty."""

    def __init__(
        self,
        service: str,
        store: StoreClient,
        dead_letters: DeadLetterWriter,
        dispatcher: Dispatcher,
        exits: Exits,
        routes: Sequence[HandlerRoute],
        state: EngineState,
        runtime: Runtime,
    ) -> None:
        self._service = service
        self._store = store
        self._dead_letters = dead_letters
        self._dispatcher = dispatcher
        self._exits = exits
        self._state = state
        self._runtime = runtime
        self._order_names = _order_names(routes)
        self.lanes: dict[str, int] = {}
        """The parked lanes, each with the number of its last parked message."""
        self._unfiled: Counter[str] = Counter()
        """Number of messages of each lane whose records are not durable yet."""
        self._number = 0
        self._asking = False
        self._next_due: dict[AnyLimiter, float] = {}
        """When the last message that was parked for each limiter is due, in seconds since 1970."""
        self._adopting: dict[Job, asyncio.Future[None]] = {}
        """The jobs that stand for the deliveries of adopted jobs. Each future is done when its record is durable."""
        self._refreshed = -_STALE
        """When the parked lanes were last read, on the engine's clock."""
        self._taken: dict[Source, float] = {}
        """When each source last had messages, on the engine's clock."""

    async def open(self) -> None:
        """Load the lanes that are parked already. Raises `StoreError`."""
        await self._load(asyncio.wrap_future(self._store.ask(lambda store: store.lanes(self._service))))

    async def _load(self, asked: Awaitable[dict[str, int]]) -> None:
        self._number += 1
        asked_at = self._number
        self._refreshed = self._runtime.monotonic()
        there = await asked
        for lane in there:
            self.lanes.setdefault(lane, 0)
        for lane, last in list(self.lanes.items()):
            if lane not in there and last <= asked_at and not self._unfiled[lane]:
                del self.lanes[lane], self._unfiled[lane]

    async def refresh(self) -> None:
        """Load the lanes that other processes have parked, and forget empty lanes."""
        try:
            await self._load(self._store.look_up(lambda store: store.lanes(self._service)))
        except StoreError as error:
            logger.warning("%s while loading parked lanes", error)

    async def prepare(self, source: Source, deliveries: Sequence[Delivery], redelivered: bool) -> None:
        """Read the parked lanes again when another process may have parked some.

        A process that gets the messages of another one, which has died, sees redeliveries or was idle before.
        """
        if not self._order_names or deliveries[0].record is not None:
            return
        now = self._runtime.monotonic()
        idle = now - self._taken.get(source, -_STALE) >= _STALE
        self._taken[source] = now
        if redelivered or idle or (self.lanes and now - self._refreshed >= _STALE):
            await self.refresh()

    # Which jobs are parked

    @property
    def admitting(self) -> bool:
        """Whether any lane is parked."""
        return bool(self.lanes)

    def admit(self, jobs: Sequence[Job]) -> Sequence[Job]:
        """Park the jobs whose lanes are parked; return the others."""
        return [job for job in jobs if not self._parks_behind_lane(job)] if self.lanes else jobs

    def _parks_behind_lane(self, job: Job) -> bool:
        route = job.route
        if route is None or job.delivery.record is not None:
            return False
        try:
            lane = self.lane_of(job, route)
        except Exception as error:  # noqa: BLE001 - the key has no name in the store
            if route.terms.on_lane_retry != "park":
                return False
            job.lane, job.decision = None, decide(None, error)
            self._dead_letters.add(job)
            return True
        if lane is None or lane not in self.lanes:
            return False
        job.lane = None
        job.source.mark_ready(job)
        self._park_behind(job, lane)
        return True

    def take_over(self, job: Job, route: HandlerRoute, decision: Decision) -> bool:
        """Park a job that is due too late to be held, or that cannot be held. Return whether the job was taken."""
        if not self._takes(job, route, decision):
            return False
        lane = None
        if route.terms.on_lane_retry == "park":
            try:
                lane = self.lane_of(job, route)
            except Exception as error:  # noqa: BLE001 - the key has no name in the store
                job.decision = decide(None, error)
                self._dead_letters.add(job)
                self._dispatcher.leave_lane(job)
                return True
        self._state.report.count_held(decision.outcome)
        behind: list[Job] = []
        if lane is not None and (queue := job.lane) is not None:
            behind = self._exits.withdraw(lambda other: other is not job and other.lane == queue)
        self._park(job, decision.delay, lane, ran=True)
        for other in behind:
            self._park_behind(other, str(lane))
        self._dispatcher.leave_lane(job)
        return True

    def _takes(self, job: Job, route: HandlerRoute, decision: Decision) -> bool:
        """Return whether a held job is to be parked."""
        session, on_lane_retry = job.session, route.terms.on_lane_retry
        if session is None or (job.lane is not None and on_lane_retry == "block"):
            return False
        able = job.capabilities
        long = decision.delay > self._runtime.limits.hold_seconds
        if not long and not (decision.outcome is Outcome.nacked and able.release == "none"):
            return False
        return on_lane_retry == "park" or not long or decision.delay > able.max_delay

    def overflow(self, job: Job, limiter: CircuitLimiter) -> bool:
        """Park a job that would wait for an open breaker together with many others. Return whether it was taken."""
        circuit, route = limiter.circuit, job.route
        if circuit.up or len(limiter.waiting) < HELD or route is None:
            return False
        if not job.owned or self._state.draining:
            return False
        if job.delivery.record is not None and not job.history:
            return self._leave_in_store(job, route)
        lane, behind = None, list[Job]()
        if job.lane is not None:
            if route.terms.on_lane_retry != "park":
                return False
            try:
                lane = self.lane_of(job, route)
            except Exception:  # noqa: BLE001 - the key has no name in the store; `take_over` reports that
                return False
            behind = self._dispatcher.end_lane(job)
        job.decision = BREAKER_OPEN
        job.source.mark_ready(job)
        self._park(job, self._delay_behind(limiter), lane)
        for other in behind:
            self._park_behind(other, str(lane))
        return True

    def _leave_in_store(self, job: Job, route: HandlerRoute) -> bool:
        """Release a leased record that would wait for an open breaker. The record itself does not change."""
        behind: list[Job] = []
        if job.lane is not None:
            if route.terms.on_lane_retry != "park":
                return False
            behind = self._dispatcher.end_lane(job)
        job.source.mark_ready(job)
        job.decision, job.disposition = None, Disposition.delay
        job.source.settler.add([job])
        for other in behind:
            self._dispatcher.add(other)
        return True

    def park_waiting(self, work: Work, limiter: AnyLimiter) -> None:
        """Park work without a lane that waits for a limiter, and that no limiter has."""
        for job in work.jobs:
            job.source.mark_ready(job)
            job.decision = LIMITED
            self._park(job, self._delay_behind(limiter), None)

    def park_held(self, job: Job, seconds: float) -> None:
        """Park a job without a lane that waits for its next attempt. The attempt before is in its history."""
        self._park(job, seconds, None)

    def park_lane(self, lane: str, jobs: Sequence[tuple[Job, float]]) -> None:
        """Park the unstarted jobs of a lane in order, each with the time until it may run."""
        for job, seconds in jobs:
            if job.decision is None or not seconds:
                job.decision = BEHIND
            self._park(job, seconds or None, lane)

    def adopt(self, job: Job, lane: str, source: Source, session: ReplaySession, record_id: str) -> None:
        """Move a running job to the store: its delivery is settled, and its outcome closes a leased record.

        Another job stands for the delivery until then. The record is in the store before the later messages of the
        lane, and keeps them there while the handler runs, also when this process dies.
        """
        stands = Job(job.source, job.session, job.delivery, job.message, job.attempt, job.route, BEHIND)
        stands.arrived, stands.history = job.arrived, job.history
        self._adopting[stands] = written = asyncio.get_running_loop().create_future()
        record = bare_record(
            stands, service=self._service, now=self._runtime.time(), new_id=lambda: record_id, detail=""
        )
        delivery = session.adopt(replace(record, lane=lane), written)
        delivery.native, delivery.attempt = job.delivery.native, job.delivery.attempt
        self._number += 1
        self.lanes[lane] = self._number
        self._unfiled[lane] += 1
        stands.parked = Parked(None, lane, ran=False, adopted=RecordLease(record, delivery.token))
        for stage in job.source.stages.all:
            if isinstance(stage, HoldsDeliveries):
                stage.replaced(job, stands)
        job.source, job.session, job.delivery = source, session, delivery
        source.spend_credit(1, len(delivery.body))
        for taken in source.stages.taken:
            taken(source, session, [job], {})
        self._dead_letters.add(stands)

    def _delay_behind(self, limiter: AnyLimiter) -> float:
        """Return the delay of one more message that is parked because of a limiter."""
        now = self._runtime.monotonic()
        spacing = max(limiter.interval, _SPACING)
        due = max(now + (limiter.busy_for() or AGAIN), self._next_due.get(limiter, 0.0) + spacing)
        self._next_due[limiter] = due
        return due - now

    def _park(self, job: Job, seconds: float | None, lane: str | None, *, ran: bool = False) -> None:
        """Park a job for `seconds`; None parks it until the earlier messages of its lane are done."""
        if seconds is None:
            job.parked = Parked(None, lane, ran)
        else:
            now = self._runtime.time()
            job.parked = Parked(now + seconds, lane, ran, at=now)
        if lane is not None:
            self._number += 1
            self.lanes[lane] = self._number
            self._unfiled[lane] += 1
        self._dead_letters.add(job)

    def _park_behind(self, job: Job, lane: str) -> None:
        job.decision = BEHIND
        self._park(job, None, lane)

    # The names of lanes

    def lane_of(self, job: Job, route: HandlerRoute) -> str | None:
        """Return the name of a job's lane in the store, or None without a lane. Raises for a key that has no name."""
        if job.delivery.record is not None and job.delivery.record.lane is not None:
            return str(job.delivery.record.lane)
        by = route.terms.ordered_by
        if by is not None:
            key = route.terms.key_of(job.message)
            return None if key is None else _digest(self._order_names[by], _key_text(key, route))
        if job.delivery.lane is not None:
            return _digest(job.source.adapter.identity, job.delivery.lane)
        return None

    # When a lane is empty

    def filed(self, jobs: Sequence[Job]) -> None:
        """Note that parked jobs are durable."""
        for job in jobs:
            if job.parked is not None and job.parked.adopted is not None:
                self._adopting.pop(job).set_result(None)
            if job.parked is not None and job.parked.lane is not None:
                self._unfiled[job.parked.lane] -= 1

    def settled(self, source: Source, jobs: Sequence[Job], lost: bool) -> None:  # noqa: ARG002 - see Stage
        """Check for empty lanes after a parked message is done."""
        if not self.lanes or self._asking:
            return
        if any(job.delivery.record is not None and job.delivery.record.lane for job in jobs):
            self._asking = True
            self._runtime.call_later(0.0, self._ask)

    def _ask(self) -> None:
        asking = asyncio.ensure_future(self._forget_empty())
        asking.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _forget_empty(self) -> None:
        try:
            await self.refresh()
        finally:
            self._asking = False


def _order_name(by: object) -> str:
    """Return a name of `ordered_by` that is the same in every process."""
    return repr(by) if hasattr(by, "requires") else callable_name(by)  # type: ignore[arg-type]


def _key_text(key: Hashable, route: HandlerRoute) -> str:
    """Return a key as text that is the same in every process. Raises TypeError for other types of keys."""
    if isinstance(key, tuple):
        return f"({','.join(_key_text(part, route) for part in key)})"
    if key is None or isinstance(key, (str, bytes, int, float)):
        return f"{type(key).__name__}:{key!r}"
    raise TypeError(f"{route.name}: the key of a parked lane must be str, bytes, a number, or a tuple of these")


def _order_names(routes: Sequence[HandlerRoute]) -> dict[Callable[[Any], Hashable], str]:
    """Return a name for each `ordered_by` of the routes. Different callables of one name get a number."""
    names: dict[Callable[[Any], Hashable], str] = {}
    count: Counter[str] = Counter()
    for by in dict.fromkeys(route.terms.ordered_by for route in routes):
        if by is not None:
            name = _order_name(by)
            count[name] += 1
            names[by] = name if count[name] == 1 else f"{name}#{count[name]}"
    return names


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:40]
