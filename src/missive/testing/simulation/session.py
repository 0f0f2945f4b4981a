"""Session: the simulated adapter and its sessions, whose calls fail, lose replies, and die."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from missive.adapters.base import Adapter
from missive.app.processor import Processor
from missive.errors import Transient
from missive.testing.simulation.entry import Handout
from missive.testing.simulation.trace import Promise
from missive.transport import (
    Credit,
    Delivery,
    Disposition,
    Host,
    Session,
    SessionStatus,
    Settlement,
    SettlementResult,
    Watermark,
)

if TYPE_CHECKING:
    from missive.testing.simulation.life import Life


_MAX_REBALANCES = 5
"""Maximum number of times that a session loses lanes."""


class SimulatedAdapter(Adapter):
    """Connects one life to the broker."""

    transport = "simulated"

    def __init__(self, processor: Processor[Any], life: Life, drain: float) -> None:
        super().__init__(processor, drain=drain)
        self._life = life

    @property
    def destination(self) -> str:
        """The name of the transport kind."""
        return self._life.world.broker.kind.name

    async def connect(self, host: Host) -> SimulatedSession:
        """Open a session. Raises `Transient` when this call fails."""
        life = self._life
        await life.delay_call()
        if life.dead or life.world.rates.occurs(life.world.rates.transient):
            raise Transient("the simulated transport cannot be reached")
        life.world.trace.add("connected")
        return SimulatedSession(life, host)


class SimulatedSession(Session):
    """One session. Each call changes the broker at one instant, or not at all."""

    def __init__(self, life: Life, host: Host) -> None:
        super().__init__()
        self.capabilities = life.world.broker.kind.capabilities
        self._life = life
        self._world = life.world
        self._broker = life.world.broker
        self._host = host
        self.open = True
        self._stopped = False
        self._fetching = False
        self._buffer: list[Handout] = []
        self._paused: dict[str, None] = {}
        self._waiter: asyncio.Future[None] | None = None
        self._lost_lanes: set[str] = set()
        """Lanes that are lost, or are about to be lost."""
        self._committable: set[str] = set()
        """Lost lanes whose finished messages may still be committed."""
        self._losses: dict[str, int] = {}
        """Number of times that each lane was lost."""
        self._rebalancing: asyncio.Task[None] | None = None
        life.sessions.append(self)

    # Receiving

    async def fetch(self, credit: Credit) -> Sequence[Delivery]:
        """Wait for deliveries and return some."""
        if self._fetching or self._stopped:
            self._world.fail(Promise.sessions, "a fetch started while another one waited, or after intake was stopped")
        self._check_credit(credit)
        self._fetching = True
        if self._rebalancing is None and self._broker.kind.cumulative:
            await self._host.lanes_gained(self._broker.watermarks(self._broker.lanes))
            self._rebalancing = asyncio.ensure_future(self._rebalance())
        try:
            self._maybe_fail()
            while not self._buffer:
                self._buffer = self._broker.take(self, credit, {*self._paused, *self._lost_lanes})
                # Received messages are in the buffer until the call returns, because it may be cancelled here.
                await self._life.delay_call()
                self._check_alive()
                if not self._buffer:
                    await self._wait_for_change()
                    self._check_alive()
            return self._take(credit.items)
        finally:
            self._fetching = False

    def _check_credit(self, credit: Credit) -> None:
        most = self._host.credit
        # The engine drops waiting messages of lost lanes at once.
        unsettled = [one for one in self._world.ledger.unsettled(self) if one.entry.lane not in self._lost_lanes]
        # One message of each key counts. The engine learns about the others of a lane run when the run ends.
        able = [handout for handout in unsettled if handout.could_run and not handout.waits_for_store]
        keys = {handout.entry.group for handout in able if handout.entry.group is not None}
        could_run = sum(handout.entry.group is None for handout in able) + len(keys)
        # The outcomes of one full credit may come before the engine learns that the store is down.
        # Messages of lanes are held before that: only `most` bounds them.
        waiting = [one for one in unsettled if one.entry.group is None and one.entry.lane is None]
        unfiled = sum(handout.waits_for_store and not handout.durable for handout in waiting)
        if unfiled > self._world.max_unfiled + self._world.limits.items:
            self._world.fail(Promise.credit, f"a fetch started while {unfiled} dead letters waited for the store")
        left = min(most.items - len(unsettled), self._world.limits.items - could_run)
        size = sum(len(handout.entry.template.body) for handout in unsettled)
        if not 0 < credit.items <= left or not 0 < credit.bytes <= most.bytes - size:
            self._world.fail(
                Promise.credit,
                f"{credit.items} were requested with {len(unsettled)} unsettled, of which {could_run} could run",
            )

    def _take(self, most: int) -> list[Delivery]:
        taken, self._buffer = self._buffer[:most], self._buffer[most:]
        deliveries = []
        for handout in taken:
            entry = handout.entry
            if handout.until < self._world.clock.now:
                self._broker.end_lease(handout, "lease ended")
            self._world.ledger.handed_out(handout)
            deliveries.append(
                msgspec.structs.replace(
                    entry.template,
                    lane=entry.lane,
                    position=entry.position,
                    token=handout,
                    attempt=handout.attempt,
                    redelivered=entry.delivered > 1,
                )
            )
        return deliveries

    async def _wait_for_change(self) -> None:
        """Wait until messages may be available."""
        self._waiter = asyncio.get_running_loop().create_future()
        due = self._broker.next_change()
        alarm = asyncio.get_running_loop().call_at(due, self.wake) if due < float("inf") else None
        try:
            await self._waiter
        finally:
            self._waiter = None
            if alarm is not None:
                alarm.cancel()

    async def _rebalance(self) -> None:
        """Lose lanes at random times, in good order or not, and get them back later."""
        rates, random = self._world.rates, self._world.random
        for _ in range(random.randint(1, _MAX_REBALANCES) if self._broker.kind.rebalances else 0):
            await asyncio.sleep(random.random() * rates.rebalances)
            lanes = [lane for lane in self._broker.lanes if self._life.coin()]
            may_commit = self._life.coin()
            if not (self.open and rates.rebalances and self._broker.open) or self._life.dead:
                return
            if not lanes:
                continue
            self._world.trace.add("lanes lost" if may_commit else "lanes lost without a commit")
            self._lost_lanes.update(lanes)
            self._buffer = [handout for handout in self._buffer if handout.entry.lane not in lanes]
            if not may_commit:
                self._broker.revoke(self, lanes)
            else:
                self._committable.update(lanes)
            deadline = random.choice((0.0, 0.05, 0.5))
            losing = asyncio.ensure_future(self._host.lanes_lost(lanes, may_commit=may_commit, deadline=deadline))
            await asyncio.sleep(0)
            self._broker.lanes_lost(self, lanes)
            await losing
            self._committable.clear()
            self._losses.update({lane: self._losses.get(lane, 0) + 1 for lane in lanes})
            self._broker.revoke(self, lanes)
            for lane in lanes:
                self._paused.pop(lane, None)
            await asyncio.sleep(random.choice((0.0, 0.0, 0.5)))
            if not self.open or self._life.dead:
                return
            await self._host.lanes_gained(self._broker.watermarks(lanes))
            self._lost_lanes.difference_update(lanes)
            self._world.trace.add("lanes gained")
            self.wake()

    def wake(self) -> None:
        """Let a waiting fetch check again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def stop_intake(self) -> Sequence[Delivery]:
        """Return the received messages that were not fetched."""
        self._stopped = True
        self._maybe_fail()
        await self._life.delay_call()
        self._check_alive()
        return self._take(len(self._buffer))

    async def pause(self, lanes: Collection[str]) -> None:
        """Stop delivering messages of these lanes."""
        self._maybe_fail(fatally=True)
        self._paused.update(dict.fromkeys(lanes))

    async def resume(self, lanes: Collection[str]) -> None:
        """Deliver messages of these lanes again."""
        self._maybe_fail(fatally=True)
        for lane in lanes:
            self._paused.pop(lane, None)
        self.wake()

    # Settling

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[SettlementResult]:
        """Settle messages, with faults in the effect and in the reply."""
        for settlement in settlements:
            self._check_settlement(settlement)
        self._maybe_fail()
        await self._life.delay_call()
        self._check_alive()
        self._life.crash_point()
        if self._life.dead:
            raise Transient("the simulated process is dead")
        results = [self._settle(settlement) for settlement in settlements]
        self._life.crash_point()
        await self._life.delay_call()
        self._maybe_fail()  # loses the reply with its connection
        return results

    def _check_settlement(self, settlement: Settlement) -> None:
        handout: Handout = settlement.delivery.token
        number = handout.entry.number
        if handout.session is not self:
            self._world.fail(Promise.sessions, f"m{number} was settled in another session than its own")
        if handout.running:
            self._world.fail(Promise.durable, f"m{number} was settled while its handler ran")

    def _settle(self, settlement: Settlement) -> SettlementResult:
        handout: Handout = settlement.delivery.token
        rates = self._world.rates
        fault = rates.random.randrange(5) if rates.occurs(rates.answers) else None
        if handout.lost:
            handout.settled = True
            return SettlementResult.fenced
        if fault == 0:
            return SettlementResult.failed
        handout.settled = True
        if fault == 1:
            return SettlementResult.unknown
        if fault == 2:  # noqa: PLR2004 - the kinds of faults have numbers
            self._release(handout)
            return SettlementResult.fenced
        if fault == 3 and not self._broker.kind.answers:  # noqa: PLR2004 - the settlement never arrives
            return SettlementResult.sent
        if settlement.disposition is Disposition.release:
            self._release(handout)
        else:
            self._broker.settle(handout)
        if fault == 4:  # noqa: PLR2004
            return SettlementResult.unknown
        return SettlementResult.confirmed if self._broker.kind.answers else SettlementResult.sent

    def _release(self, handout: Handout) -> None:
        self._broker.end_lease(handout, "redelivered")

    async def commit(self, watermarks: Mapping[str | None, Watermark]) -> Mapping[str | None, SettlementResult]:
        """Commit watermarks, except for lanes that were lost since the call."""
        losses = {lane: self._losses.get(lane or "", 0) for lane in watermarks}
        self._maybe_fail()
        await self._life.delay_call()
        self._check_alive()
        self._life.crash_point()
        if self._life.dead:
            raise Transient("the simulated process is dead")
        results: dict[str | None, SettlementResult] = {}
        for lane, watermark in watermarks.items():
            lost = self._losses.get(lane or "", 0) != losses[lane]
            results[lane] = SettlementResult.fenced if lost else self._commit(lane or "", watermark)
        self._life.crash_point()
        self._maybe_fail()
        return results

    def _commit(self, lane: str, watermark: Watermark) -> SettlementResult:
        rates = self._world.rates
        fault = rates.random.randrange(2) if rates.occurs(rates.answers) else None
        if lane in self._lost_lanes and lane not in self._committable:
            return SettlementResult.fenced
        if fault == 0:
            return SettlementResult.failed
        self._broker.commit(self, lane, watermark)
        return SettlementResult.unknown if fault == 1 else SettlementResult.confirmed

    async def extend(self, deliveries: Sequence[Delivery]) -> Sequence[SettlementResult]:
        """Renew the leases that are still held."""
        self._maybe_fail()
        await self._life.delay_call()
        self._check_alive()
        results = []
        rates, now = self._world.rates, self._world.clock.now
        for delivery in deliveries:
            handout: Handout = delivery.token
            if handout.until <= now or rates.occurs(rates.leases / 4):
                self._broker.end_lease(handout, "lease ended")
            if not handout.lost:
                handout.until = now + (self.capabilities.lease or 0)
            results.append(SettlementResult.fenced if handout.lost else SettlementResult.confirmed)
        return results

    # Ending

    async def status(self) -> SessionStatus:
        """Return the status of the session."""
        return SessionStatus(connected=None, lag=self._broker.waiting)

    async def close(self) -> None:
        """End the session, unless it has ended."""
        self.die()

    def die(self) -> None:
        """End the session. Its unsettled messages are redelivered."""
        if self.open:
            self.open = False
            if self._rebalancing is not None:
                self._rebalancing.cancel()
            self._world.trace.add("session ended")
            self._broker.end(self, self._world.ledger.entries)
            self.wake()

    def _maybe_fail(self, *, fatally: bool = False) -> None:
        """Raise `Transient` at the rate of connection faults. Half of these faults also end the session."""
        self._check_alive()
        rates = self._world.rates
        if rates.occurs(rates.transient):
            if fatally or self._life.coin():
                self.die()
            raise Transient("the simulated connection failed")

    def _check_alive(self) -> None:
        if not self.open or self._life.dead:
            raise Transient("the simulated connection is gone")
