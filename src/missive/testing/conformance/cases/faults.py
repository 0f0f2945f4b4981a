"""Cases 45 to 50: brokers and connections that fail under load."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from missive.app.context import HandlingContext
from missive.app.processor import Processor
from missive.engine.intake import watchdog
from missive.errors import Transient
from missive.matchers import Everything
from missive.messages import RawMessage
from missive.testing.conformance.catalogue import CaseOutcome, case
from missive.testing.conformance.checks import check
from missive.testing.conformance.driver import WAIT_SECONDS, Driver, numbered
from missive.testing.conformance.proxy import Fault
from missive.testing.conformance.wrapping import WrappedSession
from missive.transport import Credit, Delivery, Disposition, Session, Settlement, SettlementResult, Watermark

_ANSWER = 5.0
"""Time limit for a settlement over a closed connection, in seconds."""
_LOAD = 600
_DEEP_LOAD = 5000
_CREDIT = 100
"""Credit of an engine, in messages. It is smaller than the load, so that it bounds the duplicates of a fault."""


async def _under_load(
    driver: Driver, cause_fault: Callable[[int], Awaitable[None]], times: int, *, address: tuple[str, int] | None = None
) -> CaseOutcome:
    """Cause faults while an engine works. Prove that every message is handled, and few of them twice."""
    count = _DEEP_LOAD if driver.deep else _LOAD
    processor = Processor(name="conformance", dlq=driver.dlq, concurrency=4)

    @processor.handle_for(Everything())
    async def handle(message: RawMessage, context: HandlingContext[RawMessage]) -> None:
        await asyncio.sleep(0.005)
        driver.log.handled[message.raw_data] += 1

    handled = driver.log.handled
    await driver.publish(*numbered(count))
    options: dict[str, Any] = {} if address is None else {"address": address}
    with driver.limited(Credit(_CREDIT, 64 << 20)):
        async with driver.serving(driver.adapter(processor, **options)):
            for turn in range(times):
                goal = count * (turn + 1) // (times + 2)
                await driver.until(lambda goal=goal: len(handled) >= goal, "progress", 60)  # type: ignore[misc]
                await cause_fault(turn)
            await driver.until(lambda: len(handled) == count, "every message to be handled", 90)
            await driver.until_empty()
    driver.duplicates, driver.faults = sum(handled.values()) - count, times
    return CaseOutcome.passed


@case(45)
async def broker_restarted(driver: Driver) -> CaseOutcome:
    """A broker that stops and starts in good order under load loses nothing."""
    harness = driver.harness
    if not harness.broker:
        return CaseOutcome.refused

    async def cause_fault(_turn: int) -> None:
        await driver.in_thread(harness.stop)
        await driver.in_thread(harness.start)

    return await _under_load(driver, cause_fault, 5 if driver.deep else 1)


@case(46)
async def broker_killed(driver: Driver) -> CaseOutcome:
    """A broker that is killed repeatedly under load loses nothing."""
    harness = driver.harness
    if not harness.broker:
        return CaseOutcome.refused

    async def cause_fault(_turn: int) -> None:
        driver.forgotten += min(harness.forgotten_settlements, sum(driver.log.handled.values()))
        await driver.in_thread(harness.kill)
        await driver.in_thread(harness.start)

    return await _under_load(driver, cause_fault, 10 if driver.deep else 1)


@case(47)
async def half_open(driver: Driver) -> CaseOutcome:
    """The adapter notices silent connections that stay open, and continues over new ones."""
    if driver.harness.address is None:
        return CaseOutcome.refused
    # The watchdog polls every half minute. Only the long form waits that long.
    pace = (watchdog.EVERY, watchdog.ANSWER_SECONDS)
    if not driver.deep:
        watchdog.EVERY, watchdog.ANSWER_SECONDS = 0.5, 1.5
    try:
        with driver.proxy() as proxy:

            async def cause_fault(_turn: int) -> None:
                proxy.hang()

            return await _under_load(driver, cause_fault, 1, address=proxy.address)
    finally:
        watchdog.EVERY, watchdog.ANSWER_SECONDS = pace


@case(48)
async def bad_network(driver: Driver) -> CaseOutcome:
    """Latency, resets and truncated frames lose nothing."""
    if driver.harness.address is None:
        return CaseOutcome.refused
    with driver.proxy() as proxy:

        async def cause_fault(turn: int) -> None:
            if turn % 3 == 0:
                proxy.reset()
            elif turn % 3 == 1:
                proxy.set(Fault.truncate)
                await asyncio.sleep(0.3)
            else:
                proxy.set(latency=0.02)

        return await _under_load(driver, cause_fault, 3, address=proxy.address)


@case(49)
async def between(driver: Driver) -> CaseOutcome:
    """A message is redelivered when its connection dies after the handler and before the ack."""
    await driver.publish(b"0")
    if driver.harness.address is None:
        session = await driver.open()
        await driver.settle(session, await driver.take(session, 1))
        return CaseOutcome.refused
    with driver.proxy() as proxy:
        session = await driver.open(address=proxy.address)
        taken = await driver.take(session, 1)
        proxy.reset()
        proxy.set(Fault.refuse)
        await asyncio.sleep(0.2)
        results = await _settle_without_connection(session, taken[0])
        check(
            all(one in ("unknown", "failed") for one in results), "a settlement was accepted over a closed connection"
        )
        await driver.discard(session)
    return CaseOutcome.passed


async def _settle_without_connection(session: Session, delivery: Delivery) -> Sequence[SettlementResult]:
    """Settle over a closed connection. Return the results, or nothing when the call raises Transient or waits."""
    if session.capabilities.commit == "cumulative":
        settling = asyncio.ensure_future(_commit(session, delivery))
    else:
        settling = asyncio.ensure_future(session.settle([Settlement(delivery, Disposition.ack)]))
    await asyncio.wait([settling], timeout=_ANSWER)
    if not settling.done():
        settling.cancel()
        return ()
    error = settling.exception()
    if error is not None and not isinstance(error, Transient):
        raise error
    return () if error is not None else settling.result()


async def _commit(session: Session, delivery: Delivery) -> Sequence[SettlementResult]:
    return list((await session.commit({delivery.lane: Watermark(delivery.position or 0)})).values())


class _Refuses(WrappedSession):
    """A session that answers its next settlements from a script. None stands for a connection that dies."""

    def __init__(
        self, inner: Session, script: list[SettlementResult | None], seen: list[SettlementResult | None]
    ) -> None:
        super().__init__(inner)
        self._script = script
        self._seen = seen

    def _next(self) -> SettlementResult | None:
        answer = self._script.pop(0)
        self._seen.append(answer)
        if answer is None:
            raise Transient("the connection was closed on purpose")
        return answer

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[SettlementResult]:
        if self._script and self.capabilities.commit != "cumulative" and (answer := self._next()) is not None:
            return [answer] * len(settlements)
        return await self.inner.settle(settlements)

    async def commit(self, watermarks: Mapping[str | None, Watermark]) -> Mapping[str | None, SettlementResult]:
        if self._script and (answer := self._next()) is not None:
            return dict.fromkeys(watermarks, answer)
        return await self.inner.commit(watermarks)


@case(50)
async def refused(driver: Driver) -> CaseOutcome:
    """The engine repeats a failed or unknown settlement, and does not repeat its handler."""
    script: list[SettlementResult | None] = [SettlementResult.failed, SettlementResult.unknown]
    seen: list[SettlementResult | None] = []
    processor = Processor(name="conformance", dlq=driver.dlq)
    faults = len(script) + (not driver.harness.reads_once)

    @processor.handle_for(Everything())
    async def handle(message: RawMessage, context: HandlingContext[RawMessage]) -> None:
        driver.log.handled[message.raw_data] += 1

    await driver.publish(*numbered(10))

    def inside(inner: Session) -> Session:
        driver.capabilities = inner.capabilities
        return _Refuses(inner, script, seen)

    adapter = driver.adapter(processor, inside=inside)
    async with driver.serving(adapter):
        await driver.until(lambda: len(seen) == 2, "two refused settlements")
        await driver.until_empty()
        check(set(driver.log.handled.values()) == {1}, "a message was handled again after its settlement was refused")
        if faults > len(seen) and not driver.harness.ends:
            script.append(None)
            await driver.publish(b"10")
            await driver.until(lambda: len(seen) == faults, "a connection that dies during a settlement")
            if driver.capabilities and driver.capabilities.commit == "each":
                # A broker may count a message that is on its way to a dead connection as delivered. Only the log
                # shows its redelivery.
                seconds = WAIT_SECONDS + driver.harness.redelivery_seconds
                redelivery = "a redelivery after the connection died"
                await driver.until(lambda: driver.log.handled[b"10"] > 1, redelivery, seconds)
            await driver.until_empty()
    check(len(driver.log.handled) == len(driver.log.published), "not every message was handled")
    return CaseOutcome.passed
