"""A broker in memory with the features of real ones: redelivery, leases, lanes that pause, and faults on demand."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from missive import Processor
from missive.adapters.base import Adapter
from missive.errors import Transient
from missive.transport import (
    Capabilities,
    Credit,
    Delivery,
    Disposition,
    EndOfInput,
    Host,
    Session,
    SessionStatus,
    Settlement,
    SettlementResult,
    Watermark,
)

PLAIN = Capabilities()


class Broker(Adapter):
    """A broker that stores each delivery until it is acked.

    It redelivers the messages of a closed session and those whose lease has ended. It raises `EndOfInput` after its
    last message, unless `ends` is false, and returns up to `per_fetch` messages from a fetch.

    `intercept` maps the name of a session's method to a function that is called first, with the session and the
    method's arguments. The function may raise, return the method's result (or an awaitable of the result), or return
    None to let the method run.
    """

    transport = "broker"

    def __init__(
        self,
        processor: Processor[Any],
        deliveries: Iterable[Delivery | bytes] = (),
        *,
        capabilities: Capabilities = PLAIN,
        ends: bool = True,
        per_fetch: int = 1000,
        drain: float = 25,
        rate_limit: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(processor, drain=drain, rate_limit=rate_limit)
        self.ready = deque(Delivery(d) if isinstance(d, bytes) else d for d in deliveries)
        self.held: dict[Delivery, tuple[BrokerSession, float]] = {}
        """Unsettled deliveries, each with its session and the end of its lease."""
        self.capabilities = capabilities
        self.ends = ends
        self.per_fetch = per_fetch
        self.clock = clock
        self.intercept: dict[str, Callable[..., Any]] = {}
        self.sessions: list[BrokerSession] = []
        self.settlements: list[Sequence[Settlement]] = []
        """The argument of each call of `settle`."""
        self.acked: list[bytes] = []
        self.released: list[bytes] = []
        self.extended: list[Sequence[Delivery]] = []
        """The argument of each call of `extend`."""
        self.lane_calls: list[tuple[str, tuple[str, ...]]] = []
        """Each call of `pause` and `resume`, with its lanes."""
        self.commits: list[Mapping[str | None, int]] = []
        """The positions of each call of `commit`, by lane."""
        self.peak_held = 0
        self.foreign: list[Delivery] = []
        """Deliveries that the engine gave to a session which had not delivered them. `run` checks that it is empty."""

    @property
    def destination(self) -> str:
        """The name of the queue."""
        return "queue"

    async def connect(self, host: Host) -> Session:
        """Open a session."""
        session = BrokerSession(self, host)
        self.sessions.append(session)
        return session

    def send(self, *bodies: bytes) -> None:
        """Add messages, from any thread."""
        session = self.sessions[-1]
        session._loop.call_soon_threadsafe(session.receive, [Delivery(body) for body in bodies])

    def redeliver(self, delivery: Delivery) -> None:
        """Deliver a message again, before all others."""
        self.ready.appendleft(msgspec.structs.replace(delivery, redelivered=True, attempt=delivery.attempt + 1))


class BrokerSession(Session):
    """A connection to a `Broker`."""

    def __init__(self, broker: Broker, host: Host) -> None:
        super().__init__()
        self.capabilities = broker.capabilities
        self.paused: set[str | None] = set()
        self.closed = False
        self._broker = broker
        self._host = host
        self._changed = asyncio.Event()
        self._dead = False
        self._given: set[Delivery] = set()
        self._sweeping = asyncio.ensure_future(self._sweep()) if broker.capabilities.lease else None

    def receive(self, deliveries: Sequence[Delivery]) -> None:
        """Add messages, on the engine's loop."""
        self._broker.ready.extend(deliveries)
        self._changed.set()

    def die(self) -> None:
        """Lose the connection, from any thread. Later calls of the session fail."""
        self._loop.call_soon_threadsafe(self._die)

    def _die(self) -> None:
        self._dead = True
        self._changed.set()

    async def _intercepted(self, method: str, *arguments: object) -> Any:
        if method in self._broker.intercept:
            result = self._broker.intercept[method](self, *arguments)
            return await result if inspect.isawaitable(result) else result
        return None

    async def _sweep(self) -> None:
        broker, lease = self._broker, self.capabilities.lease or 1.0
        while True:
            await self._host.sleep(lease / 20)
            self._give_back([d for d, (_, until) in broker.held.items() if until < broker.clock()])

    async def fetch(self, credit: Credit) -> Sequence[Delivery]:
        await self._intercepted("fetch", credit)
        await asyncio.sleep(0)  # a fetch from a network always yields to the loop
        broker = self._broker
        while not self._dead:
            if found := self._take(credit):
                until = broker.clock() + (self.capabilities.lease or 1e9)
                broker.held.update(dict.fromkeys(found, (self, until)))
                self._given.update(found)
                broker.peak_held = max(broker.peak_held, len(broker.held))
                return found
            if broker.ends and not broker.held and not broker.ready:
                raise EndOfInput
            self._changed.clear()
            await self._changed.wait()
        raise Transient("the broker is gone")

    def _take(self, credit: Credit) -> list[Delivery]:
        found: list[Delivery] = []
        skipped: list[Delivery] = []
        ready, size = self._broker.ready, 0
        while ready and len(found) < min(credit.items, self._broker.per_fetch) and size < credit.bytes:
            delivery = ready.popleft()
            if delivery.lane in self.paused:
                skipped.append(delivery)
            else:
                found.append(delivery)
                size += len(delivery.body)
        ready.extendleft(reversed(skipped))
        return found

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[SettlementResult]:
        broker = self._broker
        broker.settlements.append(settlements)
        broker.foreign += [settlement.delivery for settlement in settlements if settlement.delivery not in self._given]
        results = await self._intercepted("settle", settlements)
        if self._dead:
            raise Transient("the broker is gone")
        if results is None:
            results = [self._settle(settlement) for settlement in settlements]
        self._changed.set()
        return results

    def _settle(self, settlement: Settlement) -> SettlementResult:
        broker = self._broker
        if broker.held.pop(settlement.delivery, None) is None:
            return SettlementResult.fenced
        if settlement.disposition is Disposition.release:
            broker.released.append(settlement.delivery.body)
            broker.ready.append(settlement.delivery)
        else:
            broker.acked.append(settlement.delivery.body)
        return SettlementResult.confirmed

    async def commit(self, watermarks: Mapping[str | None, Watermark]) -> Mapping[str | None, SettlementResult]:
        broker = self._broker
        if (answer := await self._intercepted("commit", watermarks)) is not None:
            return dict(answer)
        broker.commits.append({lane: watermark.position for lane, watermark in watermarks.items()})
        for delivery in list(broker.held):
            watermark = watermarks.get(delivery.lane)
            if watermark is not None and (delivery.position or 0) <= watermark.position:
                broker.held.pop(delivery)
                broker.acked.append(delivery.body)
        self._changed.set()
        return dict.fromkeys(watermarks, SettlementResult.confirmed)

    async def extend(self, deliveries: Sequence[Delivery]) -> Sequence[SettlementResult]:
        broker = self._broker
        broker.extended.append(deliveries)
        broker.foreign += [delivery for delivery in deliveries if delivery not in self._given]
        results = await self._intercepted("extend", deliveries)
        if results is not None:
            return results
        until = broker.clock() + (self.capabilities.lease or 1e9)
        broker.held.update({d: (self, until) for d in deliveries if d in broker.held})
        return [SettlementResult.confirmed if d in broker.held else SettlementResult.fenced for d in deliveries]

    async def pause(self, lanes: Collection[str]) -> None:
        await self._intercepted("pause", lanes)
        self._broker.lane_calls.append(("pause", tuple(lanes)))
        self.paused.update(lanes)

    async def resume(self, lanes: Collection[str]) -> None:
        await self._intercepted("resume", lanes)
        self._broker.lane_calls.append(("resume", tuple(lanes)))
        self.paused.difference_update(lanes)
        self._changed.set()

    async def status(self) -> SessionStatus:
        return await self._intercepted("status") or SessionStatus()

    async def close(self) -> None:
        await self._intercepted("close")
        self._dead = self.closed = True
        if self._sweeping is not None:
            self._sweeping.cancel()
        self._give_back([d for d, (session, _) in self._broker.held.items() if session is self])

    def _give_back(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in reversed(deliveries):
            del self._broker.held[delivery]
            self._broker.redeliver(delivery)
        self._changed.set()
