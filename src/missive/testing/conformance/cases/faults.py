"""Cases 45 to 51: brokers, connections and workers that fail under load."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from missive.app.context import HandlingContext
from missive.app.processor import Processor
from missive.engine.intake import watchdog
from missive.errors import Transient
from missive.matchers import Everything
from missive.messages import RawMessage
from missive.testing.conformance import processes
from missive.testing.conformance.catalogue import CaseOutcome, case
from missive.testing.conformance.checks import check
from missive.testing.conformance.driver import WAIT_SECONDS
from missive.testing.conformance.proxy import Fault
from missive.testing.conformance.wrapping import WrappedSession
from missive.transport import Credit, Delivery, Disposition, Session, Settlement, SettlementResult, Watermark

if TYPE_CHECKING:
    from missive.testing.conformance.driver import Driver

_ANSWER = 5.0
_LOAD = 600
_DEEP_LOAD = 5000
_CREDIT = 100
"""How much an engine has in flight: what may be handled again after a fault, of a load that is larger."""


async def _under_load(
    driver: Driver, hurt: Callable[[int], Awaitable[None]], times: int, *, address: tuple[str, int] | None = None
) -> CaseOutcome:
    """Hurt it again and again while the engine works; all is handled, and little of it twice."""
    count = _DEEP_LOAD if driver.deep else _LOAD
    processor = Processor(name="conformance", dlq=driver.dlq, concurrency=4)

    @processor.handle_for(Everything())
    async def handle(message: RawMessage, context: HandlingContext[RawMessage]) -> None:
        await asyncio.sleep(0.005)
        driver.log.handled[message.raw_data] += 1

    handled = driver.log.handled
    await driver.publish(*(b"%d" % number for number in range(count)))
    options: dict[str, Any] = {} if address is None else {"address": address}
    with driver.limited(Credit(_CREDIT, 64 << 20)):
        async with driver.serving(driver.adapter(processor, **options)):
            for turn in range(times):
                goal = count * (turn + 1) // (times + 2)
                await driver.until(lambda goal=goal: len(handled) >= goal, "progress", 60)  # type: ignore[misc]
                await hurt(turn)
            await driver.until(lambda: len(handled) == count, "all handled", 90)
            await driver.until_empty()
    driver.duplicates, driver.faults = sum(handled.values()) - count, times
    return CaseOutcome.passed


@case(45)
async def broker_restarted(driver: Driver) -> CaseOutcome:
    """The broker is stopped in good order under load, and started; nothing is lost."""
    harness = driver.harness
    if not harness.broker:
        return CaseOutcome.refused

    async def hurt(_turn: int) -> None:
        await driver.in_thread(harness.stop)
        await driver.in_thread(harness.start)

    return await _under_load(driver, hurt, 5 if driver.deep else 1)


@case(46)
async def broker_killed(driver: Driver) -> CaseOutcome:
    """The broker is killed under load, again and again; nothing is lost."""
    harness = driver.harness
    if not harness.broker:
        return CaseOutcome.refused

    async def hurt(_turn: int) -> None:
        driver.forgotten += min(harness.forgotten_settlements, sum(driver.log.handled.values()))
        await driver.in_thread(harness.kill)
        await driver.in_thread(harness.start)

    return await _under_load(driver, hurt, 10 if driver.deep else 1)


@case(47)
async def half_open(driver: Driver) -> CaseOutcome:
    """Connections that say nothing any more, and are not closed, are noticed; the work goes on over new ones."""
    if driver.harness.address is None:
        return CaseOutcome.refused
    # The watchdog's own pace is half a minute, which the long form keeps.
    pace = (watchdog.EVERY, watchdog.ANSWERS_WITHIN)
    if not driver.deep:
        watchdog.EVERY, watchdog.ANSWERS_WITHIN = 0.5, 1.5
    try:
        with driver.proxy() as proxy:

            async def hurt(_turn: int) -> None:
                proxy.hang()

            return await _under_load(driver, hurt, 1, address=proxy.address)
    finally:
        watchdog.EVERY, watchdog.ANSWERS_WITHIN = pace


@case(48)
async def bad_network(driver: Driver) -> CaseOutcome:
    """Latency, resets and frames that are cut off lose nothing."""
    if driver.harness.address is None:
        return CaseOutcome.refused
    with driver.proxy() as proxy:

        async def hurt(turn: int) -> None:
            if turn % 3 == 0:
                proxy.reset()
            elif turn % 3 == 1:
                proxy.set(Fault.truncate)
                await asyncio.sleep(0.3)
            else:
                proxy.set(latency=0.02)

        return await _under_load(driver, hurt, 3, address=proxy.address)


@case(49)
async def between(driver: Driver) -> CaseOutcome:
    """A connection that dies after the handler and before the ack brings the message again."""
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
        results = await _settled_in_vain(session, taken[0])
        check(all(one in ("unknown", "failed") for one in results), "settled over a connection that is gone")
        await driver.discard(session)
    return CaseOutcome.passed


async def _settled_in_vain(session: Session, delivery: Delivery) -> Sequence[SettlementResult]:
    """Settle over a connection that is gone; returns what was answered, which is nothing where it raises or waits."""
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
    """Settles nothing as often as its script says, and as it says: an answer, or None for a connection that dies."""

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
            raise Transient("the connection is gone, on purpose")
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
    """A settlement that is refused for now, or of which nothing is known, is tried again, and its handler is not."""
    script: list[SettlementResult | None] = [SettlementResult.failed, SettlementResult.unknown]
    seen: list[SettlementResult | None] = []
    processor = Processor(name="conformance", dlq=driver.dlq)
    settled = len(script) + (not driver.harness.reads_once)

    @processor.handle_for(Everything())
    async def handle(message: RawMessage, context: HandlingContext[RawMessage]) -> None:
        driver.log.handled[message.raw_data] += 1

    await driver.publish(*(b"%d" % number for number in range(10)))

    def inside(inner: Session) -> Session:
        driver.capabilities = inner.capabilities
        return _Refuses(inner, script, seen)

    adapter = driver.adapter(processor, inside=inside)
    async with driver.serving(adapter):
        await driver.until(lambda: len(seen) == 2, "two settlements that are refused")
        await driver.until_empty()
        check(set(driver.log.handled.values()) == {1}, "what was refused for now was handled again")
        if settled > len(seen) and not driver.harness.ends:
            script.append(None)
            await driver.publish(b"10")
            await driver.until(lambda: len(seen) == settled, "a connection that dies over a settlement")
            if driver.capabilities and driver.capabilities.commit == "each":
                # A broker counts what is on its way to nobody as gone: that it came again is seen here only.
                seconds = WAIT_SECONDS + driver.harness.redelivery_seconds
                again = "what was settled by a dead connection"
                await driver.until(lambda: driver.log.handled[b"10"] > 1, again, seconds)
            await driver.until_empty()
    check(len(driver.log.handled) == len(driver.log.published), "not all were handled")
    return CaseOutcome.passed


_WORKER = """
import os, time
import missive
from missive.transport import Credit
from missive.engine.intake import source as intake
from missive.matchers import Everything

