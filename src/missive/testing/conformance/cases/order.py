"""Cases 26 to 28, 30 and 31: order within a key, concurrency between keys, and positions with gaps."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict

from missive.app.context import HandlingContext
from missive.app.processor import Processor
from missive.app.terms import OnLaneRetry
from missive.dlq.sql import SQLStore
from missive.matchers import Everything
from missive.messages import RawMessage
from missive.testing.conformance.catalogue import CaseOutcome, case
from missive.testing.conformance.checks import ConformanceError, check
from missive.testing.conformance.driver import Driver, numbered
from missive.transport import Watermark

_KEYS = 5
_COUNT = 100


async def _ordered(driver: Driver) -> tuple[dict[int, list[int]], int, int]:
    """Handle messages of a few keys concurrently.

    Return the order of each key, the number of overlaps within a key, and the highest number of concurrent handlers.
    """
    processor = Processor(name="conformance", dlq=driver.dlq, concurrency=8)
    order: dict[int, list[int]] = defaultdict(list)
    running: set[int] = set()
    overlaps = most = 0

    def key(message: RawMessage) -> int:
        number = int(message.raw_data)
        return 0 if number % 2 else number % _KEYS  # half of the messages share key 0

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

    await driver.publish(*numbered(_COUNT))
    async with driver.serving(driver.adapter(processor)):
        await driver.until(lambda: len(driver.log.handled) == _COUNT, "every message to be handled")
    return order, overlaps, most


@case(26)
async def fifo(driver: Driver) -> CaseOutcome:
    """Messages of one key are handled in order at concurrency 8, with half of all messages on one key."""
    order, _, _ = await _ordered(driver)
    check(all(seen == sorted(seen) for seen in order.values()), "messages of one key were handled out of order")
    return CaseOutcome.passed


@case(27)
async def no_overlap(driver: Driver) -> CaseOutcome:
    """Two handlers of one key never overlap."""
    _, overlaps, _ = await _ordered(driver)
    check(overlaps == 0, f"handlers of one key overlapped {overlaps} times")
    return CaseOutcome.passed


_DELAYS = {"block": 0.3, "park": 30.0, "pass": 0.3}
"""Retry delay of the first message of a lane, in seconds. The engine parks messages with a long delay in the store."""
_BEHIND = 4
"""Number of messages behind it in its lane."""


@case(28)
async def retried(driver: Driver) -> CaseOutcome:
    """The rest of a lane blocks, parks or passes behind a retried message, as declared."""
    later = 0.0
    store = SQLStore(driver.dlq, clock=lambda: time.time() + later)
    processor = Processor(name="conformance", dlq=store, concurrency=4)
    seen: list[str] = []
    tried: set[str] = set()

    def register(policy: OnLaneRetry) -> None:
        def mine(message: RawMessage) -> bool:
            return message.raw_data.startswith(policy.encode())

        def lane(message: RawMessage) -> str:
            return message.raw_data.split(b"-")[1].decode()

        @processor.handle_for(mine, name=policy, ordered_by=lane, on_lane_retry=policy)
        async def handle(message: RawMessage, context: HandlingContext[RawMessage]) -> None:
            body = message.raw_data.decode()
            if body.endswith("-a-0") and body not in tried:
                tried.add(body)
                context.retry(_DELAYS[policy])
                return
            seen.append(body)
            driver.log.handled[message.raw_data] += 1

    policies: tuple[OnLaneRetry, ...] = ("block", "park", "pass")
    for policy in policies:
        register(policy)
    bodies = [f"{policy}-{lane}-{number}" for number in range(_BEHIND + 1) for policy in _DELAYS for lane in "ab"]
    await driver.publish(*(body.encode() for body in bodies))
    async with driver.serving(driver.adapter(processor)):
        await driver.until(
            lambda: len(seen) == len(bodies) - _BEHIND - 1, "every message to be handled, except for parked ones"
        )
        check(not any(body.startswith("park-a") for body in seen), "a message of a parked lane was handled")
        await driver.until(
            lambda: sum(store.lanes("conformance").values()) == _BEHIND + 1, "the lane to be parked in the store"
        )
        later = 2 * _DELAYS["park"]
        if driver.harness.ends:  # the run has ended, and the next worker handles parked messages
            expected = [body for body in bodies if not body.startswith("park-a")]
            driver.log.handled.update(body.encode() for body in bodies if body.startswith("park-a"))
        else:
            expected = bodies
        await driver.until(lambda: len(seen) == len(expected), "the parked messages to be handled")
    for lane in ("block-a", "block-b", "park-a", "park-b", "pass-b"):
        check(
            [body for body in seen if body.startswith(lane)] == sorted(b for b in expected if b.startswith(lane)),
            f"the lane {lane} was handled out of order",
        )
    passed = [body for body in seen if body.startswith("pass-a")]
    check(
        passed == [f"pass-a-{number}" for number in (1, 2, 3, 4, 0)],
        "the rest of the lane did not pass the retried message",
    )
    check(seen.index("block-b-4") < seen.index("block-a-0"), "a retry delayed other lanes")
    return CaseOutcome.passed


@case(30)
async def overlap(driver: Driver) -> CaseOutcome:
    """Handlers of different keys run concurrently."""
    _, _, most = await _ordered(driver)
    check(most > 1, "handlers of different keys never overlapped")
    return CaseOutcome.passed


@case(31)
async def gaps(driver: Driver) -> CaseOutcome:
    """Positions without a message, from aborted transactions or compaction, do not stall the watermark."""
    session = await driver.open()
    if session.capabilities.commit == "each":
        await driver.publish(b"0")
        taken = await driver.take(session, 1)
        await driver.settle(session, taken)
        try:
            await session.commit({taken[0].lane: Watermark(taken[0].position or 0)})
        except NotImplementedError:
            return CaseOutcome.refused
        raise ConformanceError("commit() was accepted, but `commit` is declared as `each`")
    await driver.close(session)
    processor = Processor(name="conformance", dlq=driver.dlq, concurrency=8)

    @processor.handle_for(Everything(), ordered_by=lambda _: None)
    async def handle(message: RawMessage, context: HandlingContext[RawMessage]) -> None:
        await asyncio.sleep(0.02 * (int(message.raw_data) % 3))  # finish out of order
        driver.log.handled[message.raw_data] += 1

    for turn in range(4):
        await driver.publish(*numbered(5 * turn, 5 * turn + 5))
        if turn < 3:
            await driver.in_thread(driver.harness.leave_gap)
    async with driver.serving(driver.adapter(processor)):
        await driver.until(lambda: len(driver.log.handled) == 20, "every message to be handled")
        await driver.until_empty()
    session = await driver.open()
    check(
        not await driver.take(session, 1, 1.0, least=0),
        "a handled message was redelivered, because the watermark did not pass a gap",
    )
    return CaseOutcome.passed
