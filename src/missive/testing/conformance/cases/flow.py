"""Cases 22 to 25: idle sessions cost nothing, and intake obeys rates, pauses and stops."""

from __future__ import annotations

import asyncio
import contextlib
import time

from missive.app.context import HandlingContext
from missive.app.processor import Processor
from missive.matchers import Everything
from missive.messages import RawMessage
from missive.testing.conformance.catalogue import CaseOutcome, case
from missive.testing.conformance.checks import ConformanceError, check
from missive.testing.conformance.driver import Driver, numbered
from missive.transport import Credit, Disposition

_IDLE_SECONDS = 1.0
_IDLE_CPU = 0.4


@case(22)
async def idle(driver: Driver) -> CaseOutcome:
    """A session that waits for messages uses almost no processor time."""
    session = await driver.open()
    if driver.harness.ends:
        check(await driver.fetch(session, Credit(1, 1)) == (), "an empty source delivered a message")
        return CaseOutcome.refused
    waiting = asyncio.ensure_future(session.fetch(Credit(10, 1000)))
    before = time.process_time()
    await asyncio.sleep(_IDLE_SECONDS)
    used = time.process_time() - before
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting
    check(used < _IDLE_CPU, f"an idle second used {used:.2f} s of processor time")
    return CaseOutcome.passed


@case(23)
async def rate(driver: Driver) -> CaseOutcome:
    """No period of half a second has more handler starts than the rate limit allows."""
    processor = Processor(name="conformance", dlq=driver.dlq)
    begun: list[float] = []

    @processor.handle_for(Everything(), rate_limit="10/500ms")
    async def handle(message: RawMessage, context: HandlingContext[RawMessage]) -> None:
        begun.append(time.monotonic())
        driver.log.handled[message.raw_data] += 1

    await driver.publish(*numbered(30))
    async with driver.serving(driver.adapter(processor)):
        await driver.until(lambda: len(begun) >= 30, "every message to be handled")
    most = max(sum(1 for later in begun if first <= later < first + 0.475) for first in begun)
    check(most <= 10, f"{most} handlers began within half a second, and the limit is 10")
    return CaseOutcome.passed


@case(24)
async def pause(driver: Driver) -> CaseOutcome:
    """A paused lane delivers nothing and resumes at its position. A session without pauses refuses the call."""
    session = await driver.open()
    if not session.capabilities.pauses:
        for call in (session.pause, session.resume):
            with contextlib.suppress(NotImplementedError):
                await call(["lane"])
                raise ConformanceError("pausing is not declared, but pause() or resume() was accepted")
        return CaseOutcome.refused
    await driver.publish(*numbered(10))
    taken = await driver.take(session, 1)
    lanes = set(driver.hosts[-1].gained) or {taken[0].lane or ""}
    await session.pause(lanes)
    taken += await driver.take(session, 9, 1.0, least=0)  # messages that the session read before the pause
    await driver.publish(*numbered(10, 20))
    check(not await driver.take(session, 1, 1.0, least=0), "a paused lane delivered a message")
    await session.resume(lanes)
    taken += await driver.take(session, 20 - len(taken))
    await driver.settle(session, taken)
    return CaseOutcome.passed


@case(25)
async def released(driver: Driver) -> CaseOutcome:
    """Released messages are redelivered at once, or at the end of their lease, as declared."""
    await driver.publish(*numbered(10))
    session = await driver.open()
    taken = await driver.take(session, 5)
    left = list(await session.stop_intake())
    driver.log.receive(left)
    release = session.capabilities.release
    if release == "none":
        if session.capabilities.durable is False:
            driver.log.confirmed.update(one.body for one in [*taken, *left])
            driver.log.confirmed.update(driver.log.undelivered)
            driver.log.delivered.update(driver.log.undelivered)
        return CaseOutcome.refused
    await driver.settle(session, [*taken, *left], Disposition.release)
    seconds = driver.harness.redelivery_seconds
    if release == "native" and session.capabilities.commit == "each":
        lease = session.capabilities.lease
        seconds = seconds if lease is None else min(seconds, max(0.6 * lease, 0.5))
        other = await driver.open()
        again = await driver.take(other, 10, seconds)
        await driver.settle(other, again)
    return CaseOutcome.passed