intake.CREDIT = Credit(%d, 64 << 20)

proc = missive.Processor(name="conformance")
out = os.open("handled.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

@proc.handle_for(Everything())
def handle(message, context):
    time.sleep(0.001)
    os.write(out, message.raw_data + b"\\n")
"""


@case(51)
async def worker_killed(driver: Driver) -> CaseOutcome:
    """The worker is killed with SIGKILL again and again; nothing is lost."""
    url = driver.harness.url
    if url is None:
        return CaseOutcome.refused
    kills, count = (100, 20_000) if driver.deep else (3, 1500)
    (driver.directory / "conformance_worker.py").write_text(_WORKER % _CREDIT)
    out = driver.directory / "handled.txt"
    await driver.publish(*(b"%d" % number for number in range(count)))

    def lines() -> list[bytes]:
        return out.read_bytes().split() if out.exists() else []

    chance = random.Random(count)  # noqa: S311 - when to kill is no secret
    command = ("run", "conformance_worker.py:proc", "--from", url, "--dlq", driver.dlq)
    for _ in range(kills):
        async with processes.running(driver.directory, *command):
            goal = len(lines()) + chance.randrange(1, count // (kills + 2))
            await driver.until(lambda goal=goal: len(lines()) >= goal or len(set(lines())) == count, "progress", 60)  # type: ignore[misc]
    async with processes.running(driver.directory, *command) as worker:
        await driver.until(
            lambda: len(set(lines())) == count, "every message handled", 60 + driver.harness.redelivery_seconds
        )
        await processes.stop(worker)
    driver.log.handled.update(lines())
    driver.duplicates, driver.faults, driver.credit = len(lines()) - count, kills, _CREDIT
    return CaseOutcome.passed
