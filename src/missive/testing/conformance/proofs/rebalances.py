"""Cases 29 and 53 to 55: lanes that go from one consumer to another, and come back."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from missive.adapters.contract import Adapter, Delivery, Mark, Result, Session
from missive.context import HandlingContext
from missive.errors import ForcedStop
from missive.matchers import Everything, by_key
from missive.messages import RawMessage
from missive.processor import Processor
from missive.testing.conformance.bench import WAIT_SECONDS, check
from missive.testing.conformance.catalogue import Verdict, case
from missive.testing.conformance.harness import Sent

if TYPE_CHECKING:
    from missive.testing.conformance.bench import Bench

_LANES = 4
_KEYS = 24
_STORM, _DEEP_STORM = 12.0, 120.0
_MEMBERS = 3
_HANDOVER = 0.5


async def _without_lanes(bench: Bench) -> Verdict:
    """Prove that no lane is one consumer's alone: none is ever told to be gained, nor lost."""
    await bench.publish(b"0")
    session = await bench.open()
    await bench.settle(session, await bench.take(session, 1))
    check(not any(host.gained for host in bench.hosts), "lanes are gained, and exclusive_lanes is not declared")
    return Verdict.refused


def _exclusive(bench: Bench) -> bool:
    return bench.adapter().exclusive_lanes


def _keyed(numbers: range) -> list[Sent]:
    return [Sent(b"%d" % number, key=f"k{number % _KEYS}") for number in numbers]


class _Group:
    """Members of one group under load, what each handled, and each key's order."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.handled: Counter[str] = Counter()
        self.order: dict[int, list[int]] = defaultdict(list)
        self._published = 0
        self._feeding = True

    def member(self, name: str) -> Adapter:
        """Make a member that handles keys at once."""
        processor = Processor(name="conformance", dlq=self.bench.dlq, concurrency=8)
        ledger = self.bench.ledger

        @processor.handle_for(Everything(), ordered_by=by_key)
        async def handle(message: RawMessage, context: HandlingContext[RawMessage]) -> None:
            number = int(message.raw_data)
            if not ledger.handled[message.raw_data]:
                self.order[number % _KEYS].append(number)
            await asyncio.sleep(0.005)
            ledger.handled[message.raw_data] += 1
            self.handled[name] += 1

        return self.bench.adapter(processor)

    async def feed(self) -> None:
        """Publish until it is enough: the load that lanes move under."""
        while self._feeding:
            await self.bench.publish(*_keyed(range(self._published, self._published + 4 * _KEYS)))
            self._published += 4 * _KEYS
            await asyncio.sleep(0.2)

    @contextlib.asynccontextmanager
    async def load(self) -> AsyncIterator[None]:
        """Keep publishing; at the end all that was published is handled."""
        feeding = asyncio.create_task(self.feed())
        try:
            yield
            self._feeding = False
            await feeding
            done = self.bench.ledger.handled
            await self.bench.until(lambda: len(done) == self._published, "all handled", 60)
        finally:
            feeding.cancel()

    def verdict(self, faults: int) -> Verdict:
        """Judge: each key in its order, and few of them twice."""
        check(all(seen == sorted(seen) for seen in self.order.values()), "messages of one key began out of order")
        twice = sum(self.bench.ledger.handled.values()) - self._published
        self.bench.duplicates = twice
        check(twice <= faults * self.bench.harness.moved, f"{twice} duplicates after {faults} moves")
        return Verdict.passed


@case(29, lanes=_LANES)
async def order(bench: Bench) -> Verdict:
    """Messages of one key begin in their order, also when its lane goes to another consumer and comes back."""
    if not _exclusive(bench):
        return await _without_lanes(bench)
    group = _Group(bench)
    async with bench.serving(group.member("first")), group.load():
        await bench.until(lambda: group.handled["first"], "the first at work")
        async with bench.serving(group.member("second")):
            await bench.until(lambda: group.handled["second"] > _KEYS, "the second at work")
        alone = group.handled["first"]
        await bench.until(lambda: group.handled["first"] > alone + _KEYS, "the first at work again")
    return group.verdict(2)


@case(53, lanes=_LANES)
async def storm(bench: Bench) -> Verdict:
    """Members that join and leave every second under load lose nothing, keep each key's order, and repeat little."""
    if not _exclusive(bench):
        return await _without_lanes(bench)
    group = _Group(bench)
    chance = random.Random(_LANES)  # noqa: S311 - who leaves is no secret
    moves = 0
    members: list[asyncio.Task[None]] = []
    leaving: list[asyncio.Task[None]] = []
    async with bench.serving(group.member("stays")):
        try:
            async with group.load():
                end = time.monotonic() + (_DEEP_STORM if bench.deep else _STORM)
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
    check(group.handled["comes"], "no member that came handled anything")
    return group.verdict(moves)


