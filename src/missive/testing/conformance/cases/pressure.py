"""Cases 18 to 21, 59 and 77: messages in flight are bounded, and waiting messages never block the others."""

from __future__ import annotations

import asyncio
import contextlib
import time
import tracemalloc
from collections.abc import AsyncIterator, Sequence

from missive.app.context import HandlingContext
from missive.app.processor import Processor
from missive.dlq.record import Status
from missive.engine.limits import Limits
from missive.matchers import Everything
from missive.messages import RawMessage
from missive.testing.conformance.catalogue import CaseOutcome, case
from missive.testing.conformance.checks import check
from missive.testing.conformance.driver import QUIET_SECONDS, Driver, numbered
from missive.testing.conformance.wrapping import WrappedSession
from missive.transport import Credit, Delivery, Session, Settlement, SettlementResult

_SIZE = 1000
_BACKLOG, _DEEP_BACKLOG = 10_000, 100_000
_WAITING = 40
"""Number of messages that an engine of case 77 holds, waiting ones included."""
_SOAK, _DEEP_SOAK = 2.0, 300.0
_PROGRESS = 2.0
"""Maximum time between two handled messages while a backlog exists, in seconds."""


class _Meter(WrappedSession):
    """Counts messages in flight: fetched and, where the transport settles each message, not yet settled."""

    def __init__(self, inner: Session, readings: _Readings) -> None:
        super().__init__(inner)
        self._readings = readings
        readings.falls = self.capabilities.commit == "each"

    async def fetch(self, credit: Credit) -> Sequence[Delivery]:
        deliveries = await self.inner.fetch(credit)
        self._readings.count(len(deliveries), sum(len(one.body) for one in deliveries))
        return deliveries

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[SettlementResult]:
        results = await self.inner.settle(settlements)
        if self._readings.falls:
            self._readings.count(-len(settlements), -sum(len(settlement.delivery.body) for settlement in settlements))
        return results


class _Readings:
    """The readings of a meter: the current and the highest number and size of messages in flight."""

    def __init__(self) -> None:
        self.items = self.bytes = self.most_items = self.most_bytes = 0
        self.falls = True
        """Whether settlements lower the readings. Watermarks do not name single messages."""

    def count(self, items: int, size: int) -> None:
        """Add to the messages in flight; negative values subtract."""
        self.items += items
        self.bytes += size
        self.most_items, self.most_bytes = max(self.most_items, self.items), max(self.most_bytes, self.bytes)


@contextlib.asynccontextmanager
async def _opened(gate: asyncio.Event) -> AsyncIterator[None]:
    """Open the gate at the end of the block, also after a failure, so that the engine can drain."""
    try:
        yield
    finally:
        gate.set()


def _gated(driver: Driver) -> tuple[Processor[RawMessage], asyncio.Event]:
    """Return a processor whose handlers wait for the returned event. The processor has no lanes."""
    processor, gate = Processor(name="conformance", dlq=driver.dlq, concurrency=8), asyncio.Event()

    @processor.handle_for(Everything(), ordered_by=lambda _: None)
    async def handle(message: RawMessage, context: HandlingContext[RawMessage]) -> None:
        await gate.wait()
        driver.log.handled[message.raw_data] += 1

    return processor, gate


def _bodies(name: str, count: int, size: int = _SIZE) -> list[bytes]:
    return [(b"%s-%d-" % (name.encode(), number)).ljust(size, b"x") for number in range(count)]


async def _publishing(driver: Driver, bodies: list[bytes]) -> asyncio.Future[None]:
    """Publish, and return when done. For a pipe, return at once and publish while the adapter reads."""
    publishing = asyncio.ensure_future(driver.publish(*bodies))
    if not driver.harness.reads_once:
        await publishing
    return publishing


