"""Cases 7 to 17: what is settled is settled, and nothing else is."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from missive.app.context import HandlingContext
from missive.app.processor import Processor
from missive.errors import MissiveError, Transient
from missive.matchers import Everything
from missive.messages import RawMessage
from missive.testing.conformance.catalogue import CaseOutcome, case
from missive.testing.conformance.checks import ConformanceError, check
from missive.transport import Delivery, Disposition, Session, Settlement, SettlementResult, Watermark

if TYPE_CHECKING:
    from missive.testing.conformance.driver import Driver

_DELAY = 0.5
_TOLERANCE = 1.5


def _bodies(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


@case(7)
async def confirmed(driver: Driver) -> CaseOutcome:
    """What was confirmed before the broker was killed never comes again."""
    await driver.publish(*_bodies(20))
    session = await driver.open()
    taken = await driver.take(session, 20)
    results = await driver.settle(session, taken[:10])
    expected = SettlementResult.confirmed if session.capabilities.replies else SettlementResult.sent
    check(set(results) == {expected}, f"results are {set(results)}")
    if not session.capabilities.durable:
        await driver.settle(session, taken[10:])
        return CaseOutcome.refused
    await driver.crash(session)
    return CaseOutcome.passed  # the log refuses a redelivered ack, and the balance needs the other messages


@case(8)
async def unsettled(driver: Driver) -> CaseOutcome:
    """What was delivered and not settled when the broker was killed comes again, all of it."""
    await driver.publish(*_bodies(20))
    session = await driver.open()
    taken = await driver.take(session, 20)
    if not session.capabilities.durable:
        check(session.capabilities.release == "none", "nothing survives, and release is not none")
        await driver.settle(session, taken)
        return CaseOutcome.refused
    await driver.crash(session)
    session = await driver.open()
    again = await driver.take(session, 20, driver.harness.redelivery_seconds)
    check(sorted(one.body for one in again) == sorted(_bodies(20)), "others came than were unsettled")
    await driver.settle(session, again)
    return CaseOutcome.passed


@case(9)
async def retry(driver: Driver) -> CaseOutcome:
    """A message that is to be tried again is, and is gone once it succeeds."""
    return await _retried(driver, 0.0)


@case(10)
async def delay(driver: Driver) -> CaseOutcome:
    """The delay of a retry is kept: not shorter, and not much longer."""
    return await _retried(driver, _DELAY)


async def _retried(driver: Driver, seconds: float) -> CaseOutcome:
    processor = Processor(name="conformance", dlq=driver.dlq)
    tried: list[float] = []

    @processor.handle_for(Everything())
    async def handle(message: RawMessage, context: HandlingContext[RawMessage]) -> None:
        tried.append(time.monotonic())
        if len(tried) == 1:
            context.retry(seconds)
        else:
            driver.log.handled[message.raw_data] += 1

    await driver.publish(b"again")
    async with driver.serving(driver.adapter(processor)):
        await driver.until(lambda: driver.log.handled, "a second attempt")
    check(len(tried) == 2, f"it was tried {len(tried)} times")
    waited = tried[1] - tried[0]
    check(seconds <= waited + 0.02 and waited < seconds + _TOLERANCE, f"it came again after {waited:.2f} s")
    return CaseOutcome.passed


@case(11)
async def rejected(driver: Driver) -> CaseOutcome:
    """What was dead-lettered or discarded never comes again."""
    processor = Processor(name="conformance", dlq=driver.dlq)

    @processor.handle_for(Everything())
    async def handle(message: RawMessage, context: HandlingContext[RawMessage]) -> None:
        driver.log.handled[message.raw_data] += 1
        if message.raw_data == b"0":
            context.discard("unwanted")
        else:
            context.dead_letter("refused")

    await driver.publish(*_bodies(4))
    async with driver.serving(driver.adapter(processor)):
        await driver.until(lambda: len(driver.log.handled) == 4, "all rejected")
    check(set(driver.log.handled.values()) == {1}, "a rejected message was handled twice")
    return CaseOutcome.passed


@case(12)
async def twice(driver: Driver) -> CaseOutcome:
    """Settling twice, or releasing what was acked, harms nothing: the session goes on, and no other is settled."""
    await driver.publish(*_bodies(4))
    session = await driver.open()
    taken = await driver.take(session, 4)
    await driver.settle(session, taken[:1])
    for disposition in (Disposition.ack, Disposition.release):
        if disposition is Disposition.release and session.capabilities.commit == "cumulative":
            continue
        results = await session.settle([Settlement(taken[0], disposition)])
        check(len(results) == 1, "a result is missing")
        check(SettlementResult.failed not in results, "a second settlement would be tried for ever")
    await driver.settle(session, taken[1:2])
    if driver.harness.reads_once:
        await driver.settle(session, taken[2:])
        return CaseOutcome.passed
    await driver.close(session)
    session = await driver.open()
    again = await driver.take(session, 2, driver.harness.redelivery_seconds)
    check({one.body for one in again} == {one.body for one in taken[2:]}, "others came than were unsettled")
    await driver.settle(session, again)
    return CaseOutcome.passed


@case(13)
async def partial(driver: Driver) -> CaseOutcome:
    """In one batch, what is still ours is settled, and what is not is reported: a result for each item, in order."""
    lost, session, taken = await _lost_lease(driver)
    if lost is None and session.capabilities.fences:
        return await _lost_lane(driver, session, taken)
    if lost is None:
        results = await driver.settle(session, taken)
        check(SettlementResult.fenced not in results, "fencing is not declared")
        return CaseOutcome.refused
    await driver.publish(b"fresh")
    fresh = await driver.take(session, 1)
    results = await session.settle([Settlement(lost, Disposition.ack), Settlement(fresh[0], Disposition.ack)])
    check(
        list(results) == [SettlementResult.fenced, SettlementResult.confirmed],
        f"the results are {[one.value for one in results]}",
    )
    driver.log.confirmed.add(b"fresh")
    return CaseOutcome.passed


@case(16)
async def fenced(driver: Driver) -> CaseOutcome:
    """A late ack of what somebody else has by now is refused, and does nothing to it."""
    lost, session, taken = await _lost_lease(driver)
    if lost is None and session.capabilities.fences:
        return await _lost_lane(driver, session, taken)
    if lost is not None:
        results = await session.settle([Settlement(lost, Disposition.ack)])
        check(list(results) == [SettlementResult.fenced], f"the result is {results[0].value}")
        return CaseOutcome.passed
    if driver.harness.reads_once:
        await driver.settle(session, taken)
        return CaseOutcome.refused
    # Where nothing is fenced, a session's deliveries die with it.
    await driver.close(session)
    if session.capabilities.commit == "cumulative":
        return CaseOutcome.refused
    try:
        results = await session.settle([Settlement(taken[0], Disposition.ack)])
    except (MissiveError, RuntimeError):
        return CaseOutcome.refused
    raise ConformanceError(f"a closed session settles: {results[0].value}")


async def _lost_lease(driver: Driver) -> tuple[Delivery | None, Session, list[Delivery]]:
    """Let a lease run out and another session take the message; returns the delivery of the first, where it fences."""
    await driver.publish(b"0")
    session = await driver.open()
    taken = await driver.take(session, 1)
    if not session.capabilities.fences:
        return None, session, taken
    if session.capabilities.lease is None:
        check(session.capabilities.commit == "cumulative", "it fences, and has neither leases nor lanes to lose")
        return None, session, taken
    other = await driver.open()
    again = await driver.take(other, 1, driver.harness.redelivery_seconds)
    check(again[0].body == taken[0].body, "another message came")
    return taken[0], session, again


async def _lost_lane(driver: Driver, session: Session, taken: list[Delivery]) -> CaseOutcome:
    """Commit a lane that has gone with its session: that is refused, and its message comes to the next."""
    await driver.close(session)
    results = await session.commit({one.lane: Watermark(one.position or 0) for one in taken})
    check(
        set(results.values()) == {SettlementResult.fenced}, f"the results are {[one.value for one in results.values()]}"
    )
    session = await driver.open()
    again = await driver.take(session, len(taken), driver.harness.redelivery_seconds)
    check([one.body for one in again] == [one.body for one in taken], "another message came")
    await driver.settle(session, again)
    return CaseOutcome.passed


@case(14)
async def lost_reply(driver: Driver) -> CaseOutcome:
    """A settlement whose answer is lost is unknown, or the connection is; to repeat it is safe."""
    address = driver.harness.address
    await driver.publish(*_bodies(3))
    if address is None:
        session = await driver.open()
        await driver.settle(session, await driver.take(session, 3))
        return CaseOutcome.refused
    with driver.proxy() as proxy:
        session = await driver.open(address=proxy.address)
        taken = await driver.take(session, 3)
        proxy.reset()
        if session.capabilities.commit == "cumulative":
            with contextlib.suppress(Transient):  # a client that connects again by itself commits in the end
                await driver.settle(session, taken)
            await driver.discard(session)
            return CaseOutcome.passed
        try:
            results = await session.settle([Settlement(one, Disposition.ack) for one in taken])
        except Transient:
            results = []
        replies = session.capabilities.replies
        check(not replies or SettlementResult.confirmed not in results, "confirmed over a connection that is gone")
        driver.log.requested.update(one.body for one in taken)
        await driver.discard(session)
    return CaseOutcome.passed


@case(15)
async def out_of_order(driver: Driver) -> CaseOutcome:
    """Acks out of order never settle what is not complete."""
    await driver.publish(*_bodies(10))
    session = await driver.open()
    taken = await driver.take(session, 10)
    for delivery in reversed(taken[1:]):
        await driver.settle(session, [delivery])
    return await _only_these_come_again(driver, session, taken[:1])


@case(17)
async def one_not_another(driver: Driver) -> CaseOutcome:
    """Settling every other message leaves those between unsettled."""
    await driver.publish(*_bodies(10))
    session = await driver.open()
    taken = await driver.take(session, 10)
    await driver.settle(session, taken[1::2])
    return await _only_these_come_again(driver, session, taken[0::2])


async def _only_these_come_again(driver: Driver, session: Session, left: list[Delivery]) -> CaseOutcome:
    if driver.harness.reads_once:
        await driver.settle(session, left)
        return CaseOutcome.refused
    await driver.close(session)
    session = await driver.open()
    # A mark without gaps brings again what came after it.
    exact = session.capabilities.commit == "each"
    again = await driver.take(session, len(left), driver.harness.redelivery_seconds)
    if not exact:
        again += await driver.take(session, 10 - len(again), 1.0, least=0)
    missing = {one.body for one in left} - {one.body for one in again}
    check(not missing, f"{len(missing)} messages were settled that nobody asked for")
    await driver.settle(session, again)
    return CaseOutcome.passed