@case(54, lanes=2)
async def revoked(bench: Bench) -> Verdict:
    """A late ack of a lane that has gone is fenced, and settles nothing of its owner's; what is left here goes on."""
    if not _exclusive(bench):
        return await _without_lanes(bench)
    count = 2 * _KEYS
    await bench.publish(*_keyed(range(count)))
    first = await bench.open()
    taken = await bench.take(first, count)
    second = await bench.open()
    again = await bench.take(second, 1, bench.harness.again_seconds)
    lane = again[0].lane
    lost, kept = _of(taken, lane), [one for one in taken if one.lane != lane]
    check(kept, "all lanes went to the second")
    again += await bench.take(second, len(lost) - 1)
    check([one.body for one in again] == [one.body for one in lost], "others came than were unsettled, or out of order")
    await _late(bench, first, lost, count)
    await bench.settle(second, again[:1])
    await _late(bench, first, lost, count - 1)
    await bench.settle(first, kept)
    await bench.settle(second, again[1:])
    return Verdict.passed


def _of(deliveries: list[Delivery], lane: str | None) -> list[Delivery]:
    return [one for one in deliveries if one.lane == lane]


async def _late(bench: Bench, session: Session, lost: list[Delivery], left: int) -> None:
    """Commit what has gone: to its end, and only its first, which is behind where the new owner may be."""
    for one in (lost[-1], lost[0]):
        results = await session.commit({one.lane: Mark(one.position or 0)})
        check(list(results.values()) == [Result.fenced], f"a late commit is {[one.value for one in results.values()]}")
    there = await bench.blocking(bench.harness.remaining)
    check(there in (None, left), f"after a late commit {there} messages are left, and not {left}")


@case(55, lanes=2)
async def returned(bench: Bench) -> Verdict:
    """A lane that goes and comes back brings what ran again, and the end of the first handling settles nothing."""
    if not _exclusive(bench):
        return await _without_lanes(bench)
    await bench.publish(*_keyed(range(_KEYS)))
    session = await bench.open()
    lanes = {one.body: one.lane for one in await bench.take(session, _KEYS)}
    await bench.close(session)
    stuck = {lane: body for body, lane in reversed(lanes.items())}
    check(len(stuck) == 2, "all keys are of one lane")
    begun: list[bytes] = []
    ended: Counter[bytes] = Counter()
    first, again = threading.Event(), threading.Event()
    processor = Processor(name="conformance", dlq=bench.dlq, concurrency=8)

    @processor.handle_for(Everything(), ordered_by=by_key)
    def handle(message: RawMessage, context: HandlingContext[RawMessage]) -> None:
        body = message.raw_data
        begun.append(body)
        if body in stuck.values():
            (first if begun.count(body) == 1 else again).wait(60)
        ended[body] += 1

    try:
        async with bench.serving(bench.adapter(processor, handover=_HANDOVER)):
            await bench.until(lambda: len(begun) == _KEYS, "all to begin")
            went = await _borrow(bench)
            check(went in stuck.values(), "what was done came to the second")
            await bench.publish(*_keyed(range(_KEYS, 2 * _KEYS)))
            await bench.until(lambda: len(ended) == 2 * _KEYS - 4, "the lane to come back")
            first.set()
            await bench.until(lambda: begun.count(went) == 2, "what ran to come again")
            # The lane that stayed is settled to its end, and the one that came back not even to its beginning.
            left = 2 * sum(lane == lanes[went] for lane in lanes.values())
            await _left(bench, left)
            again.set()
            await bench.until(lambda: len(ended) == 2 * _KEYS, "all handled")
    finally:
        first.set()
        again.set()
    bench.ledger.handled.update(ended)
    twice = [body for body, times in ended.items() if times > 1]
    check(twice == [went], f"{len(twice)} messages were handled twice, and not the one whose lane went")
    return Verdict.passed


async def _left(bench: Bench, count: int) -> None:
    """Wait until the source still holds so many messages."""
    deadline = time.monotonic() + WAIT_SECONDS
    while (left := await bench.blocking(bench.harness.remaining)) not in (None, count):
        check(time.monotonic() < deadline, f"{left} messages are left, and not {count}")


async def _borrow(bench: Bench) -> bytes:
    """Join, begin to handle a message of a lane that was handed over, and leave without having handled it."""
    processor = Processor(name="conformance", dlq=bench.dlq)
    started = asyncio.Event()
    bodies: list[bytes] = []

    @processor.handle_for(Everything())
    async def handle(message: RawMessage, context: HandlingContext[RawMessage]) -> None:
        bodies.append(message.raw_data)
        started.set()
        await asyncio.sleep(60)

    adapter = bench.adapter(processor)
    adapter.drain = 0.1
    with contextlib.suppress(ForcedStop):
        async with bench.serving(adapter):
            await bench.until(started.is_set, "the lane to go to the second")
    return bodies[0]
