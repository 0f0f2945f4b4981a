"""A transport in memory with what real ones have: redelivery, leases, lanes that pause, and faults on demand."""

from __future__ import annotations

import asyncio
import inspect
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec
import pytest

from missive import Processor
from missive.adapters.base import Adapter
from missive.dlq import open_dlq
from missive.engine.completion.idempotency import IdempotencyClaims
from missive.engine.completion.settlement import Settler
from missive.engine.engine import Engine
from missive.engine.intake.backpressure import Backpressure
from missive.engine.intake.leases import LeaseRenewer
from missive.engine.intake.source import Source
from missive.engine.report import Report
from missive.engine.runtime import Runtime
from missive.engine.stages import Stage
from missive.errors import MissiveError, Transient
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
    """Keeps what it delivered until it is acked; what a dead session held, or whose lease ended, comes again.

    `meddle` maps the name of a session's method to what is called before it, with the session and the method's
    arguments: it may raise, or return what the method then returns (or an awaitable of it), or None.
    """

    transport = "broker"

    def __init__(
        self,
        processor: Processor[Any],
        deliveries: Iterable[Delivery | bytes] = (),
        *,
        capabilities: Capabilities = PLAIN,
        ends: bool = True,
        most: int = 1000,
        drain: float = 25,
        rate_limit: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(processor, drain=drain, rate_limit=rate_limit)
        self.ready = deque(Delivery(d) if isinstance(d, bytes) else d for d in deliveries)
        self.held: dict[Delivery, tuple[BrokerSession, float]] = {}
        self.capabilities = capabilities
        self.ends = ends
        self.most = most
        self.clock = clock
        self.meddle: dict[str, Callable[..., Any]] = {}
        self.sessions: list[BrokerSession] = []
        self.settlements: list[Sequence[Settlement]] = []
        """What each call of `settle` was told."""
        self.acked: list[bytes] = []
        self.released: list[bytes] = []
        self.extended: list[Sequence[Delivery]] = []
        self.told: list[tuple[str, tuple[str, ...]]] = []
        """Lanes paused and resumed."""
        self.marks: list[Mapping[str | None, int]] = []
        """What each commit said."""
        self.most_held = 0
        self.foreign: list[Delivery] = []
        """Deliveries that a session was asked about which had not delivered them: there must be none."""

    @property
    def destination(self) -> str:
        """What it is called."""
        return "queue"

    async def connect(self, host: Host) -> Session:
        """Open a session."""
        session = BrokerSession(self, host)
        self.sessions.append(session)
        return session

    def send(self, *bodies: bytes) -> None:
        """Let more come, from any thread."""
        session = self.sessions[-1]
        session._loop.call_soon_threadsafe(session.receive, [Delivery(body) for body in bodies])

    def again(self, delivery: Delivery) -> None:
        """Let a delivery come again, before all others."""
        self.ready.appendleft(msgspec.structs.replace(delivery, redelivered=True, attempt=delivery.attempt + 1))


class BrokerSession(Session):
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
        """Let more come, on the engine's loop."""
        self._broker.ready.extend(deliveries)
        self._changed.set()

    def die(self) -> None:
        """Lose the connection, from any thread; what is asked of it from now on fails."""
        self._loop.call_soon_threadsafe(self._die)

    def _die(self) -> None:
        self._dead = True
        self._changed.set()

    async def _meddled(self, what: str, *arguments: object) -> Any:
        if what in self._broker.meddle:
            result = self._broker.meddle[what](self, *arguments)
            return await result if inspect.isawaitable(result) else result
        return None

    async def _sweep(self) -> None:
        broker, lease = self._broker, self.capabilities.lease or 1.0
        while True:
            await self._host.sleep(lease / 20)
            self._give_back([d for d, (_, until) in broker.held.items() if until < broker.clock()])

    async def fetch(self, credit: Credit) -> Sequence[Delivery]:
        await self._meddled("fetch", credit)
        await asyncio.sleep(0)  # as for what comes from elsewhere
        broker = self._broker
        while not self._dead:
            if found := self._take(credit):
                until = broker.clock() + (self.capabilities.lease or 1e9)
                broker.held.update(dict.fromkeys(found, (self, until)))
                self._given.update(found)
                broker.most_held = max(broker.most_held, len(broker.held))
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
        while ready and len(found) < min(credit.items, self._broker.most) and size < credit.bytes:
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
        results = await self._meddled("settle", settlements)
        if self._dead:
            raise Transient("the broker is gone")
        if results is None:
            results = [self._settle(settlement) for settlement in settlements]
        self._changed.set()
        return results

    def _settle(self, item: Settlement) -> SettlementResult:
        broker = self._broker
        if broker.held.pop(item.delivery, None) is None:
            return SettlementResult.fenced
        if item.disposition is Disposition.release:
            broker.released.append(item.delivery.body)
            broker.ready.append(item.delivery)
        else:
            broker.acked.append(item.delivery.body)
        return SettlementResult.confirmed

    async def commit(self, watermarks: Mapping[str | None, Watermark]) -> Mapping[str | None, SettlementResult]:
        broker = self._broker
        if (answer := await self._meddled("commit", watermarks)) is not None:
            return dict(answer)
        broker.marks.append({lane: watermark.position for lane, watermark in watermarks.items()})
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
        results = await self._meddled("extend", deliveries)
        if results is not None:
            return results
        until = broker.clock() + (self.capabilities.lease or 1e9)
        broker.held.update({d: (self, until) for d in deliveries if d in broker.held})
        return [SettlementResult.confirmed if d in broker.held else SettlementResult.fenced for d in deliveries]

    async def pause(self, lanes: Collection[str]) -> None:
        await self._meddled("pause", lanes)
        self._broker.told.append(("pause", tuple(lanes)))
        self.paused.update(lanes)

    async def resume(self, lanes: Collection[str]) -> None:
        await self._meddled("resume", lanes)
        self._broker.told.append(("resume", tuple(lanes)))
        self.paused.difference_update(lanes)
        self._changed.set()

    async def status(self) -> SessionStatus:
        return await self._meddled("status") or SessionStatus()

    async def close(self) -> None:
        await self._meddled("close")
        self._dead = self.closed = True
        if self._sweeping is not None:
            self._sweeping.cancel()
        self._give_back([d for d, (session, _) in self._broker.held.items() if session is self])

    def _give_back(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in reversed(deliveries):
            del self._broker.held[delivery]
            self._broker.again(delivery)
        self._changed.set()


class Quick(Runtime):
    """A clock that runs ten times as fast, and so makes waits short."""

    monotonic = staticmethod(lambda: time.monotonic() * 10)

    async def sleep(self, seconds: float) -> None:
        """Wait for a tenth."""
        await asyncio.sleep(seconds / 10)

    def call_later(self, seconds: float, fn: Callable[[], None]) -> Callable[[], None]:
        """Call after a tenth."""
        return super().call_later(seconds / 10, fn)


class Ran(NamedTuple):
    """What is left of a run."""

    engine: Engine
    report: Report


def run(
    *adapters: Adapter,
    drain: float = 25,
    runtime: Runtime | None = None,
    beside: Callable[[Engine], Awaitable[None]] | None = None,
    books: bool = True,
    seconds: float = 20,
) -> Ran:
    """Run one processor's adapters as production does, the engine on a thread and a loop of its own.

    `beside` runs meanwhile on the handlers' loop, and may stop the engine; where it fails, it does. In the end nothing
    may be left in any room (`books`). Raises what the engine does; fails when it takes too long.
    """
    engines: list[Engine] = []

    async def main() -> Report:
        processor = adapters[0].processor
        engine = Engine(
            processor,
            adapters,
            sink=open_dlq(processor.dlq),
            concurrency=processor.concurrency,
            drain=drain,
            handlers_loop=asyncio.get_running_loop(),
            runtime=runtime,
        )
        engines.append(engine)
        helping = asyncio.ensure_future(_beside(engine, beside))
        try:
            return await _run(engine, seconds)
        finally:
            if helping.done():
                helping.result()
            helping.cancel()

    try:
        report = asyncio.run(main())
    finally:
        # Also where the engine failed; but not over what a test says.
        if books and engines and isinstance(sys.exception(), MissiveError | None):
            assert left_in(engines[0]) == {}
        assert [adapter.foreign for adapter in adapters if isinstance(adapter, Broker) and adapter.foreign] == []
    return Ran(engines[0], report)


async def _run(engine: Engine, seconds: float) -> Report:
    running = asyncio.ensure_future(asyncio.to_thread(asyncio.run, engine.main()))
    _, late = await asyncio.wait([running], timeout=seconds)
    if not late:
        return running.result()
    left = left_in(engine)
    engine.stop()
    engine.stop()
    await asyncio.wait([running])
    running.exception()
    pytest.fail(f"not done after {seconds:g} s, with {left}")


async def _beside(engine: Engine, beside: Callable[[Engine], Awaitable[None]] | None) -> None:
    await until(
        lambda: engine.state != "connecting" or any(s.ended for s in engine._state.sources), "the engine to start"
    )
    if beside is not None:
        try:
            await beside(engine)
        except BaseException:
            engine.stop_once()
            raise


def left_in(engine: Engine) -> dict[str, object]:
    """Return the work that an engine left in its stations after it ended; empty if its accounting is right."""
    stations = engine.stations
    dispatcher = stations.dispatcher
    left: dict[str, object] = {
        "lanes": len(dispatcher._lanes),
        "together": dispatcher._lanes._together,
        "ready": len(dispatcher._ready),
        "running": dispatcher.running,
        "held": len(stations.delays),
        "unfiled": stations.dead_letters.pending,
    }
    for number, source in enumerate(stations.intakes):
        left |= {f"{what} of source {number}": getattr(source, what) for what in ("items", "bytes", "waiting")}
    for name, gate in [*dispatcher._gates.items(), *dispatcher._source_gates.items()]:
        left[f"in the limiter of {name}"] = gate._running or len(gate._inside) or len(gate.waiting)
    for gate in dispatcher._breakers:
        left["in a breaker"] = len(gate._inside) or len(gate.waiting)
    for gatherer in dispatcher._gatherers.values():
        left["batched"] = gatherer._jobs
    for stage in stations.stages.all:
        if isinstance(stage, LeaseRenewer):
            left["leases"] = len(stage._until)
        elif isinstance(stage, Settler):
            left["unsettled"] = len(stage._tries) + len(stage._pending)
        elif isinstance(stage, IdempotencyClaims):
            left["claims"] = len(stage._mine) + sum(handler.out for handler in stage._handlers.values())
        elif isinstance(stage, Backpressure):
            left["in lanes"] = sum(stage._items.values()) + sum(stage._bytes.values())
    return {what: count for what, count in left.items() if count}


T = TypeVar("T", bound=Stage)


def stage_of(engine: Engine, kind: type[T]) -> T:
    """Return the only stage of a kind. Fails when there is none, or more than one."""
    (stage,) = (stage for stage in engine.stations.stages.all if isinstance(stage, kind))
    return stage


def source_of(engine: Engine) -> Source:
    """Return the first source of an engine."""
    return next(iter(engine.stations.intakes))


async def until(condition: Callable[[], object], what: str, seconds: float = 10) -> None:
    """Wait on the handlers' loop until a condition is true; fails, saying what was waited for."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds:g} s for {what}")
        await asyncio.sleep(0.005)
