"""Cases 60 to 63: the store has the complete dead letter before the original is settled."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence

from missive.app.context import HandlingContext
from missive.app.processor import Processor
from missive.dlq.contract import Query
from missive.dlq.record import Record
from missive.dlq.sql import SQLStore
from missive.errors import StoreError
from missive.matchers import Everything
from missive.messages import RawMessage
from missive.testing.conformance import processes
from missive.testing.conformance.catalogue import CaseOutcome, case
from missive.testing.conformance.checks import check
from missive.testing.conformance.driver import Driver, numbered
from missive.testing.conformance.harness import Sent
from missive.testing.conformance.wrapping import WrappedSession
from missive.transport import Credit, Delivery, Disposition, Session, Settlement, SettlementResult, Watermark


class _Down(SQLStore):
    """A store whose first `times` writes fail."""

    def __init__(self, url: str, times: int) -> None:
        super().__init__(url)
        self.left = times
        self.records: list[Record] = []

    def put(self, records: Sequence[Record]) -> dict[str, str]:
        if self.left:
            self.left -= 1
            raise StoreError("the store is down")
        joined = super().put(records)
        self.records += records
        return joined


async def _fail(driver: Driver, sink: _Down, message: Sent) -> None:
    """Publish a message whose handler fails, and wait for its dead letter."""
    processor = Processor(name="conformance", dlq=sink)

    @processor.handle_for(Everything())
    async def handle(message: RawMessage, context: HandlingContext[RawMessage]) -> None:
        driver.log.handled[message.raw_data] += 1
        raise ValueError("on purpose")

    await driver.publish(message)
    async with driver.serving(driver.adapter(processor)):
        await driver.until(lambda: sink.records, "a dead letter to be stored")


_SLOW = 0.15
"""Duration of a write to the slow store, in seconds. No original may be settled within it."""


class _Slow(SQLStore):
    """A store that is slow to write."""

    def put(self, records: Sequence[Record]) -> dict[str, str]:
        time.sleep(_SLOW)
        return super().put(records)


class _Watched(WrappedSession):
    """A session that checks, at each settlement, whether the store has the settled message.

    It reads the store through a connection of its own, as another process would.
    """

    def __init__(self, inner: Session, url: str, settled: dict[bytes, bool]) -> None:
        super().__init__(inner)
        self._url = url
        self._settled = settled
        self._fetched: list[Delivery] = []

    async def fetch(self, credit: Credit) -> Sequence[Delivery]:
        deliveries = await self.inner.fetch(credit)
        self._fetched += deliveries
        return deliveries

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[SettlementResult]:
        if self.capabilities.commit != "cumulative":
            await self._check(
                {settlement.delivery.body for settlement in settlements if settlement.disposition is Disposition.ack}
            )
        return await self.inner.settle(settlements)

    async def commit(self, watermarks: Mapping[str | None, Watermark]) -> Mapping[str | None, SettlementResult]:
        passed = {
            one.body
            for one in self._fetched
            if one.lane in watermarks and (one.position or 0) <= watermarks[one.lane].position
        }
        await self._check(passed)
        return await self.inner.commit(watermarks)

    async def _check(self, bodies: set[bytes]) -> None:
        def read_stored() -> set[bytes]:
            with contextlib.closing(SQLStore(self._url)) as store:
                return {record.body for record in store.query(Query())}

        stored = await asyncio.to_thread(read_stored)
        for body in bodies:
            self._settled.setdefault(body, body in stored)


@case(60)
async def stored_first(driver: Driver) -> CaseOutcome:
    """The store has a dead letter before its original is settled, also when the store is slow."""
    settled: dict[bytes, bool] = {}
    processor = Processor(name="conformance", dlq=_Slow(driver.dlq), concurrency=4)

    @processor.handle_for(Everything())
    async def handle(message: RawMessage, context: HandlingContext[RawMessage]) -> None:
        driver.log.handled[message.raw_data] += 1
        raise ValueError("on purpose")

    adapter = driver.adapter(processor, inside=lambda inner: _Watched(inner, driver.dlq, settled))
    await driver.publish(*numbered(10))
    async with driver.serving(adapter):
        await driver.until(lambda: len(settled) == 10, "every original to be settled")
    early = sum(not stored for stored in settled.values())
    check(not early, f"{early} originals were settled before their dead letters were stored")
    return CaseOutcome.passed


@case(61)
async def store_down(driver: Driver) -> CaseOutcome:
    """The original stays unsettled while the store is down, and is settled when the store is back."""
    sink = _Down(driver.dlq, 2)
    await _fail(driver, sink, Sent(b"bad"))
    check(sink.left == 0 and len(sink.records) == 1, "the dead letter was stored more than once")
    return CaseOutcome.passed


_CRASHES = """
import os, signal, sys
import missive
from missive.dlq.sql import SQLStore
from missive.matchers import Everything

