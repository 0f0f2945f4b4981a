"""Case 75: a wall clock that jumps hides no message, and makes no message wait for longer than its delay."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator
from unittest import mock

from missive.app.context import HandlingContext
from missive.app.processor import Processor
from missive.messages import RawMessage
from missive.testing.conformance.catalogue import CaseOutcome, case
from missive.testing.conformance.checks import check
from missive.testing.conformance.driver import Driver

_DELAYED, _PLAIN = 3, 20
_DELAY = 11.0
"""Longer than the engine holds a message in memory: the transport or the store delays the message."""
_JUMP = 3600.0
_LATEST = 2 * _DELAY + 40.0


@contextlib.contextmanager
def shifted(seconds: float) -> Iterator[None]:
    """Shift the wall clock of this process, `time.time`. Monotonic clocks and the broker's clock stay as they are."""
    real = time.time

    def now() -> float:
        return real() + seconds

    with mock.patch("time.time", now):
        yield


@case(75)
async def set_back(driver: Driver) -> CaseOutcome:
    """Delayed and new messages are handled once and in time, after the clock is set back an hour and forward again."""
    ran: Counter[bytes] = Counter()
    processor = Processor(name="conformance", dlq=driver.dlq)

    @processor.handle_for(lambda message: message.raw_data.startswith(b"delayed"), name="delayed", on_lane_retry="pass")
    async def handle_delayed(message: RawMessage, context: HandlingContext[RawMessage]) -> None:
        ran[message.raw_data] += 1
        if ran[message.raw_data] == 1:
            context.retry(_DELAY)

    @processor.handle_for(lambda message: message.raw_data.startswith(b"plain"), name="plain")
    async def handle_plain(message: RawMessage, _: HandlingContext[RawMessage]) -> None:
        ran[message.raw_data] += 1

    delayed = [b"delayed %d" % number for number in range(_DELAYED)]
    plain = [b"plain %d" % number for number in range(_PLAIN)]
    await driver.publish(*delayed, *plain[: _PLAIN // 2])
    async with driver.serving(driver.adapter(processor)):
        await driver.until(lambda: len(ran) == _DELAYED + _PLAIN // 2, "the first attempts")
        with shifted(-_JUMP):
            if driver.harness.broker:
                await driver.publish(*plain[_PLAIN // 2 :])
                await driver.until(lambda: all(ran[one] for one in plain), "messages that came after the jump")
            if not driver.harness.ends:  # the run has ended, and the next worker handles parked messages
                await driver.until(lambda: all(ran[one] == 2 for one in delayed), "the delayed messages", _LATEST)
            await driver.until_empty()
        await driver.until_empty()  # the clock is an hour ahead of the one before
    check(max(ran[one] for one in plain) == 1, "a message ran twice")
    check(max(ran[one] for one in delayed) <= 2, "a delayed message ran three times")
    driver.log.handled.update(ran)
    return CaseOutcome.passed
