"""Cases 26 to 28, 30 and 31: order for each key, also through a retry, none between keys, and positions with gaps."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from typing import TYPE_CHECKING

from missive.app.context import HandlingContext
from missive.app.processor import Processor
from missive.app.terms import OnLaneRetry
from missive.dlq.sql import SQLStore
from missive.matchers import Everything
from missive.messages import RawMessage
from missive.testing.conformance.catalogue import CaseOutcome, case
from missive.testing.conformance.checks import ConformanceError, check
from missive.transport import Watermark

if TYPE_CHECKING:
    from missive.testing.conformance.driver import Driver

_KEYS = 5
_COUNT = 100


async def _ordered(driver: Driver) -> tuple[dict[int, list[int]], int, int]:
    """Handle messages of a few keys at once; returns each key's order, overlaps within one, and the most at once."""
    processor = Processor(name="conformance", dlq=driver.dlq, concurrency=8)
    order: dict[int, list[int]] = defaultdict(list)
    running: set[int] = set()
    overlaps = most = 0

    def key(message: RawMessage) -> int:
        number = int(message.raw_data)
        return 0 if number % 2 else number % _KEYS  # every other one has the same key

    @processor.handle_for(Everything(), ordered_by=key)
    async def handle(message: RawMessage, context: HandlingContext[RawMessage]) -> None:
        nonlocal overlaps, most
        mine = key(message)
        overlaps += mine in running
        running.add(mine)
        most = max(most, len(running))
        await asyncio.sleep(0.002)
        running.discard(mine)
        order[mine].append(int(message.raw_data))
        driver.log.handled[message.raw_data] += 1

    await driver.publish(*(b"%d" % number for number in range(_COUNT)))
    async with driver.serving(driver.adapter(processor)):
        await driver.until(lambda: len(driver.log.handled) == _COUNT, "all handled")
    return order, overlaps, most


@case(26)
async def fifo(driver: Driver) -> CaseOutcome:
    """Messages of one key are handled in their order, with eight at once and one key that has half of them."""
    order, _, _ = await _ordered(driver)
    check(all(seen == sorted(seen) for seen in order.values()), "messages of one key were handled out of order")
    return CaseOutcome.passed


@case(27)
async def alone(driver: Driver) -> CaseOutcome:
    """No two handlers of one key run at once."""
    _, overlaps, _ = await _ordered(driver)
    check(overlaps == 0, f"{overlaps} handlers of one key overlapped")
    return CaseOutcome.passed


_WAY = {"block": 0.3, "park": 30.0, "pass": 0.3}
"""After how many seconds the first message of a lane is tried again; what is due late is parked in the store."""
_AFTER = 4
"""So many come after it in its lane."""


@case(28)
async def retried(driver: Driver) -> CaseOutcome:
    """The rest of a lane waits for a message that is retried, here or in the store, or passes it; as was declared."""
    later = 0.0
    store = SQLStore(driver.dlq, clock=lambda: time.time() + later)
    processor = Processor(name="conformance", dlq=store, concurrency=4)
    seen: list[str] = []
    tried: set[str] = set()

    def register(way: OnLaneRetry) -> None:
        def mine(message: RawMessage) -> bool:
            return message.raw_data.startswith(way.encode())

        def lane(message: RawMessage) -> str:
            return message.raw_data.split(b"-")[1].decode()

        @processor.handle_for(mine, name=way, ordered_by=lane, on_lane_retry=way)
        async def handle(message: RawMessage, context: HandlingContext[RawMessage]) -> None:
            body = message.raw_data.decode()
            if body.endswith("-a-0") and body not in tried:
                tried.add(body)
                context.retry(_WAY[way])
                return
            seen.append(body)
            driver.log.handled[message.raw_data] += 1

    ways: tuple[OnLaneRetry, ...] = ("block", "park", "pass")
    for way in ways:
        register(way)
    bodies = [f"{way}-{lane}-{number}" for number in range(_AFTER + 1) for way in _WAY for lane in "ab"]
    await driver.publish(*(body.encode() for body in bodies))
    async with driver.serving(driver.adapter(processor)):
        await driver.until(lambda: len(seen) == len(bodies) - _AFTER - 1, "all handled but what is parked")
        check(not any(body.startswith("park-a") for body in seen), "others of a lane ran while it is parked")
        await driver.until(lambda: sum(store.lanes("conformance").values()) == _AFTER + 1, "the lane in the store")
        later = 2 * _WAY["park"]
        if driver.harness.ends:  # it is over, and what is parked is for the next worker
            expected = [body for body in bodies if not body.startswith("park-a")]
            driver.log.handled.update(body.encode() for body in bodies if body.startswith("park-a"))
        else:
            expected = bodies
        await driver.until(lambda: len(seen) == len(expected), "what was parked")
    for lane in ("block-a", "block-b", "park-a", "park-b", "pass-b"):
        check(
            [body for body in seen if body.startswith(lane)] == sorted(b for b in expected if b.startswith(lane)), lane
        )
    passed = [body for body in seen if body.startswith("pass-a")]
    check(passed == [f"pass-a-{number}" for number in (1, 2, 3, 4, 0)], "others did not pass what is retried")
    check(seen.index("block-b-4") < seen.index("block-a-0"), "a retry kept other lanes waiting")
    return CaseOutcome.passed


@case(30)
async def overlap(driver: Driver) -> CaseOutcome:
    """Handlers of different keys do run at once."""
    _, _, most = await _ordered(driver)
    check(most > 1, "different keys never overlapped")
    return CaseOutcome.passed


@case(31)
async def gaps(driver: Driver) -> CaseOutcome:
    """Positions that hold no message, as an aborted transaction's or a compacted one's, do not hold a mark up."""
    session = await driver.open()
    if session.capabilities.commit == "each":
        await driver.publish(b"0")
        taken = await driver.take(session, 1)
        await driver.settle(session, taken)
        try:
            await session.commit({taken[0].lane: Watermark(taken[0].position or 0)})
        except NotImplementedError:
            return CaseOutcome.refused
        raise ConformanceError("it is settled one by one, and takes marks")
    await driver.close(session)
    processor = Processor(name="conformance", dlq=driver.dlq, concurrency=8)

    @processor.handle_for(Everything(), ordered_by=lambda _: None)
    async def handle(message: RawMessage, context: HandlingContext[RawMessage]) -> None:
        await asyncio.sleep(0.02 * (int(message.raw_data) % 3))  # so that they end out of order
        driver.log.handled[message.raw_data] += 1

    for turn in range(4):
        await driver.publish(*(b"%d" % number for number in range(5 * turn, 5 * turn + 5)))
        if turn < 3:
            await driver.in_thread(driver.harness.leave_gap)
    async with driver.serving(driver.adapter(processor)):
        await driver.until(lambda: len(driver.log.handled) == 20, "all handled")
        await driver.until_empty()
    session = await driver.open()
    check(not await driver.take(session, 1, 1.0, least=0), "the mark did not pass a gap: what was handled comes again")
    return CaseOutcome.passed
