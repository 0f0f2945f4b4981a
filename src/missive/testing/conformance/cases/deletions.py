"""Case 74: messages that are deleted at the source while a consumer holds them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from typing_extensions import Self

from missive.app.context import HandlingContext
from missive.app.processor import Processor
from missive.matchers import Everything
from missive.messages import RawMessage
from missive.testing.conformance.catalogue import CaseOutcome, case
from missive.testing.conformance.checks import check
from missive.testing.conformance.driver import Driver, numbered
from missive.testing.conformance.wrapping import WrappedSession
from missive.transport import Credit, Delivery, Session

_COUNT = 20
_RENEWALS = 1.2
"""Time that the handler waits after the deletion, in leases: every lease is renewed meanwhile."""


class _Lines(logging.Handler):
    """Collects the log lines of a block."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def __enter__(self) -> Self:
        logging.getLogger("missive").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("missive").removeHandler(self)


class _Fetches(WrappedSession):
    """A session that records its deliveries."""

    def __init__(self, inner: Session, fetched: list[bytes]) -> None:
        super().__init__(inner)
        self._fetched = fetched

    async def fetch(self, credit: Credit) -> Sequence[Delivery]:
        deliveries = await self.inner.fetch(credit)
        self._fetched += [one.body for one in deliveries]
        return deliveries


@case(74)
async def trimmed_while_held(driver: Driver) -> CaseOutcome:
    """Messages that are deleted while they are held are handled or filed, and the log claims no redelivery."""
    harness = driver.harness
    with _Lines() as log:
        ends = [await _delete_while_held(driver, b"m", harness.delete_all)]
        ends += [await _delete_while_held(driver, b"q", harness.destroy)]
        ends += [await _delete_while_held(driver, b"d", harness.delete_all, drain=True)]
    false = [line for line in log.lines if "leases are lost" in line or "messages are redelivered" in line]
    check(not false, f"the log claims that deleted messages are redelivered: {false}")
    return CaseOutcome.passed if any(ends) else CaseOutcome.refused


async def _delete_while_held(driver: Driver, prefix: bytes, delete: Callable[[], bool], *, drain: bool = False) -> bool:
    """Delete the messages that an engine holds. Prove that each is handled or filed. Return whether it was possible.

    After a drain, the balance of the suite finds the messages that are neither, and that are not redelivered.
    """
    processor = Processor(name="conformance", dlq=driver.dlq, retry=False)
    opened, fetched = asyncio.Event(), list[bytes]()
    handled = driver.log.handled
    tried: set[bytes] = set()
    bodies = [prefix + body for body in numbered(_COUNT)]

    @processor.handle_for(Everything(), concurrency=1)
    async def handle(message: RawMessage, context: HandlingContext[RawMessage]) -> None:
        await opened.wait()
        if message.raw_data == prefix + b"5" and message.raw_data not in tried:
            tried.add(message.raw_data)
            context.retry(0.1)
        elif message.raw_data == prefix + b"6":
            context.dead_letter("refused")
        else:
            handled[message.raw_data] += 1

    def filed() -> set[bytes]:
        return {record.body for record in driver.dead_letters()} & set(bodies)

    await driver.publish(*bodies)
    adapter = driver.adapter(processor, inside=lambda inner: _Fetches(inner, fetched))
    async with driver.serving(adapter) as task:
        await driver.until(lambda: set(fetched) >= set(bodies), "every message to be held")
        possible = await driver.in_thread(delete)
        await asyncio.sleep(_RENEWALS * driver.harness.lease if possible else 0)
        if drain:
            task.cancel()
            await asyncio.sleep(0.2)
        opened.set()
        if drain:
            await driver.until(task.done, "the end of the drain")  # another cancellation would cut it short
        else:
            await driver.until(lambda: set(handled) | filed() >= set(bodies), "each message to be handled or filed")
            check(filed() == {prefix + b"6"}, "a deleted message was filed although it could be handled")
    check(all(handled[body] <= 1 for body in bodies), "a deleted message was handled twice")
    handled.update(filed())
    return possible
