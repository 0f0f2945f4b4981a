"""Cases 29 and 53 to 55: lanes that move to another consumer."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator

from missive.adapters.base import Adapter
from missive.app.context import HandlingContext
from missive.app.processor import Processor
from missive.errors import ForcedStop
from missive.matchers import Everything, by_key
from missive.messages import RawMessage
from missive.testing.conformance.catalogue import CaseOutcome, case
from missive.testing.conformance.checks import check
from missive.testing.conformance.driver import WAIT_SECONDS, Driver
from missive.testing.conformance.harness import Sent
from missive.transport import Delivery, Session, SettlementResult, Watermark

_LANES = 4
_KEYS = 24
_STORM, _DEEP_STORM = 12.0, 120.0
_MEMBERS = 3
_HANDOVER = 0.5
"""Time that handlers have when their lane moves, in seconds."""


async def _without_lanes(driver: Driver) -> CaseOutcome:
    """Prove that a transport without exclusive lanes never announces a gained lane."""
    await driver.publish(b"0")
    session = await driver.open()
    await driver.settle(session, await driver.take(session, 1))
    check(not any(host.gained for host in driver.hosts), "a lane was gained, but `exclusive_lanes` is not declared")
    return CaseOutcome.refused


def _exclusive(driver: Driver) -> bool:
    return driver.adapter().exclusive_lanes


def _keyed(numbers: range) -> list[Sent]:
    return [Sent(b"%d" % number, key=f"k{number % _KEYS}") for number in numbers]


class _Group:
    """The members of one group under load, with the work of each member and the order of each key."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.handled: Counter[str] = Counter()
        self.order: dict[int, list[int]] = defaultdict(list)
        self._published = 0
        self._feeding = True

    def member(self, name: str) -> Adapter:
        """Make a member that handles several keys concurrently."""
        processor = Processor(name="conformance", dlq=self.driver.dlq, concurrency=8)
        log = self.driver.log

        @processor.handle_for(Everything(), ordered_by=by_key)
        async def handle(message: RawMessage, context: HandlingContext[RawMessage]) -> None:
            number = int(message.raw_data)
            if not log.handled[message.raw_data]:
                self.order[number % _KEYS].append(number)
            await asyncio.sleep(0.005)
            log.handled[message.raw_data] += 1
            self.handled[name] += 1

        return self.driver.adapter(processor)

    async def feed(self) -> None:
        """Publish until the load ends."""
        while self._feeding:
            await self.driver.publish(*_keyed(range(self._published, self._published + 4 * _KEYS)))
            self._published += 4 * _KEYS
            await asyncio.sleep(0.2)

    @contextlib.asynccontextmanager
    async def load(self) -> AsyncIterator[None]:
        """Publish during the block, then wait until every message is handled."""
        feeding = asyncio.create_task(self.feed())
        try:
            yield
            self._feeding = False
            await feeding
            done = self.driver.log.handled
            await self.driver.until(lambda: len(done) == self._published, "every message to be handled", 60)
        finally:
            feeding.cancel()

    def judge(self, faults: int) -> CaseOutcome:
        """Prove that each key began in order and that the duplicates are within their bound."""
        check(all(seen == sorted(seen) for seen in self.order.values()), "messages of one key began out of order")
        twice = sum(self.driver.log.handled.values()) - self._published
        self.driver.duplicates, self.driver.faults = twice, faults
        check(
            twice <= faults * self.driver.harness.handover_duplicates,
            f"{twice} duplicates after {faults} moves of lanes",
        )
        return CaseOutcome.passed


@case(29, lanes=_LANES)
async def order(driver: Driver) -> CaseOutcome:
    """Messages of one key begin in order while their lane moves to another consumer and back."""
    if not _exclusive(driver):
        return await _without_lanes(driver)
    group = _Group(driver)
    async with driver.serving(group.member("first")), group.load():
        await driver.until(lambda: group.handled["first"], "the first member to handle a message")
        async with driver.serving(group.member("second")):
            await driver.until(lambda: group.handled["second"] > _KEYS, "the second member to handle messages")
        alone = group.handled["first"]
        await driver.until(lambda: group.handled["first"] > alone + _KEYS, "the first member to handle messages again")
    return group.judge(2)


@case(53, lanes=_LANES)
async def storm(driver: Driver) -> CaseOutcome:
    """Members that join and leave every second under load lose nothing, keep the order and repeat few messages."""
    if not _exclusive(driver):
        return await _without_lanes(driver)
    group = _Group(driver)
    chance = random.Random(_LANES)  # noqa: S311 - the order of members is no secret
    moves = 0
    members: list[asyncio.Task[None]] = []
    leaving: list[asyncio.Task[None]] = []
    async with driver.serving(group.member("stays")):
        try:
            async with group.load():
                end = time.monotonic() + (_DEEP_STORM if driver.deep else _STORM)
                while time.monotonic() < end:
                    if len(members) < _MEMBERS and (not members or chance.random() < 1 / 2):
                        members.append(asyncio.create_task(group.member("comes").serve()))
                    else:
                        leaving.append(members.pop(chance.randrange(len(members))))
                        leaving[-1].cancel()
                    moves += 1
                    await asyncio.sleep(1)
        finally:
            for one in members:
                one.cancel()
            for ended in await asyncio.gather(*members, *leaving, return_exceptions=True):
                check(isinstance(ended, asyncio.CancelledError), f"a member ended with {ended!r}")
    check(group.handled["comes"], "no joining member handled a message")
    return group.judge(moves)


