"""Parking: long delays move a message, and the rest of its lane, to the store."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence

from missive.app.terms import HandlerRoute
from missive.dlq.contract import Sink, Store
from missive.engine.completion.dead_letters import DeadLetterWriter
from missive.engine.completion.exits import Exits
from missive.engine.dispatch.circuit import CircuitLimiter
from missive.engine.dispatch.dispatcher import Dispatcher
from missive.engine.dispatch.limiter import HELD
from missive.engine.intake.source import Source
from missive.engine.job import Job, Parked
from missive.engine.runtime import Runtime
from missive.engine.stages import Stage
from missive.engine.state import EngineState
from missive.engine.store import StoreClient
from missive.engine.workers.decision import Decision, decide
from missive.errors import StoreError, UsageError
from missive.outcome import Outcome, Reason
from missive.routing.route import callable_name
from missive.transport import Disposition

_PROBE_SPACING = 0.001
"""Time between two messages that are parked for the same breaker, in seconds. A dependency that stays down then costs
at most a thousand records a second, instead of all of them at each probe."""

BEHIND = Decision(Outcome.nacked, Reason.failed, "behind its lane")
"""An earlier message of the lane is parked."""
BREAKER_OPEN = Decision(Outcome.nacked, Reason.failed, "breaker open")
"""The dependency of the handler is down."""

logger = logging.getLogger("missive")


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
        routes: frozenset[HandlerRoute],
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
        self._orders = {route.terms.ordered_by for route in routes if route.terms.ordered_by is not None}
        self._natural = any(route.terms.ordered_by is None for route in routes)
        self.lanes: dict[str, int] = {}
        """The parked lanes, each with the number of its last parked message."""
        self._unfiled: Counter[str] = Counter()
        """Number of messages of each lane whose records are not durable yet."""
        self._number = 0
        self._asking = False
        self._next_due: dict[str, float] = {}
        """When the last message that was parked for each breaker is due, in seconds since 1970."""

    async def open(self) -> None:
        """Load the lanes that are parked already. Raises `StoreError`."""
        for lane in await asyncio.wrap_future(self._store.ask(lambda store: store.lanes(self._service))):
            self.lanes.setdefault(lane, 0)

    async def refresh(self) -> None:
        """Load the lanes that other processes have parked."""
        if not self._orders and not self._natural:
            return
        try:
            await self.open()
        except StoreError as error:
            logger.warning("%s while loading parked lanes", error)

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
            lane = self._lane_of(job, route)
        except Exception as error:  # noqa: BLE001 - the key has no name in the store
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
                lane = self._lane_of(job, route)
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
                lane = self._lane_of(job, route)
            except Exception:  # noqa: BLE001 - the key has no name in the store; `take_over` reports that
                return False
            behind = self._dispatcher.end_lane(job)
        job.decision = BREAKER_OPEN
        job.source.mark_ready(job)
        self._park(job, self._delay_behind_breaker(circuit.breaker.name, limiter.busy_for()), lane)
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

    def _delay_behind_breaker(self, breaker: str, seconds: float) -> float:
        """Return the delay of one more message for a breaker whose next probe is due in `seconds`."""
        now = self._runtime.time()
        due = max(now + seconds, self._next_due.get(breaker, 0.0) + _PROBE_SPACING)
        self._next_due[breaker] = due
        return due - now

    def _park(self, job: Job, seconds: float | None, lane: str | None, *, ran: bool = False) -> None:
        """Park a job for `seconds`; None parks it until the earlier messages of its lane are done."""
        job.parked = Parked(None if seconds is None else self._runtime.time() + seconds, lane, ran)
        if lane is not None:
            self._number += 1
            self.lanes[lane] = self._number
            self._unfiled[lane] += 1
        self._dead_letters.add(job)

    def _park_behind(self, job: Job, lane: str) -> None:
        job.decision = BEHIND
        self._park(job, None, lane)

    # The names of lanes

    def _lane_of(self, job: Job, route: HandlerRoute) -> str | None:
        """Return the name of a job's lane in the store, or None when its lane is never parked."""
        if job.delivery.record is not None and job.delivery.record.lane is not None:
            return str(job.delivery.record.lane)
        by = route.terms.ordered_by
        if by is not None and by in self._orders:
            key = route.terms.key_of(job.message)
            return None if key is None else _digest(_order_name(by), _key_text(key, route))
        if by is None and self._natural and job.delivery.lane is not None:
            return _digest(job.source.adapter.url, job.delivery.lane)
        return None

    # When a lane is empty

    def filed(self, jobs: Sequence[Job]) -> None:
        """Note that parked jobs are durable."""
        for job in jobs:
            if job.parked is not None and job.parked.lane is not None:
                self._unfiled[job.parked.lane] -= 1

    def settled(self, source: Source, jobs: Sequence[Job], lost: bool) -> None:  # noqa: ARG002 - see Stage
        """Check for empty lanes after a parked message is done."""
        if not self.lanes or self._asking:
            return
        if any(job.delivery.record is not None and job.delivery.record.lane for job in jobs):
            self._asking = True
            self._number += 1
            self._runtime.call_later(0.0, self._ask)

    def _ask(self) -> None:
        asking = asyncio.ensure_future(self._forget_empty(self._number))
        asking.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _forget_empty(self, asked_at: int) -> None:
        try:
            there = await asyncio.wrap_future(self._store.ask(lambda store: store.lanes(self._service)))
        except StoreError as error:
            logger.warning("%s while checking for empty lanes", error)
            return
        finally:
            self._asking = False
        for lane, last in list(self.lanes.items()):
            if lane not in there and last <= asked_at and not self._unfiled[lane]:
                del self.lanes[lane], self._unfiled[lane]


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


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:40]
