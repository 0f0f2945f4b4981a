"""Cases 7 to 17: a settlement settles its own message, and no other."""

from __future__ import annotations

import contextlib
import time

from missive.app.context import HandlingContext
from missive.app.processor import Processor
from missive.errors import MissiveError, Transient
from missive.matchers import Everything
from missive.messages import RawMessage
from missive.testing.conformance.catalogue import CaseOutcome, case
from missive.testing.conformance.checks import ConformanceError, check
from missive.testing.conformance.driver import Driver, numbered
from missive.transport import Delivery, Disposition, Session, Settlement, SettlementResult, Watermark

_DELAY = 0.5
_TOLERANCE = 1.5


@case(7)
async def confirmed(driver: Driver) -> CaseOutcome:
    """A broker that is killed never redelivers a message whose ack it confirmed."""
    await driver.publish(*numbered(20))
    session = await driver.open()
    taken = await driver.take(session, 20)
    results = await driver.settle(session, taken[:10])
    expected = SettlementResult.confirmed if session.capabilities.replies else SettlementResult.sent
    check(
        set(results) == {expected},
        f"the results are {sorted(one.value for one in set(results))} instead of {expected.value}",
    )
    if not session.capabilities.durable:
        await driver.settle(session, taken[10:])
        return CaseOutcome.refused
    await driver.crash(session)
    return CaseOutcome.passed  # the log refuses a redelivery of acked messages, and the balance needs the others


@case(8)
async def unsettled(driver: Driver) -> CaseOutcome:
    """A broker that is killed redelivers every delivered and unsettled message."""
    await driver.publish(*numbered(20))
    session = await driver.open()
    taken = await driver.take(session, 20)
    if not session.capabilities.durable:
        check(session.capabilities.release == "none", "the transport is not durable, but `release` is not `none`")
        await driver.settle(session, taken)
        return CaseOutcome.refused
    await driver.crash(session)
    await _check_redelivery(driver, taken)
    return CaseOutcome.passed


async def _check_redelivery(driver: Driver, expected: list[Delivery]) -> None:
    """Open a session, prove that it receives exactly the expected messages again, and ack them."""
    session = await driver.open()
    again = await driver.take(session, len(expected), driver.harness.redelivery_seconds)
    check(
        sorted(one.body for one in again) == sorted(one.body for one in expected),
        "the redelivered messages are not the unsettled ones",
    )
    await driver.settle(session, again)


@case(9)
async def retry(driver: Driver) -> CaseOutcome:
    """A retried message is handled again, and is gone once it succeeds."""
    return await _retried(driver, 0.0)


@case(10)
async def delay(driver: Driver) -> CaseOutcome:
    """A retry comes after its delay, and not much later."""
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
        await driver.until(lambda: driver.log.handled, "the second attempt")
    check(len(tried) == 2, f"the message had {len(tried)} attempts instead of 2")
    waited = tried[1] - tried[0]
    check(
        seconds <= waited + 0.02 and waited < seconds + _TOLERANCE,
        f"the retry came after {waited:.2f} s instead of {seconds:g} s",
    )
    return CaseOutcome.passed


@case(11)
async def rejected(driver: Driver) -> CaseOutcome:
    """A dead-lettered or discarded message is never redelivered."""
    processor = Processor(name="conformance", dlq=driver.dlq)

    @processor.handle_for(Everything())
    async def handle(message: RawMessage, context: HandlingContext[RawMessage]) -> None:
        driver.log.handled[message.raw_data] += 1
        if message.raw_data == b"0":
            context.discard("unwanted")
        else:
            context.dead_letter("refused")

    await driver.publish(*numbered(4))
    async with driver.serving(driver.adapter(processor)):
        await driver.until(lambda: len(driver.log.handled) == 4, "every message to be rejected")
    check(set(driver.log.handled.values()) == {1}, "a rejected message was handled twice")
    return CaseOutcome.passed


@case(12)
async def settled_twice(driver: Driver) -> CaseOutcome:
    """A second ack, or a release after an ack, is harmless: the session works, and no other message is settled."""
    await driver.publish(*numbered(4))
    session = await driver.open()
    taken = await driver.take(session, 4)
    await driver.settle(session, taken[:1])
    for disposition in (Disposition.ack, Disposition.release):
        if disposition is Disposition.release and session.capabilities.commit == "cumulative":
            continue
        results = await session.settle([Settlement(taken[0], disposition)])
        check(len(results) == 1, "a settlement has no result")
        check(
            SettlementResult.failed not in results,
            "a second settlement has the result failed, so that an engine would try it for ever",
        )
    await driver.settle(session, taken[1:2])
    if driver.harness.reads_once:
        await driver.settle(session, taken[2:])
        return CaseOutcome.passed
    await driver.close(session)
    await _check_redelivery(driver, taken[2:])
    return CaseOutcome.passed


@case(13)
async def partial(driver: Driver) -> CaseOutcome:
    """One batch settles owned messages and fences lost ones, with a result for each in order."""
    lost, session, taken = await _lost_lease(driver)
    if lost is None and session.capabilities.fences:
        return await _lost_lane(driver, session, taken)
    if lost is None:
        results = await driver.settle(session, taken)
        check(SettlementResult.fenced not in results, "a result is fenced, but `fences` is not declared")
        return CaseOutcome.refused
    await driver.publish(b"fresh")
    fresh = await driver.take(session, 1)
    results = await session.settle([Settlement(lost, Disposition.ack), Settlement(fresh[0], Disposition.ack)])
    check(
        list(results) == [SettlementResult.fenced, SettlementResult.confirmed],
        f"the results are {[one.value for one in results]} instead of fenced and confirmed",
    )
    driver.log.confirmed.add(b"fresh")
    return CaseOutcome.passed


