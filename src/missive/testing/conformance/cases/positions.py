"""Cases 56 and 57: committed positions that race completions, and positions that are gone."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import re
import time
from collections.abc import Iterator

from missive.app.context import HandlingContext
from missive.app.processor import Processor
from missive.errors import ForcedStop
from missive.matchers import Everything
from missive.messages import RawMessage
from missive.testing.conformance.catalogue import CaseOutcome, case
from missive.testing.conformance.checks import ConformanceError, check
from missive.testing.conformance.driver import POLL_SECONDS, WAIT_SECONDS, Driver, numbered
from missive.testing.conformance.harness import Sent
from missive.transport import Session, Watermark


@case(56)
async def racing(driver: Driver) -> CaseOutcome:
    """Commits that race completions never pass an incomplete message. Messages done beyond it are not handled again."""
    session = await driver.open()
    capabilities = session.capabilities
    if capabilities.commit != "cumulative":
        return await _without_watermarks(driver, session)
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
                await _watch_commits(driver, count, goal)
    twice = [body for body, times in driver.log.handled.items() if times > 1]
    driver.duplicates, driver.faults = len(twice), 1
    check(
        not twice or not capabilities.max_watermark,
        f"{len(twice)} messages that were done beyond the watermark were handled again",
    )
    return CaseOutcome.passed


def _race(driver: Driver, processor: Processor[RawMessage], stuck: bytes | None) -> None:
    """Register a handler that takes a different time for each message, and never finishes `stuck`."""
    chance = random.Random(24)  # noqa: S311 - handler times are no secret

    @processor.handle_for(Everything(), ordered_by=lambda message: message.raw_data)
    async def handle(message: RawMessage, context: HandlingContext[RawMessage]) -> None:
        await asyncio.sleep(3600 if message.raw_data == stuck else chance.random() / 20)
        driver.log.handled[message.raw_data] += 1


async def _watch_commits(driver: Driver, count: int, goal: int) -> None:
    """Poll the committed position until `goal` messages are handled. It must never pass an incomplete message."""
    handled = driver.log.handled
    deadline = time.monotonic() + WAIT_SECONDS
    polls = 0
    while len(handled) < goal or not polls:
        check(time.monotonic() < deadline, f"waited {WAIT_SECONDS:g} s for {goal} messages to be handled")
        left = await driver.in_thread(driver.harness.remaining)
        polls += 1
        # More messages may be done by now than at the time of the commit, but not fewer.
        done = next(number for number in range(count + 1) if not handled[b"%d" % number])
        check(left is None or count - left <= done, "a commit passed an incomplete message")
        await asyncio.sleep(POLL_SECONDS)


async def _without_watermarks(driver: Driver, session: Session) -> CaseOutcome:
    """Prove that a transport that settles each message refuses a commit."""
    await driver.publish(b"0")
    with contextlib.suppress(NotImplementedError):
        await session.commit({None: Watermark(0)})
        raise ConformanceError("commits are not declared, but commit() was accepted")
    await driver.settle(session, await driver.take(session, 1))
    return CaseOutcome.refused


@case(57)
async def position_gone(driver: Driver) -> CaseOutcome:
    """A lost position is logged in one line with the old and the new position, and every stored message is handled."""
    harness = driver.harness
    session = await driver.open()
    if session.capabilities.commit != "cumulative":
        return await _without_watermarks(driver, session)
    await driver.publish(*numbered(10))
    await driver.settle(session, await driver.take(session, 10))
    await driver.close(session)
    if not harness.trims:
        return CaseOutcome.refused
    await driver.publish(*numbered(10, 30))
    await driver.in_thread(harness.trim, 20)
    driver.log.published -= set(numbered(10, 20))
    await _loudly(driver, ("10", "20"), range(20, 30))
    await driver.in_thread(harness.overrun, 1000)
    await _loudly(driver, ("1000", "30"), range(30, 40))
    return CaseOutcome.passed


async def _loudly(driver: Driver, moved: tuple[str, str], numbers: range) -> None:
    """Handle the stored messages, or publish them after the log line. Prove that one line names both positions."""
    processor = Processor(name="conformance", dlq=driver.dlq)
    handled = driver.log.handled

    @processor.handle_for(Everything())
    async def handle(message: RawMessage, context: HandlingContext[RawMessage]) -> None:
        handled[message.raw_data] += 1

    with _errors() as lines:
        async with driver.serving(driver.adapter(processor)):
            await driver.until(lambda: lines, "a log line about the lost position")
            if b"%d" % numbers[0] not in driver.log.published:
                await driver.publish(*(b"%d" % number for number in numbers))
            await driver.until(
                lambda: all(handled[b"%d" % number] for number in numbers), "the other messages to be handled"
            )
    check(len(lines) == 1 and "\n" not in lines[0], f"{len(lines)} log lines report the lost position instead of one")
    words = re.findall(r"\w+", lines[0])
    check(all(one in words for one in moved), f"the log line does not name the positions {moved[0]} and {moved[1]}")
    check(sum(handled[b"%d" % number] for number in numbers) == len(numbers), "a message was handled twice")


class _Errors(logging.Handler):
    """Collects the log lines of Missive at the level ERROR."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Collect one line."""
        self.lines.append(record.getMessage())


@contextlib.contextmanager
def _errors() -> Iterator[list[str]]:
    handler, logger = _Errors(), logging.getLogger("missive")
    logger.addHandler(handler)
    try:
        yield handler.lines
    finally:
        logger.removeHandler(handler)
