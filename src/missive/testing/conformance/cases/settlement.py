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
from missive.testing.conformance.driver import ConformanceError, check
from missive.transport import Delivery, Disposition, Session, Settlement, SettlementResult, Watermark

if TYPE_CHECKING:
    from missive.testing.conformance.driver import Driver

_DELAY = 0.5
_TOLERANCE = 1.5


def _bodies(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


@case(7)
async def confirmed(bench: Driver) -> CaseOutcome:
    """What was confirmed before the broker was killed never comes again."""
    await bench.publish(*_bodies(20))
    session = await bench.open()
    taken = await bench.take(session, 20)
    results = await bench.settle(session, taken[:10])
    expected = SettlementResult.confirmed if session.capabilities.replies else SettlementResult.sent
    check(set(results) == {expected}, f"results are {set(results)}")
    if not session.capabilities.durable:
        await bench.settle(session, taken[10:])
        return CaseOutcome.refused
    await bench.crash(session)
    return CaseOutcome.passed  # the ledger refuses what was confirmed, and wants the others


@case(8)
async def unsettled(bench: Driver) -> CaseOutcome:
    """What was delivered and not settled when the broker was killed comes again, all of it."""
    await bench.publish(*_bodies(20))
    session = await bench.open()
    taken = await bench.take(session, 20)
    if not session.capabilities.durable:
        check(session.capabilities.release == "none", "nothing survives, and release is not none")
        await bench.settle(session, taken)
        return CaseOutcome.refused
    await bench.crash(session)
    session = await bench.open()
    again = await bench.take(session, 20, bench.harness.again_seconds)
    check(sorted(one.body for one in again) == sorted(_bodies(20)), "others came than were unsettled")
    await bench.settle(session, again)
    return CaseOutcome.passed


@case(9)
async def retry(bench: Driver) -> CaseOutcome:
    """A message that is to be tried again is, and is gone once it succeeds."""
    return await _retried(bench, 0.0)


@case(10)
async def delay(bench: Driver) -> CaseOutcome:
    """The delay of a retry is kept: not shorter, and not much longer."""
    return await _retried(bench, _DELAY)


async def _retried(bench: Driver, seconds: float) -> CaseOutcome:
    processor = Processor(name="conformance", dlq=bench.dlq)
    tried: list[float] = []

    @processor.handle_for(Everything())
    async def handle(message: RawMessage, context: HandlingContext[RawMessage]) -> None:
        tried.append(time.monotonic())
        if len(tried) == 1:
            context.retry(seconds)
        else:
            bench.ledger.handled[message.raw_data] += 1

    await bench.publish(b"again")
    async with bench.serving(bench.adapter(processor)):
        await bench.until(lambda: bench.ledger.handled, "a second attempt")
    check(len(tried) == 2, f"it was tried {len(tried)} times")
    waited = tried[1] - tried[0]
    check(seconds <= waited + 0.02 and waited < seconds + _TOLERANCE, f"it came again after {waited:.2f} s")
    return CaseOutcome.passed


@case(11)
async def rejected(bench: Driver) -> CaseOutcome:
    """What was dead-lettered or discarded never comes again."""
    processor = Processor(name="conformance", dlq=bench.dlq)

    @processor.handle_for(Everything())
    async def handle(message: RawMessage, context: HandlingContext[RawMessage]) -> None:
        bench.ledger.handled[message.raw_data] += 1
        if message.raw_data == b"0":
            context.discard("unwanted")
        else:
            context.dead_letter("refused")

    await bench.publish(*_bodies(4))
    async with bench.serving(bench.adapter(processor)):
        await bench.until(lambda: len(bench.ledger.handled) == 4, "all rejected")
    check(set(bench.ledger.handled.values()) == {1}, "a rejected message was handled twice")
    return CaseOutcome.passed


@case(12)
async def twice(bench: Driver) -> CaseOutcome:
    """Settling twice, or releasing what was acked, harms nothing: the session goes on, and no other is settled."""
    await bench.publish(*_bodies(4))
    session = await bench.open()
    taken = await bench.take(session, 4)
    await bench.settle(session, taken[:1])
    for verb in (Disposition.ack, Disposition.release):
        if verb is Disposition.release and session.capabilities.commit == "cumulative":
            continue
        results = await session.settle([Settlement(taken[0], verb)])
        check(len(results) == 1, "a result is missing")
        check(SettlementResult.failed not in results, "a second settlement would be tried for ever")
    await bench.settle(session, taken[1:2])
    if bench.harness.reads_once:
        await bench.settle(session, taken[2:])
        return CaseOutcome.passed
    await bench.close(session)
    session = await bench.open()
    again = await bench.take(session, 2, bench.harness.again_seconds)
    check({one.body for one in again} == {one.body for one in taken[2:]}, "others came than were unsettled")
    await bench.settle(session, again)
    return CaseOutcome.passed


@case(13)
async def partial(bench: Driver) -> CaseOutcome:
    """In one batch, what is still ours is settled, and what is not is reported: a result for each item, in order."""
    lost, session, taken = await _lost_lease(bench)
    if lost is None and session.capabilities.fences:
        return await _lost_lane(bench, session, taken)
    if lost is None:
        results = await bench.settle(session, taken)
        check(SettlementResult.fenced not in results, "fencing is not declared")
        return CaseOutcome.refused
    await bench.publish(b"fresh")
    fresh = await bench.take(session, 1)
    results = await session.settle([Settlement(lost, Disposition.ack), Settlement(fresh[0], Disposition.ack)])
    check(
        list(results) == [SettlementResult.fenced, SettlementResult.confirmed],
        f"the results are {[one.value for one in results]}",
    )
    bench.ledger.confirmed.add(b"fresh")
    return CaseOutcome.passed


@case(16)
async def fenced(bench: Driver) -> CaseOutcome:
    """A late ack of what somebody else has by now is refused, and does nothing to it."""
    lost, session, taken = await _lost_lease(bench)
    if lost is None and session.capabilities.fences:
        return await _lost_lane(bench, session, taken)
    if lost is not None:
        results = await session.settle([Settlement(lost, Disposition.ack)])
        check(list(results) == [SettlementResult.fenced], f"the result is {results[0].value}")
        return CaseOutcome.passed
    if bench.harness.reads_once:
        await bench.settle(session, taken)
        return CaseOutcome.refused
    # Where nothing is fenced, a session's deliveries die with it.
    await bench.close(session)
    if session.capabilities.commit == "cumulative":
        return CaseOutcome.refused
    try:
        results = await session.settle([Settlement(taken[0], Disposition.ack)])
    except (MissiveError, RuntimeError):
        return CaseOutcome.refused
    raise ConformanceError(f"a closed session settles: {results[0].value}")


async def _lost_lease(bench: Driver) -> tuple[Delivery | None, Session, list[Delivery]]:
    """Let a lease run out and another session take the message; returns the delivery of the first, where it fences."""
    await bench.publish(b"0")
    session = await bench.open()
    taken = await bench.take(session, 1)
    if not session.capabilities.fences:
        return None, session, taken
    if session.capabilities.lease is None:
        check(session.capabilities.commit == "cumulative", "it fences, and has neither leases nor lanes to lose")
        return None, session, taken
    other = await bench.open()
    again = await bench.take(other, 1, bench.harness.again_seconds)
    check(again[0].body == taken[0].body, "another message came")
    return taken[0], session, again


async def _lost_lane(bench: Driver, session: Session, taken: list[Delivery]) -> CaseOutcome:
    """Commit a lane that has gone with its session: that is refused, and its message comes to the next."""
    await bench.close(session)
    results = await session.commit({one.lane: Watermark(one.position or 0) for one in taken})
    check(
        set(results.values()) == {SettlementResult.fenced}, f"the results are {[one.value for one in results.values()]}"
    )
    session = await bench.open()
    again = await bench.take(session, len(taken), bench.harness.again_seconds)
    check([one.body for one in again] == [one.body for one in taken], "another message came")
    await bench.settle(session, again)
    return CaseOutcome.passed


@case(14)
async def lost_reply(bench: Driver) -> CaseOutcome:
    """A settlement whose answer is lost is unknown, or the connection is; to repeat it is safe."""
    address = bench.harness.address
    await bench.publish(*_bodies(3))
    if address is None:
        session = await bench.open()
        await bench.settle(session, await bench.take(session, 3))
        return CaseOutcome.refused
    with bench.proxy() as proxy:
        session = await bench.open(address=proxy.address)
        taken = await bench.take(session, 3)
        proxy.reset()
        if session.capabilities.commit == "cumulative":
            with contextlib.suppress(Transient):  # a client that connects again by itself commits in the end
                await bench.settle(session, taken)
            await bench.drop(session)
            return CaseOutcome.passed
        try:
            results = await session.settle([Settlement(one, Disposition.ack) for one in taken])
        except Transient:
            results = []
        replies = session.capabilities.replies
        check(not replies or SettlementResult.confirmed not in results, "confirmed over a connection that is gone")
        bench.ledger.requested.update(one.body for one in taken)
        await bench.drop(session)
    return CaseOutcome.passed


@case(15)
async def out_of_order(bench: Driver) -> CaseOutcome:
    """Acks out of order never settle what is not complete."""
    await bench.publish(*_bodies(10))
    session = await bench.open()
    taken = await bench.take(session, 10)
    for delivery in reversed(taken[1:]):
        await bench.settle(session, [delivery])
    return await _only_these_come_again(bench, session, taken[:1])


@case(17)
async def one_not_another(bench: Driver) -> CaseOutcome:
    """Settling every other message leaves those between unsettled."""
    await bench.publish(*_bodies(10))
    session = await bench.open()
    taken = await bench.take(session, 10)
    await bench.settle(session, taken[1::2])
    return await _only_these_come_again(bench, session, taken[0::2])


async def _only_these_come_again(bench: Driver, session: Session, left: list[Delivery]) -> CaseOutcome:
    if bench.harness.reads_once:
        await bench.settle(session, left)
        return CaseOutcome.refused
    await bench.close(session)
    session = await bench.open()
    # A mark without gaps brings again what came after it.
    exact = session.capabilities.commit == "each"
    again = await bench.take(session, len(left), bench.harness.again_seconds)
    if not exact:
        again += await bench.take(session, 10 - len(again), 1.0, least=0)
    missing = {one.body for one in left} - {one.body for one in again}
    check(not missing, f"{len(missing)} messages were settled that nobody asked for")
    await bench.settle(session, again)
    return CaseOutcome.passed
