"""Cases 32 to 37 and 58: leases are renewed until their handlers end, whatever the wall clock shows."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

from missive.app.context import HandlingContext
from missive.app.processor import Processor
from missive.engine.runtime import Runtime
from missive.matchers import Everything
from missive.messages import RawMessage
from missive.testing.conformance.catalogue import CaseOutcome, case
from missive.testing.conformance.checks import ConformanceError, check
from missive.testing.conformance.driver import Driver, numbered
from missive.transport import Session, SettlementResult

_SHORT = 5.0


async def _without_lease(driver: Driver, session: Session) -> CaseOutcome:
    """Prove that a session without a renewable lease refuses `extend`."""
    await driver.publish(b"x")
    taken = await driver.take(await driver.open() if driver.harness.ends else session, 1)
    with contextlib.suppress(NotImplementedError):
        await session.extend(taken)
        raise ConformanceError("no renewable lease is declared, but extend() was accepted")
    if driver.harness.reads_once:
        await driver.settle(session, taken)
    return CaseOutcome.refused


def _leased(session: Session) -> bool:
    return session.capabilities.lease is not None and session.capabilities.renewable


async def _once(driver: Driver, count: int, *, stop_early: bool = False) -> CaseOutcome:
    """Handle messages for three leases, with a second consumer that would take a message whose lease ended."""
    session = await driver.open()
    if not _leased(session):
        return await _without_lease(driver, session)
    lease = session.capabilities.lease or 0.0
    await driver.close(session)
    processor = Processor(name="conformance", dlq=driver.dlq)
    started = asyncio.Event()

    @processor.handle_for(Everything())
    async def handle(message: RawMessage, context: HandlingContext[RawMessage]) -> None:
        driver.log.handled[message.raw_data] += 1
        started.set()
        await asyncio.sleep(3 * lease / count)

    await driver.publish(*numbered(count))
    async with driver.serving(driver.adapter(processor)):
        await driver.until(started.is_set, "a handler to start")
        if not stop_early:
            async with driver.serving(driver.adapter(processor)):
                await driver.until(lambda: len(driver.log.handled) == count, "every message to be handled")
                await asyncio.sleep(2 * lease if count == 1 else 0)
    check(set(driver.log.handled.values()) == {1}, "a message was handled twice")
    return CaseOutcome.passed


@case(32)
async def three_leases(driver: Driver) -> CaseOutcome:
    """A handler that takes three leases runs once, although a second consumer waits for the lease to end."""
    return await _once(driver, 1)


@case(33)
async def while_draining(driver: Driver) -> CaseOutcome:
    """The engine renews leases during a drain: a drained handler that takes three leases runs once."""
    return await _once(driver, 1, stop_early=True)


@case(34)
async def lost(driver: Driver) -> CaseOutcome:
    """The renewal of a lease that another consumer holds is fenced."""
    session = await driver.open()
    if not _leased(session):
        return await _without_lease(driver, session)
    await driver.publish(b"0")
    taken = await driver.take(session, 1)
    other = await driver.open()
    again = await driver.take(other, 1, driver.harness.redelivery_seconds)
    results = await session.extend(taken)
    check(
        list(results) == [SettlementResult.fenced],
        f"the renewal of a lost lease is {results[0].value} instead of fenced",
    )
    check(list(await other.extend(again)) == [SettlementResult.confirmed], "the renewal by the owner was refused")
    await driver.settle(other, again)
    return CaseOutcome.passed


@case(35)
async def short(driver: Driver) -> CaseOutcome:
    """Leases of five seconds or less work. The kit asks for such a lease."""
    session = await driver.open()
    if not _leased(session):
        return await _without_lease(driver, session)
    check((session.capabilities.lease or 0) <= _SHORT, "the lease is longer than five seconds")
    await driver.publish(b"0")
    taken = await driver.take(session, 1)
    for _ in range(4):
        await asyncio.sleep((session.capabilities.lease or 0) / 2)
        check(list(await session.extend(taken)) == [SettlementResult.confirmed], "a renewal in time was refused")
    await driver.settle(session, taken)
    return CaseOutcome.passed


@case(36)
async def batches(driver: Driver) -> CaseOutcome:
    """One call renews many leases and reports a result for each."""
    session = await driver.open()
    if not _leased(session):
        return await _without_lease(driver, session)
    await driver.publish(*numbered(50))
    taken = await driver.take(session, 50)
    results = await session.extend(taken)
    check(list(results) == [SettlementResult.confirmed] * 50, "not all of the 50 leases were renewed")
    await driver.settle(session, taken)
    return CaseOutcome.passed


@case(37)
async def queued(driver: Driver) -> CaseOutcome:
    """Messages that wait behind a running handler are renewed or released: none is handled twice."""
    return await _once(driver, 4)


@contextlib.contextmanager
def _jumping() -> Iterator[Callable[[float], None]]:
    """Give engines a wall clock that a case can change; yield a function that sets its offset in seconds."""
    offset = 0.0

    def jump(seconds: float) -> None:
        nonlocal offset
        offset = seconds

    original = Runtime.time
    Runtime.time = lambda self: original(self) + offset  # type: ignore[method-assign]
    try:
        yield jump
    finally:
        Runtime.time = original  # type: ignore[method-assign]


@case(58)
async def clock(driver: Driver) -> CaseOutcome:
    """A wall clock that jumps an hour forward and two back loses nothing, and stalls no handler, retry or rate."""
    session = await driver.open()
    lease = (session.capabilities.lease or 0.0) if _leased(session) else 0.2
    await driver.close(session)
    processor = Processor(name="conformance", dlq=driver.dlq, concurrency=4)
    handled, tried = driver.log.handled, set[bytes]()
    count = 120

    @processor.handle_for(Everything(), ordered_by=lambda _: None, rate_limit="20/100ms")
    async def handle(message: RawMessage, context: HandlingContext[RawMessage]) -> None:
        number = int(message.raw_data)
        if number % 10 == 0 and message.raw_data not in tried:
            tried.add(message.raw_data)
            context.retry(0.1)
            return
        await asyncio.sleep(1.5 * lease if number in (count // 3, 2 * count // 3) else 0.003)
        handled[message.raw_data] += 1

    await driver.publish(*numbered(count))
    with _jumping() as jump:
        async with driver.serving(driver.adapter(processor)):
            for goal, seconds in ((count // 4, 3600.0), (count // 2, -3600.0), (3 * count // 4, 0.0)):
                await driver.until(lambda goal=goal: len(handled) >= goal, "progress")  # type: ignore[misc]
                jump(seconds)
            await driver.until(lambda: len(handled) == count, "every message to be handled")
            await driver.until_empty()
    # A jump ends leases that use the wall clock, so that the messages in flight are redelivered.
    driver.duplicates, driver.faults = sum(handled.values()) - count, 3
    check(not driver.dead_letters(), "the jump caused dead letters")
    return CaseOutcome.passed