async def _stalled(driver: Driver, credit: Credit, count: int, name: str) -> None:
    """Stall the handlers until intake stops at its limit, then release them until every message is handled."""
    log, readings = driver.log, _Readings()
    before = len(log.handled)
    processor, gate = _gated(driver)
    with driver.limited(credit):
        adapter = driver.adapter(processor, inside=lambda inner: _Meter(inner, readings))
        publishing = await _publishing(driver, _bodies(name, count))
        async with driver.serving(adapter), _opened(gate):
            full = min(credit.items, -(-credit.bytes // _SIZE))
            await driver.until(lambda: readings.items >= 0.75 * full, f"{full} messages in flight")
            await asyncio.sleep(QUIET_SECONDS)
            stopped = readings.items
            check(stopped <= full, f"{stopped} messages were fetched with a credit of {full}")
            check(stopped < count, "intake did not stop")
            gate.set()
            await publishing
            await driver.until(
                lambda: len(log.handled) == before + count, "every message to be handled after the stall"
            )
    largest = _SIZE + 12
    check(readings.most_bytes < credit.bytes + largest or not readings.falls, "the bytes in flight exceeded the credit")
    check(readings.most_items <= credit.items or not readings.falls, "the messages in flight exceeded the credit")


@case(18)
async def credit(driver: Driver) -> CaseOutcome:
    """Sessions and engines fetch within the credit: its items, and its bytes plus at most one message."""
    await driver.publish(*(b"%04d" % number * 250 for number in range(20)))
    session = await driver.open()
    taken: list[Delivery] = []
    while len(taken) < 6:
        taken += await driver.fetch(session, Credit(3, 64 << 20))
    while len(taken) < 12:
        got = await driver.fetch(session, Credit(20, 2500))
        check(sum(len(one.body) for one in got) <= 2500 + 1000, "a fetch exceeded its bytes by more than one message")
        taken += got
    while len(taken) < 20:
        taken += await driver.fetch(session, Credit(1, 1))
    await driver.settle(session, taken)
    await driver.close(session)
    await _stalled(driver, Credit(40, 64 << 20), 100, "items")
    await _stalled(driver, Credit(1000, 20_000), 100, "bytes")
    return CaseOutcome.passed


@case(19)
async def stops_and_resumes(driver: Driver) -> CaseOutcome:
    """Intake stops at the credit while handlers stall, and resumes with them, several times."""
    for turn in range(3):
        await _stalled(driver, Credit(30, 64 << 20), 80, f"turn{turn}")
    return CaseOutcome.passed


@case(20)
async def flat(driver: Driver) -> CaseOutcome:
    """A backlog behind a stalled handler uses memory for its credit only, whatever its length."""
    count, size = (_DEEP_BACKLOG if driver.deep else _BACKLOG), 2000
    processor, gate = _gated(driver)
    publishing = await _publishing(driver, _bodies("backlog", count, size))
    readings = _Readings()
    tracemalloc.start(1)
    try:
        adapter = driver.adapter(processor, inside=lambda inner: _Meter(inner, readings))
        async with driver.serving(adapter), _opened(gate):
            await driver.until(lambda: readings.items >= 200, "intake to fill up")
            before = -1
            while before != readings.items:
                before = readings.items
                await asyncio.sleep(QUIET_SECONDS)
            used, _ = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            check(
                before <= Limits().items,
                f"{before} messages are in flight, and the credit is {Limits().items}",
            )
            check(used < 6 * size * Limits().items, f"{before} messages of {size} bytes use {used >> 20} MiB")
            gate.set()
            await publishing
            await driver.until(
                lambda: len(driver.log.handled) == count, "every message to be handled", 60 + count / 200
            )
    finally:
        tracemalloc.stop()
    return CaseOutcome.passed


@case(21)
async def not_starved(driver: Driver) -> CaseOutcome:
    """A stalled lane with more messages than the credit does not delay the other lanes."""
    processor, gate = Processor(name="conformance", dlq=driver.dlq, concurrency=2), asyncio.Event()

    @processor.handle_for(Everything(), ordered_by=_key_of)
    async def handle(message: RawMessage, context: HandlingContext[RawMessage]) -> None:
        if message.raw_data.startswith(b"slow"):
            await gate.wait()
        driver.log.handled[message.raw_data] += 1

    await driver.publish(*_bodies("slow", 60, 20), *_bodies("fast", 30, 20))
    # On a cumulative transport, messages that are done beyond the watermark still use credit. The fast lane fits in.
    with driver.limited(Credit(40, 64 << 20)):
        async with driver.serving(driver.adapter(processor)), _opened(gate):
            await driver.until(lambda: len(driver.log.handled) == 30, "the fast lane")
            check(all(body.startswith(b"fast") for body in driver.log.handled), "the slow lane did not stall")
            gate.set()
            await driver.until(lambda: len(driver.log.handled) == 90, "the slow lane after the stall")
    return CaseOutcome.passed


@case(77)
async def full_of_waiting(driver: Driver) -> CaseOutcome:
    """Messages of a slow key fill the prefetch and the engine's limit several times. The keys behind it go on.

    The order of the slow key holds, and each message is handled once, wherever the messages waited.
    """
    processor, gate = Processor(name="conformance", dlq=driver.dlq, concurrency=4), asyncio.Event()
    done, running = list[bytes](), set[bytes]()

    @processor.handle_for(Everything(), ordered_by=_key_of)
    async def handle(message: RawMessage, context: HandlingContext[RawMessage]) -> None:
        key = _key_of(message)
        check(key not in running, f"two messages of {key.decode()} run at the same time")
        running.add(key)
        try:
            if key == b"slow":
                await gate.wait()
            done.append(message.raw_data)
            driver.log.handled[message.raw_data] += 1
        finally:
            running.discard(key)

    slow, quick = _bodies("slow", 4 * _WAITING, 20), _bodies("quick", 10, 20)
    await driver.publish(*slow, *quick)
    with driver.limited(Credit(20, 64 << 20), _WAITING):
        async with driver.serving(driver.adapter(processor)) as serving, _opened(gate):
            await driver.until(lambda: len(done) == len(quick), "the quick messages behind a slow key")
            check(done == quick, "the slow key was not slow")
            gate.set()
            await driver.until(lambda: len(done) >= len(quick) + len(slow) or serving.done(), "the slow key", 60)
        handled = done[len(quick) :]
        check(handled == slow[: len(handled)], "the order of the slow key was broken")
        check(handled == slow, f"{len(handled)} of {len(slow)} messages of the slow key were handled")
    left = sum(record.status is not Status.resolved for record in driver.dead_letters())
    check(not left, f"{left} messages that waited in the store are still there")
    await driver.until_empty()
    return CaseOutcome.passed


def _key_of(message: RawMessage) -> bytes:
    return message.raw_data.split(b"-")[0]


@case(59)
async def soak(driver: Driver) -> CaseOutcome:
    """Under a steady load with failures, handling makes progress every few seconds while a backlog exists."""
    processor = Processor(name="conformance", dlq=driver.dlq, concurrency=8)
    handled, tried, ended = driver.log.handled, set[bytes](), time.monotonic()
    longest = 0.0

    @processor.handle_for(Everything())
    async def handle(message: RawMessage, context: HandlingContext[RawMessage]) -> None:
        nonlocal ended, longest
        number = int(message.raw_data)
        if number % 50 == 0 and message.raw_data not in tried:
            tried.add(message.raw_data)
            context.retry(0.05)
            return
        await asyncio.sleep(0.002)
        handled[message.raw_data] += 1
        now = time.monotonic()
        longest, ended = max(longest, now - ended), now
        if number % 50 == 1:
            context.dead_letter("unwanted")

    seconds = _DEEP_SOAK if driver.deep else _SOAK
    count = 300
    await driver.publish(*numbered(count))
    async with driver.serving(driver.adapter(processor)):
        await driver.until(lambda: handled, "the first message to be handled")
        began, longest = time.monotonic(), 0.0
        while time.monotonic() - began < seconds and not driver.harness.ends:
            if count - len(handled) < 200:  # keep a backlog
                await driver.publish(*numbered(count, count + 200))
                count += 200
            await asyncio.sleep(0.02)
            check(time.monotonic() - ended < _PROGRESS, f"no message was handled for {_PROGRESS:g} s")
        await driver.until(lambda: len(handled) == count, "every message to be handled", 60)
    check(longest < _PROGRESS, f"no message was handled for {longest:.1f} s")
    return CaseOutcome.passed