@case(16)
async def fenced(driver: Driver) -> CaseOutcome:
    """A late ack of a message that another consumer holds is fenced, and leaves the message alone."""
    lost, session, taken = await _lost_lease(driver)
    if lost is None and session.capabilities.fences:
        return await _lost_lane(driver, session, taken)
    if lost is not None:
        results = await session.settle([Settlement(lost, Disposition.ack)])
        check(
            list(results) == [SettlementResult.fenced],
            f"the result of a late ack is {results[0].value} instead of fenced",
        )
        return CaseOutcome.passed
    if driver.harness.reads_once:
        await driver.settle(session, taken)
        return CaseOutcome.refused
    # Without fencing, a closed session must not settle its deliveries.
    await driver.close(session)
    if session.capabilities.commit == "cumulative":
        return CaseOutcome.refused
    try:
        results = await session.settle([Settlement(taken[0], Disposition.ack)])
    except (MissiveError, RuntimeError):
        return CaseOutcome.refused
    raise ConformanceError(f"a closed session accepted an ack: {results[0].value}")


async def _lost_lease(driver: Driver) -> tuple[Delivery | None, Session, list[Delivery]]:
    """Let a lease expire, so that a second session takes the message.

    Return the lost delivery of the first session, the first session, and the deliveries of the second. Without leases
    or fencing, return None, the first session and its deliveries.
    """
    await driver.publish(b"0")
    session = await driver.open()
    taken = await driver.take(session, 1)
    if not session.capabilities.fences:
        return None, session, taken
    if session.capabilities.lease is None:
        check(
            session.capabilities.commit == "cumulative",
            "`fences` is declared, but the adapter has no leases and no lanes",
        )
        return None, session, taken
    other = await driver.open()
    again = await driver.take(other, 1, driver.harness.redelivery_seconds)
    check(again[0].body == taken[0].body, "the second session received a different message")
    return taken[0], session, again


async def _lost_lane(driver: Driver, session: Session, taken: list[Delivery]) -> CaseOutcome:
    """Prove that a closed session cannot commit its lane, and that the next session receives the message."""
    await driver.close(session)
    results = await session.commit({one.lane: Watermark(one.position or 0) for one in taken})
    check(
        set(results.values()) == {SettlementResult.fenced},
        f"the results of a late commit are {[one.value for one in results.values()]} instead of fenced",
    )
    await _check_redelivery(driver, taken)
    return CaseOutcome.passed


@case(14)
async def lost_reply(driver: Driver) -> CaseOutcome:
    """A settlement without a reply is unknown or raises Transient, and the ack can be repeated safely."""
    address = driver.harness.address
    await driver.publish(*numbered(3))
    if address is None:
        session = await driver.open()
        await driver.settle(session, await driver.take(session, 3))
        return CaseOutcome.refused
    with driver.proxy() as proxy:
        session = await driver.open(address=proxy.address)
        taken = await driver.take(session, 3)
        proxy.reset()
        if session.capabilities.commit == "cumulative":
            with contextlib.suppress(Transient):  # a client that reconnects on its own commits in the end
                await driver.settle(session, taken)
            await driver.discard(session)
            return CaseOutcome.passed
        try:
            results = await session.settle([Settlement(one, Disposition.ack) for one in taken])
        except Transient:
            results = []
        replies = session.capabilities.replies
        check(not replies or SettlementResult.confirmed not in results, "an ack was confirmed over a closed connection")
        driver.log.requested.update(one.body for one in taken)
        await driver.discard(session)
    return CaseOutcome.passed


@case(15)
async def out_of_order(driver: Driver) -> CaseOutcome:
    """Acks out of order never settle an incomplete message."""
    await driver.publish(*numbered(10))
    session = await driver.open()
    taken = await driver.take(session, 10)
    for delivery in reversed(taken[1:]):
        await driver.settle(session, [delivery])
    return await _only_these_are_redelivered(driver, session, taken[:1])


@case(17)
async def one_not_another(driver: Driver) -> CaseOutcome:
    """Acks of every second message leave the messages between them unsettled."""
    await driver.publish(*numbered(10))
    session = await driver.open()
    taken = await driver.take(session, 10)
    await driver.settle(session, taken[1::2])
    return await _only_these_are_redelivered(driver, session, taken[0::2])


async def _only_these_are_redelivered(driver: Driver, session: Session, left: list[Delivery]) -> CaseOutcome:
    """Close the session, and prove that the next one receives the unsettled messages."""
    if driver.harness.reads_once:
        await driver.settle(session, left)
        return CaseOutcome.refused
    await driver.close(session)
    session = await driver.open()
    # A watermark that stores a position only redelivers every message after it.
    exact = session.capabilities.commit == "each"
    again = await driver.take(session, len(left), driver.harness.redelivery_seconds)
    if not exact:
        again += await driver.take(session, 10 - len(again), 1.0, least=0)
    missing = {one.body for one in left} - {one.body for one in again}
    check(not missing, f"{len(missing)} messages were settled without a request")
    await driver.settle(session, again)
    return CaseOutcome.passed
