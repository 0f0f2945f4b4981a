"""Cases 29 and 52 to 57: lanes and leases that go to another consumer, and positions that are behind or gone."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import re
import signal
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

from missive.adapters.base import Adapter
from missive.app.context import HandlingContext
from missive.app.processor import Processor
from missive.errors import ForcedStop
from missive.matchers import Everything, by_key
from missive.messages import RawMessage
from missive.testing.conformance.catalogue import CaseOutcome, case
from missive.testing.conformance.checks import ConformanceError, check
from missive.testing.conformance.driver import POLL_SECONDS, WAIT_SECONDS
from missive.testing.conformance.harness import Sent
from missive.transport import Delivery, Session, SettlementResult, Watermark

if TYPE_CHECKING:
    from missive.testing.conformance.driver import Driver

_LANES = 4
_KEYS = 24
_STORM, _DEEP_STORM = 12.0, 120.0
_MEMBERS = 3
_HANDOVER = 0.5
_LATE = 1.5
"""Seconds in which a late ack would be seen."""


async def _without_lanes(driver: Driver) -> CaseOutcome:
    """Prove that no lane is one consumer's alone: none is ever told to be gained, nor lost."""
    await driver.publish(b"0")
    session = await driver.open()
    await driver.settle(session, await driver.take(session, 1))
    check(not any(host.gained for host in driver.hosts), "lanes are gained, and exclusive_lanes is not declared")
    return CaseOutcome.refused


def _exclusive(driver: Driver) -> bool:
    return driver.adapter().exclusive_lanes


def _keyed(numbers: range) -> list[Sent]:
    return [Sent(b"%d" % number, key=f"k{number % _KEYS}") for number in numbers]


class _Group:
    """Members of one group under load, what each handled, and each key's order."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.handled: Counter[str] = Counter()
        self.order: dict[int, list[int]] = defaultdict(list)
        self._published = 0
        self._feeding = True

    def member(self, name: str) -> Adapter:
        """Make a member that handles keys at once."""
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
        """Publish until it is enough: the load that lanes move under."""
        while self._feeding:
            await self.driver.publish(*_keyed(range(self._published, self._published + 4 * _KEYS)))
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
            done = self.driver.log.handled
            await self.driver.until(lambda: len(done) == self._published, "all handled", 60)
        finally:
            feeding.cancel()

    def outcome(self, faults: int) -> CaseOutcome:
        """Judge: each key in its order, and few of them twice."""
        check(all(seen == sorted(seen) for seen in self.order.values()), "messages of one key began out of order")
        twice = sum(self.driver.log.handled.values()) - self._published
        self.driver.duplicates, self.driver.faults = twice, faults
        check(twice <= faults * self.driver.harness.handover_duplicates, f"{twice} duplicates after {faults} moves")
        return CaseOutcome.passed


@case(29, lanes=_LANES)
async def order(driver: Driver) -> CaseOutcome:
    """Messages of one key begin in their order, also when its lane goes to another consumer and comes back."""
    if not _exclusive(driver):
        return await _without_lanes(driver)
    group = _Group(driver)
    async with driver.serving(group.member("first")), group.load():
        await driver.until(lambda: group.handled["first"], "the first at work")
        async with driver.serving(group.member("second")):
            await driver.until(lambda: group.handled["second"] > _KEYS, "the second at work")
        alone = group.handled["first"]
        await driver.until(lambda: group.handled["first"] > alone + _KEYS, "the first at work again")
    return group.outcome(2)


@case(53, lanes=_LANES)
async def storm(driver: Driver) -> CaseOutcome:
    """Members that join and leave every second under load lose nothing, keep each key's order, and repeat little."""
    if not _exclusive(driver):
        return await _without_lanes(driver)
    group = _Group(driver)
    chance = random.Random(_LANES)  # noqa: S311 - who leaves is no secret
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
    check(group.handled["comes"], "no member that came handled anything")
    return group.outcome(moves)


