"""Parking: what waits for long waits in the store, its lane behind it, and its source is settled then."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import TYPE_CHECKING

from missive.app.terms import HandlerRoute
from missive.dlq.contract import Sink, Store
from missive.engine.job import Job, Parked
from missive.engine.runtime import Runtime
from missive.engine.workers.decision import Decision
from missive.errors import StoreError, UsageError
from missive.outcome import Outcome, Reason
from missive.routing.route import callable_name

if TYPE_CHECKING:
    from missive.engine.completion.dead_letters import DeadLetterWriter

HOLD_SECONDS = 10.0
"""A message that is due sooner is held here, unsettled."""

MOST_HELD = 100
"""So many messages are held for a breaker that is open, and the rest is parked."""

_APART = 0.001
"""Seconds between those that are parked for the same breaker: a dependency that stays down is asked for that many
records a second, and not for all of them at each probe."""

BEHIND = Decision(Outcome.nacked, Reason.failed, "behind its lane")
"""An earlier one of its lane is parked."""
BREAKER_OPEN = Decision(Outcome.nacked, Reason.failed, "breaker open")

logger = logging.getLogger("missive")


def park_routes(routes: Iterable[HandlerRoute], sink: Sink | None) -> frozenset[HandlerRoute]:
    """Return the routes whose lanes are parked. Raises `UsageError` where there is no store for them."""
    found = frozenset(route for route in routes if route.terms.on_lane_retry == "park")
    if found and not isinstance(sink, Store):
        name = min(route.name for route in found)
        there = "there is none" if sink is None else f"a {type(sink).__name__} takes dead letters only"
        raise UsageError(
            f"{name} has on_lane_retry='park', which parks in the dead letter store, and {there}: set one with"
            " missive.Processor(dlq='sqlite:///dlq.db'), or say 'block'"
        )
    return found


class ParkingLot:
    """Where messages are parked: which of their lanes are not empty, so that what comes later waits behind them."""

    def __init__(
        self, service: str, filing: DeadLetterWriter, runtime: Runtime, parking: frozenset[HandlerRoute]
    ) -> None:
        self._service = service
        self._filing = filing
        self._runtime = runtime
        self._orders = {route.terms.ordered_by for route in parking if route.terms.ordered_by is not None}
        self._natural = any(route.terms.ordered_by is None for route in parking)
        self.lanes: dict[str, int] = {}
        """Those that are parked, with the number of the last message that was."""
        self._unfiled: Counter[str] = Counter()
        self._number = 0
        self._asking = False
        self._spread: dict[str, float] = {}

    async def load(self) -> None:
        """Learn which lanes were parked before. Raises `StoreError`."""
        for lane in await asyncio.wrap_future(self._filing.ask(lambda store: store.lanes(self._service))):
            self.lanes.setdefault(lane, 0)

    async def look(self) -> None:
        """Learn which lanes others parked by now."""
        try:
            if self._orders or self._natural:
                await self.load()
        except StoreError as trouble:
            logger.warning("%s while looking for lanes that are parked", trouble)

    def lane_of(self, job: Job, route: HandlerRoute) -> str | None:
        """Return what a job's lane is called in the store, where it is one that is parked; None for no lane."""
        if job.delivery.record is not None and job.delivery.record.lane is not None:
            return str(job.delivery.record.lane)
        by = route.terms.ordered_by
        if by is not None and by in self._orders:
            key = route.terms.key_of(job.message)
            return None if key is None else _digest(_named(by), _said(key, route))
        if by is None and self._natural and job.delivery.lane is not None:
            return _digest(job.source.adapter.url, job.delivery.lane)
        return None

    def keeps(self, job: Job, route: HandlerRoute) -> str | None:
        """Return the lane of a job that has to wait behind others that are parked; None for one that may run."""
        if not self.lanes or job.delivery.record is not None:
            return None
        lane = self.lane_of(job, route)
        return lane if lane in self.lanes else None

    def park(self, job: Job, seconds: float | None, lane: str | None) -> None:
        """Park a job for so long (None for as long as others of its lane are before it)."""
        job.parked = Parked(None if seconds is None else self._runtime.time() + seconds, lane)
        if lane is not None:
            self._number += 1
            self.lanes[lane] = self._number
            self._unfiled[lane] += 1
        self._filing.add(job)

    def spread(self, breaker: str, seconds: float) -> float:
        """Return after how long one more is due that waits for a breaker's next probe, which is in `seconds`."""
        now = self._runtime.time()
        due = max(now + seconds, self._spread.get(breaker, 0.0) + _APART)
        self._spread[breaker] = due
        return due - now

    def filed(self, job: Job) -> None:
        """Note that a parked job is durable."""
        if job.parked is not None and job.parked.lane is not None:
            self._unfiled[job.parked.lane] -= 1

    def settled(self, jobs: Sequence[Job]) -> None:
        """Look whether lanes are empty, where one that was parked in one is done."""
        if not self._asking and any(job.delivery.record is not None and job.delivery.record.lane for job in jobs):
            self._asking = True
            self._number += 1
            self._runtime.call_later(0.0, self._ask)

    def _ask(self) -> None:
        asked_at = self._number
        asking = asyncio.ensure_future(self._empty(asked_at))
        asking.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _empty(self, asked_at: int) -> None:
        try:
            there = await asyncio.wrap_future(self._filing.ask(lambda store: store.lanes(self._service)))
        except StoreError as trouble:
            logger.warning("%s while looking for lanes that are empty", trouble)
            return
        finally:
            self._asking = False
        for lane, last in list(self.lanes.items()):
            if lane not in there and last <= asked_at and not self._unfiled[lane]:
                del self.lanes[lane], self._unfiled[lane]


def _named(by: object) -> str:
    """Return what orders messages, under a name that outlives the process."""
    return repr(by) if hasattr(by, "requires") else callable_name(by)  # type: ignore[arg-type]


def _said(key: Hashable, route: HandlerRoute) -> str:
    """Return a key as text that is the same in another process. Raises TypeError for one that has none."""
    if isinstance(key, tuple):
        return f"({','.join(_said(part, route) for part in key)})"
    if key is None or isinstance(key, (str, bytes, int, float)):
        return f"{type(key).__name__}:{key!r}"
    raise TypeError(f"the key of {route.name}, whose lanes are parked, is text, bytes, a number, or a tuple of such")


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:40]