class Crashes(SQLStore):
    def put(self, records):
        super().put(records)
        if not os.path.exists("crashed"):
            open("crashed", "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        open("stored again", "w").close()

proc = missive.Processor(name="conformance", dlq=Crashes(os.environ["CONFORMANCE_DLQ"]))

@proc.handle_for(Everything())
def handle(message, context):
    with open("handled", "ab") as out:
        out.write(message.raw_data + b"\\n")
    raise ValueError("on purpose")
"""


@case(62)
async def crashed_between(driver: Driver) -> CaseOutcome:
    """A worker that is killed between store and settlement handles the message again and has one record of it."""
    harness, directory = driver.harness, driver.directory
    if harness.url is None:
        return CaseOutcome.refused
    (directory / "crashing.py").write_text(_CRASHES)
    await driver.publish(Sent(b"bad", message_id="one" if "producer_id" in harness.preserves else None))
    command = ("run", "crashing.py:proc", "--from", harness.url)
    env = {"CONFORMANCE_DLQ": driver.dlq}
    async with processes.running(directory, *command, env=env) as first:
        await driver.until(lambda: first.returncode is not None, "the crash")
    async with processes.running(directory, *command, env=env) as second:
        stored_again = directory / "stored again"
        await driver.until(stored_again.exists, "a second dead letter", harness.redelivery_seconds + 30)
        await processes.stop(second)
    driver.log.handled.update((directory / "handled").read_bytes().split())
    driver.duplicates = driver.faults = 1
    check(driver.log.handled[b"bad"] == 2, f"the message was handled {driver.log.handled[b'bad']} times instead of 2")
    records = driver.dead_letters()
    identified = "producer_id" in harness.preserves or "native_id" in harness.preserves or harness.line_based
    check(len(records) == 1 or not identified, f"the store has {len(records)} records of one message")
    check(len(records) == 2 or records[0].attempts == 2, "the record does not count both attempts")
    return CaseOutcome.passed


@case(63)
async def complete(driver: Driver) -> CaseOutcome:
    """The stored dead letter has the body, headers, key, source, attempts and error of its message."""
    harness = driver.harness
    body = bytes(range(256)).replace(b"\n", b"") if harness.line_based else bytes(range(256))
    headers = [("trace", "1")] if "text" in harness.headers else []
    key = "k" if "key" in harness.preserves else None
    await _fail(driver, _Down(driver.dlq, 0), Sent(body, headers=headers, key=key))
    (record,) = driver.dead_letters()
    check(record.body == body, "the body of the dead letter changed")
    check(set(headers) <= set(record.headers), "the dead letter does not have the headers of its message")
    check(key is None or record.key in (key, key.encode()), "the key of the dead letter changed")
    check(record.origin.transport == driver.adapter().transport, "the dead letter does not name its source")
    check(record.attempts == 1, f"the dead letter counts {record.attempts} attempts instead of 1")
    check("ValueError" in repr(record.error_type), "the dead letter does not name the error")
    return CaseOutcome.passed