@case(54, lanes=2)
async def revoked(driver: Driver) -> CaseOutcome:
    """A late ack of a lane that has gone is fenced, and settles nothing of its owner's; what is left here goes on."""
    if not _exclusive(driver):
        return await _without_lanes(driver)
    count = 2 * _KEYS
    await driver.publish(*_keyed(range(count)))
    first = await driver.open()
    taken = await driver.take(first, count)
    second = await driver.open()
    again = await driver.take(second, 1, driver.harness.redelivery_seconds)
    lane = again[0].lane
    lost, kept = _of(taken, lane), [one for one in taken if one.lane != lane]
    check(kept, "all lanes went to the second")
    again += await driver.take(second, len(lost) - 1)
    check([one.body for one in again] == [one.body for one in lost], "others came than were unsettled, or out of order")
    await _late(driver, first, lost, count)
    await driver.settle(second, again[:1])
    await _late(driver, first, lost, count - 1)
    await driver.settle(first, kept)
    await driver.settle(second, again[1:])
    return CaseOutcome.passed


def _of(deliveries: list[Delivery], lane: str | None) -> list[Delivery]:
    return [one for one in deliveries if one.lane == lane]


async def _late(driver: Driver, session: Session, lost: list[Delivery], left: int) -> None:
    """Commit what has gone: to its end, and only its first, which is behind where the new owner may be."""
    for one in (lost[-1], lost[0]):
        results = await session.commit({one.lane: Watermark(one.position or 0)})
        check(
            list(results.values()) == [SettlementResult.fenced],
            f"a late commit is {[one.value for one in results.values()]}",
        )
    there = await driver.in_thread(driver.harness.remaining)
    check(there in (None, left), f"after a late commit {there} messages are left, and not {left}")


@case(55, lanes=2)
async def returned(driver: Driver) -> CaseOutcome:
    """A lane that goes and comes back brings what ran again, and the end of the first handling settles nothing."""
    if not _exclusive(driver):
        return await _without_lanes(driver)
    await driver.publish(*_keyed(range(_KEYS)))
    session = await driver.open()
    lanes = {one.body: one.lane for one in await driver.take(session, _KEYS)}
    await driver.close(session)
    stuck = {lane: body for body, lane in reversed(lanes.items())}
    check(len(stuck) == 2, "all keys are of one lane")
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
            await driver.until(lambda: len(begun) == _KEYS, "all to begin")
            went = await _borrow(driver)
            check(went in stuck.values(), "what was done came to the second")
            await driver.publish(*_keyed(range(_KEYS, 2 * _KEYS)))
            await driver.until(lambda: len(ended) == 2 * _KEYS - 4, "the lane to come back")
            first.set()
            await driver.until(lambda: begun.count(went) == 2, "what ran to come again")
            # The lane that stayed is settled to its end, and the one that came back not even to its beginning.
            left = 2 * sum(lane == lanes[went] for lane in lanes.values())
            await _left(driver, left)
            again.set()
            await driver.until(lambda: len(ended) == 2 * _KEYS, "all handled")
    finally:
        first.set()
        again.set()
    driver.log.handled.update(ended)
    twice = [body for body, times in ended.items() if times > 1]
    check(twice == [went], f"{len(twice)} messages were handled twice, and not the one whose lane went")
    return CaseOutcome.passed


async def _left(driver: Driver, count: int) -> None:
    """Wait until the source still holds so many messages."""
    deadline = time.monotonic() + WAIT_SECONDS
    while (left := await driver.in_thread(driver.harness.remaining)) not in (None, count):
        check(time.monotonic() < deadline, f"{left} messages are left, and not {count}")


async def _borrow(driver: Driver) -> bytes:
    """Join, begin to handle a message of a lane that was handed over, and leave without having handled it."""
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
            await driver.until(started.is_set, "the lane to go to the second")
    return bodies[0]


