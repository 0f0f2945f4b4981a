"""The simulated transport's sessions: calls that fail, answers that are lost, and connections that die."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from missive.adapters.base import Adapter
from missive.app.processor import Processor
from missive.errors import Transient
from missive.testing.simulation.ledger import Handout
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


_MOST_MOVES = 5
"""So often at the most a session loses lanes."""


class SimulatedAdapter(Adapter):
    """Connects one life of a processor to the broker."""

    transport = "simulated"

    def __init__(self, processor: Processor[Any], life: Life, drain: float) -> None:
        super().__init__(processor, drain=drain)
        self._life = life

    @property
    def destination(self) -> str:
        """What it is called."""
        return self._life.world.broker.kind.name

    async def connect(self, host: Host) -> SimulatedSession:
        """Open a session, unless that fails."""
        life = self._life
        await life.pass_time()
        if life.dead or life.world.weather.strikes(life.world.weather.transient):
            raise Transient("the simulated transport cannot be reached")
        life.world.trace.add("connected")
        return SimulatedSession(life, host)


class SimulatedSession(Session):
    """One session. What it does to the broker happens at one instant of each call, or never."""

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
        self._away: set[str] = set()
        """Lanes that are somebody else's, or soon are."""
        self._leaving: set[str] = set()
        """Of these, those of which what is done may still be committed."""
        self._moves: dict[str, int] = {}
        """How often each lane was lost."""
        self._moving: asyncio.Task[None] | None = None
        life.sessions.append(self)

    # Receiving

    async def fetch(self, credit: Credit) -> Sequence[Delivery]:
        """Wait for deliveries, and return some."""
        if self._fetching or self._stopped:
            self._world.fail(Promise.sessions, "a fetch began while another waited, or after the intake was stopped")
        self._check_credit(credit)
        self._fetching = True
        if self._moving is None and self._broker.kind.cumulative:
            await self._host.lanes_gained(self._broker.marks(self._broker.lanes))
            self._moving = asyncio.ensure_future(self._move())
        try:
            self._hit()
            while not self._buffer:
                self._buffer = self._broker.take(self, credit, {*self._paused, *self._away})
                # What was received is in the buffer while the call is answered: it may be cancelled here.
                await self._life.pass_time()
                self._check()
                if not self._buffer:
                    await self._something()
                    self._check()
            return self._take(credit.items)
        finally:
            self._fetching = False

    def _check_credit(self, credit: Credit) -> None:
        most = self._host.credit
        # What has not begun of lanes that leave is let go of at once.
        in_hand = [one for one in self._world.ledger.in_hand(self) if one.entry.lane not in self._away]
        # Of a key, one counts: what a worker runs after it in one go counts when the engine hears that it is done.
        able = [handout for handout in in_hand if handout.could_run]
        keys = {handout.entry.group for handout in able if handout.entry.group is not None}
        could_run = sum(handout.entry.group is None for handout in able) + len(keys)
        left = min(most.items - len(in_hand), self._world.limits.items - could_run)
        size = sum(len(handout.entry.template.body) for handout in in_hand)
        if not 0 < credit.items <= left or not 0 < credit.bytes <= most.bytes - size:
            self._world.fail(
                Promise.credit, f"{credit.items} were asked for with {len(in_hand)} in hand, {could_run} of them to run"
            )

    def _take(self, most: int) -> list[Delivery]:
        given, self._buffer = self._buffer[:most], self._buffer[most:]
        deliveries = []
        for handout in given:
            entry = handout.entry
            if handout.until < self._world.clock.now:
                self._broker.take_away(handout, "lease ended")
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

    async def _something(self) -> None:
        """Wait until there may be something to fetch."""
        self._waiter = asyncio.get_running_loop().create_future()
        due = self._broker.next_change()
        alarm = asyncio.get_running_loop().call_at(due, self.wake) if due < float("inf") else None
        try:
            await self._waiter
        finally:
            self._waiter = None
            if alarm is not None:
                alarm.cancel()

    async def _move(self) -> None:
        """Lose some lanes now and then, in order or not, and have them back later."""
        weather, random = self._world.weather, self._world.random
        for _ in range(random.randint(1, _MOST_MOVES) if self._broker.kind.moves else 0):
            await asyncio.sleep(random.random() * weather.moves)
            lanes = [lane for lane in self._broker.lanes if self._life.either()]
            may_commit = self._life.either()
            if not (self.open and weather.moves and self._broker.open) or self._life.dead:
                return
            if not lanes:
                continue
            self._world.trace.add("lanes lost" if may_commit else "lanes lost without a commit")
            self._away.update(lanes)
            self._buffer = [handout for handout in self._buffer if handout.entry.lane not in lanes]
            if not may_commit:
                self._broker.move(self, lanes)
            else:
                self._leaving.update(lanes)
            deadline = random.choice((0.0, 0.05, 0.5))
            losing = asyncio.ensure_future(self._host.lanes_lost(lanes, may_commit=may_commit, deadline=deadline))
            await asyncio.sleep(0)
            self._broker.leave(self, lanes)
            await losing
            self._leaving.clear()
            self._moves.update({lane: self._moves.get(lane, 0) + 1 for lane in lanes})
            self._broker.move(self, lanes)
            for lane in lanes:
                self._paused.pop(lane, None)
            await asyncio.sleep(random.choice((0.0, 0.0, 0.5)))
            if not self.open or self._life.dead:
                return
            await self._host.lanes_gained(self._broker.marks(lanes))
            self._away.difference_update(lanes)
            self._world.trace.add("lanes gained")
            self.wake()

    def wake(self) -> None:
        """Let a waiting fetch look again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def stop_intake(self) -> Sequence[Delivery]:
        """Return what was received and not fetched."""
        self._stopped = True
        self._hit()
        await self._life.pass_time()
        self._check()
        return self._take(len(self._buffer))

    async def pause(self, lanes: Collection[str]) -> None:
        """Deliver no more of these lanes."""
        self._hit(fatally=True)
        self._paused.update(dict.fromkeys(lanes))

    async def resume(self, lanes: Collection[str]) -> None:
        """Deliver them again."""
        self._hit(fatally=True)
        for lane in lanes:
            self._paused.pop(lane, None)
        self.wake()

    # Settling

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[SettlementResult]:
        """Settle each, or do not, and answer one or the other."""
        for settlement in settlements:
            self._check_item(settlement)
        self._hit()
        await self._life.pass_time()
        self._check()
        self._life.point()
        if self._life.dead:
            raise Transient("the simulated process is dead")
        results = [self._settle(settlement) for settlement in settlements]
        self._life.point()
        await self._life.pass_time()
        self._hit()  # an answer that is lost with its connection
        return results

    def _check_item(self, item: Settlement) -> None:
        handout: Handout = item.delivery.token
        number = handout.entry.number
        if handout.session is not self:
            self._world.fail(Promise.sessions, f"m{number} was settled in another session than it came in")
        if handout.running:
            self._world.fail(Promise.durable, f"m{number} was settled while its handler ran")

    def _settle(self, item: Settlement) -> SettlementResult:
        handout: Handout = item.delivery.token
        weather = self._world.weather
        fault = weather.random.randrange(5) if weather.strikes(weather.answers) else None
        if handout.lost:
            handout.told = True
            return SettlementResult.fenced
        if fault == 0:
            return SettlementResult.failed
        handout.told = True
        if fault == 1:
            return SettlementResult.unknown
        if fault == 2:  # noqa: PLR2004 - the next of the kinds
            self._take_away(handout)
            return SettlementResult.fenced
        if fault == 3 and not self._broker.kind.answers:  # noqa: PLR2004 - it never arrives
            return SettlementResult.sent
        if item.disposition is Disposition.release:
            self._take_away(handout)
        else:
            self._broker.settle(handout)
        if fault == 4:  # noqa: PLR2004
            return SettlementResult.unknown
        return SettlementResult.confirmed if self._broker.kind.answers else SettlementResult.sent

    def _take_away(self, handout: Handout) -> None:
        self._broker.take_away(handout, "comes again")

    async def commit(self, watermarks: Mapping[str | None, Watermark]) -> Mapping[str | None, SettlementResult]:
        """Commit marks, but for those of lanes that were lost since this was asked for."""
        moves = {lane: self._moves.get(lane or "", 0) for lane in watermarks}
        self._hit()
        await self._life.pass_time()
        self._check()
        self._life.point()
        if self._life.dead:
            raise Transient("the simulated process is dead")
        results: dict[str | None, SettlementResult] = {}
        for lane, watermark in watermarks.items():
            moved = self._moves.get(lane or "", 0) != moves[lane]
            results[lane] = SettlementResult.fenced if moved else self._commit(lane or "", watermark)
        self._life.point()
        self._hit()
        return results

    def _commit(self, lane: str, mark: Watermark) -> SettlementResult:
        weather = self._world.weather
        fault = weather.random.randrange(2) if weather.strikes(weather.answers) else None
        if lane in self._away and lane not in self._leaving:
            return SettlementResult.fenced
        if fault == 0:
            return SettlementResult.failed
        self._broker.commit(self, lane, mark)
        return SettlementResult.unknown if fault == 1 else SettlementResult.confirmed

    async def extend(self, deliveries: Sequence[Delivery]) -> Sequence[SettlementResult]:
        """Renew leases, where they are still held."""
        self._hit()
        await self._life.pass_time()
        self._check()
        results = []
        weather, now = self._world.weather, self._world.clock.now
        for delivery in deliveries:
            handout: Handout = delivery.token
            if handout.until <= now or weather.strikes(weather.leases / 4):
                self._broker.take_away(handout, "lease ended")
            if not handout.lost:
                handout.until = now + (self.capabilities.lease or 0)
            results.append(SettlementResult.fenced if handout.lost else SettlementResult.confirmed)
        return results

    # Its life

    async def status(self) -> SessionStatus:
        """Return how it is."""
        return SessionStatus(connected=None, lag=self._broker.waiting)

    async def close(self) -> None:
        """End it, if it has not ended."""
        self.die()

    def die(self) -> None:
        """End it: what it holds comes again."""
        if self.open:
            self.open = False
            if self._moving is not None:
                self._moving.cancel()
            self._world.trace.add("session ended")
            self._broker.end(self, self._world.ledger.entries)
            self.wake()

    def _hit(self, *, fatally: bool = False) -> None:
        """Fail, if that is what the weather says; half of the time for good."""
        self._check()
        weather = self._world.weather
        if weather.strikes(weather.transient):
            if fatally or self._life.either():
                self.die()
            raise Transient("the simulated connection failed")

    def _check(self) -> None:
        if not self.open or self._life.dead:
            raise Transient("the simulated connection is gone")