@case(54, lanes=2)
async def revoked(driver: Driver) -> CaseOutcome:
    """A late ack of a revoked lane is fenced and settles no message of the new owner. Other lanes are not affected."""
    if not _exclusive(driver):
        return await _without_lanes(driver)
    count = 2 * _KEYS
    await driver.publish(*_keyed(range(count)))
    first = await driver.open()
    taken = await driver.take(first, count)
    second = await driver.open()
    again = await driver.take(second, 1, driver.harness.redelivery_seconds)
    lane = again[0].lane
    lost, owned = _of(taken, lane), [one for one in taken if one.lane != lane]
    check(owned, "every lane moved to the second session")
    again += await driver.take(second, len(lost) - 1)
    check(
        [one.body for one in again] == [one.body for one in lost],
        "the redelivered messages are not the unsettled ones in order",
    )
    await _prove_fenced(driver, first, lost, count)
    await driver.settle(second, again[:1])
    await _prove_fenced(driver, first, lost, count - 1)
    await driver.settle(first, owned)
    await driver.settle(second, again[1:])
    return CaseOutcome.passed


def _of(deliveries: list[Delivery], lane: str | None) -> list[Delivery]:
    return [one for one in deliveries if one.lane == lane]


async def _prove_fenced(driver: Driver, session: Session, lost: list[Delivery], left: int) -> None:
    """Commit a revoked lane up to its last and its first message, and prove that both commits are fenced."""
    for one in (lost[-1], lost[0]):
        results = await session.commit({one.lane: Watermark(one.position or 0)})
        check(
            list(results.values()) == [SettlementResult.fenced],
            f"the result of a late commit is {[one.value for one in results.values()]} instead of fenced",
        )
    there = await driver.in_thread(driver.harness.remaining)
    check(there in (None, left), f"{there} messages are left after a late commit instead of {left}")


@case(55, lanes=2)
async def returned(driver: Driver) -> CaseOutcome:
    """A lane that moves away and back redelivers its running message, and the first handler settles nothing."""
    if not _exclusive(driver):
        return await _without_lanes(driver)
    await driver.publish(*_keyed(range(_KEYS)))
    session = await driver.open()
    lanes = {one.body: one.lane for one in await driver.take(session, _KEYS)}
    await driver.close(session)
    stuck = {lane: body for body, lane in reversed(lanes.items())}
    check(len(stuck) == 2, "every key is in one lane")
    begun: list[bytes] = []
    ended: Counter[bytes] = Counter()
    first, again = threading.Event(), threading.Event()
    processor = Processor(name="conformance", dlq=driver.dlq, concurrency=8)

    @processor.handle_for(Everything(), ordered_by=by_key)
    def handle(message: RawMessage, context: HandlingContext[RawMessage]) -> None:
        body = message.raw_data
        begun.append(body)
        if body in stuck.values():
            (first if begun.count(body) == 1 else again).wait(60)
        ended[body] += 1

    try:
        async with driver.serving(driver.adapter(processor, handover=_HANDOVER)):
            await driver.until(lambda: len(begun) == _KEYS, "every handler to start")
            moved = await _borrow(driver)
            check(moved in stuck.values(), "the second member received a message that was done")
            await driver.publish(*_keyed(range(_KEYS, 2 * _KEYS)))
            await driver.until(lambda: len(ended) == 2 * _KEYS - 4, "the lane to return")
            first.set()
            await driver.until(lambda: begun.count(moved) == 2, "the redelivery of the running message")
            # The lane that stayed is settled completely, and the returned lane is not settled at all.
            left = 2 * sum(lane == lanes[moved] for lane in lanes.values())
            await _left(driver, left)
            again.set()
            await driver.until(lambda: len(ended) == 2 * _KEYS, "every message to be handled")
    finally:
        first.set()
        again.set()
    driver.log.handled.update(ended)
    twice = [body for body, times in ended.items() if times > 1]
    check(twice == [moved], f"{len(twice)} messages were handled twice, not just the one whose lane moved")
    return CaseOutcome.passed


async def _left(driver: Driver, count: int) -> None:
    """Wait until the source holds `count` messages."""
    deadline = time.monotonic() + WAIT_SECONDS
    while (left := await driver.in_thread(driver.harness.remaining)) not in (None, count):
        check(time.monotonic() < deadline, f"{left} messages are left instead of {count}")


async def _borrow(driver: Driver) -> bytes:
    """Join the group, start to handle a message of a moved lane, and leave without finishing it."""
    processor = Processor(name="conformance", dlq=driver.dlq)
    started = asyncio.Event()
    bodies: list[bytes] = []

    @processor.handle_for(Everything())
    async def handle(message: RawMessage, context: HandlingContext[RawMessage]) -> None:
        bodies.append(message.raw_data)
        started.set()
        await asyncio.sleep(60)

    adapter = driver.adapter(processor)
    adapter.drain = 0.1
    with contextlib.suppress(ForcedStop):
        async with driver.serving(adapter):
            await driver.until(started.is_set, "the lane to move to the second member")
    return bodies[0]