@case(56)
async def racing(driver: Driver) -> CaseOutcome:
    """Commits that race completions never pass an incomplete message, and what is done beyond it is not done again."""
    session = await driver.open()
    capabilities = session.capabilities
    if capabilities.commit != "cumulative":
        return await _without_marks(driver, session)
    await driver.close(session)
    count, stuck = 400, b"7"
    await driver.publish(*(Sent(b"%d" % number, key=f"k{number}") for number in range(count)))
    for last in (False, True):
        processor = Processor(name="conformance", dlq=driver.dlq, concurrency=8)
        _race(driver, processor, None if last else stuck)
        adapter = driver.adapter(processor)
        adapter.drain = 0.5
        goal = count if last else count // 2
        with contextlib.suppress(ForcedStop):
            async with driver.serving(adapter):
                await _watched(driver, count, goal)
    twice = [body for body, times in driver.log.handled.items() if times > 1]
    driver.duplicates, driver.faults = len(twice), 1
    check(
        not twice or not capabilities.max_watermark, f"{len(twice)} messages that were done beyond the mark came again"
    )
    return CaseOutcome.passed


def _race(driver: Driver, processor: Processor[RawMessage], stuck: bytes | None) -> None:
    """Handle messages that each take another time, and one that is never done."""
    chance = random.Random(_KEYS)  # noqa: S311 - how long they take is no secret

    @processor.handle_for(Everything(), ordered_by=lambda message: message.raw_data)
    async def handle(message: RawMessage, context: HandlingContext[RawMessage]) -> None:
        await asyncio.sleep(3600 if message.raw_data == stuck else chance.random() / 20)
        driver.log.handled[message.raw_data] += 1


async def _watched(driver: Driver, count: int, goal: int) -> None:
    """Look what is committed until so many messages are handled: never more than what is done without a gap."""
    handled = driver.log.handled
    deadline = time.monotonic() + WAIT_SECONDS
    looks = 0
    while len(handled) < goal or not looks:
        check(time.monotonic() < deadline, f"waited {WAIT_SECONDS:g} s for {goal} to be handled")
        left = await driver.in_thread(driver.harness.remaining)
        looks += 1
        # What is done by now is at least what was done when it was committed.
        done = next(number for number in range(count + 1) if not handled[b"%d" % number])
        check(left is None or count - left <= done, "a commit passed a message that is not done")
        await asyncio.sleep(POLL_SECONDS)


async def _without_marks(driver: Driver, session: Session) -> CaseOutcome:
    """Prove that where deliveries are settled one by one, nothing is committed."""
    await driver.publish(b"0")
    with contextlib.suppress(NotImplementedError):
        await session.commit({None: Watermark(0)})
        raise ConformanceError("commits are not declared, but commit() was accepted")
    await driver.settle(session, await driver.take(session, 1))
    return CaseOutcome.refused


@case(57)
async def position_gone(driver: Driver) -> CaseOutcome:
    """A position that is gone is one line that says from where to where, and all that is still there is handled."""
    harness = driver.harness
    session = await driver.open()
    if session.capabilities.commit != "cumulative":
        return await _without_marks(driver, session)
    await driver.publish(*(b"%d" % number for number in range(10)))
    await driver.settle(session, await driver.take(session, 10))
    await driver.close(session)
    if not harness.trims:
        return CaseOutcome.refused
    await driver.publish(*(b"%d" % number for number in range(10, 30)))
    await driver.in_thread(harness.trim, 20)
    driver.log.published -= {b"%d" % number for number in range(10, 20)}
    await _loudly(driver, ("10", "20"), range(20, 30))
    await driver.in_thread(harness.overrun, 1000)
    await _loudly(driver, ("1000", "30"), range(30, 40))
    return CaseOutcome.passed


async def _loudly(driver: Driver, says: tuple[str, str], numbers: range) -> None:
    """Handle what is there, or is published once the line was said; fails unless there is one line that says it."""
    processor = Processor(name="conformance", dlq=driver.dlq)
    handled = driver.log.handled

    @processor.handle_for(Everything())
    async def handle(message: RawMessage, context: HandlingContext[RawMessage]) -> None:
        handled[message.raw_data] += 1

    with _errors() as lines:
        async with driver.serving(driver.adapter(processor)):
            await driver.until(lambda: lines, "a line that says it")
            if b"%d" % numbers[0] not in driver.log.published:
                await driver.publish(*(b"%d" % number for number in numbers))
            await driver.until(lambda: all(handled[b"%d" % number] for number in numbers), "the rest")
    check(len(lines) == 1 and "\n" not in lines[0], f"{len(lines)} lines say it")
    words = re.findall(r"\w+", lines[0])
    check(all(one in words for one in says), f"the line does not say from {says[0]} to {says[1]}")
    check(sum(handled[b"%d" % number] for number in numbers) == len(numbers), "messages were handled twice")


class _Errors(logging.Handler):
    """Keeps what Missive says at the level ERROR."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one."""
        self.lines.append(record.getMessage())


@contextlib.contextmanager
def _errors() -> Iterator[list[str]]:
    handler, logger = _Errors(), logging.getLogger("missive")
    logger.addHandler(handler)
    try:
        yield handler.lines
    finally:
        logger.removeHandler(handler)


_WORKER = """
import os, time
from pathlib import Path
import missive
from missive.matchers import Everything

proc = missive.Processor(name="conformance")
name = os.environ["WORKER"]
out = os.open("handled.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

@proc.handle_for(Everything())
def handle(message, context):
    body = message.raw_data.decode()
    os.write(out, f"{name} begins {body}\\n".encode())
    while body == "0" and not Path(name).exists():
        time.sleep(0.01)
    os.write(out, f"{name} ends {body}\\n".encode())
"""


@case(52)
async def stood_still(driver: Driver) -> CaseOutcome:
    """A worker that stood still for too long has lost what it had: its late ack is fenced, and nothing is lost."""
    url = driver.harness.url
    session = await driver.open()
    leased = session.capabilities.lease is not None and session.capabilities.renewable
    if url is None or not (leased or _exclusive(driver)):
        # What was delivered stays with whoever is connected, for as long as that is.
        await driver.publish(b"0")
        await driver.settle(session, await driver.take(await driver.open() if driver.harness.ends else session, 1))
        return CaseOutcome.refused
    await driver.close(session)
    (driver.directory / "conformance_worker.py").write_text(_WORKER)
    out = driver.directory / "handled.txt"

    def lines() -> list[str]:
        return out.read_text().splitlines() if out.exists() else []

    await driver.publish(b"0")
    async with _worker(driver, url, "first") as first, contextlib.AsyncExitStack() as second:
        await driver.until(lambda: "first begins 0" in lines(), "the first at work")
        first.send_signal(signal.SIGSTOP)
        await second.enter_async_context(_worker(driver, url, "second"))
        await driver.until(
            lambda: "second begins 0" in lines(), "another to take over", driver.harness.redelivery_seconds
        )
        (driver.directory / "first").touch()
        first.send_signal(signal.SIGCONT)
        await driver.until(lambda: "first ends 0" in lines(), "the first to go on")
        deadline = time.monotonic() + _LATE
        while time.monotonic() < deadline:
            left = await driver.in_thread(driver.harness.remaining)
            check(left in (None, 1), "the late ack of a worker that stood still was taken")
        (driver.directory / "second").touch()
        await driver.publish(*(b"%d" % number for number in range(1, 20)))
        await driver.until(lambda: len({line.split()[2] for line in lines() if " ends " in line}) == 20, "all handled")
    ends = [line.split()[2].encode() for line in lines() if " ends " in line]
    driver.log.handled.update(ends)
    driver.duplicates, driver.faults = len(ends) - 20, 1
    return CaseOutcome.passed


@contextlib.asynccontextmanager
async def _worker(driver: Driver, url: str, name: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a worker process; it ends well, also when it stood still."""
    command = ("-m", "missive", "run", "conformance_worker.py:proc", "--from", url, "--dlq", driver.dlq)
    worker = await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        cwd=driver.directory,
        env={**os.environ, "WORKER": name},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield worker
        worker.terminate()
        async with asyncio.timeout(WAIT_SECONDS):
            await worker.wait()
        check(worker.returncode == 0, f"the {name} worker ended with {worker.returncode}")
    finally:
        if worker.returncode is None:
            worker.kill()
            await worker.wait()
