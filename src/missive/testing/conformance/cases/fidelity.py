"""Cases 1 to 6: what was published is what arrives."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from missive.app.context import HandlingContext
from missive.app.processor import Processor
from missive.matchers import Field, Present
from missive.messages import JSONMessage
from missive.testing.conformance.catalogue import CaseOutcome, case
from missive.testing.conformance.checks import check
from missive.testing.conformance.harness import Sent

if TYPE_CHECKING:
    from missive.testing.conformance.driver import Driver


@case(1)
async def bodies(driver: Driver) -> CaseOutcome:
    """Bodies arrive to the byte: empty, binary, text, and the largest."""
    every = bytes(range(256)) * 2
    sent = [
        b"",
        every.replace(b"\n", b"") if driver.harness.line_based else every,
        "é∂".encode(),
        b"x" * driver.harness.largest_body,
    ]
    await driver.publish(*sent)
    session = await driver.open()
    taken = await driver.take(session, len(sent))
    check(sorted(one.body for one in taken) == sorted(sent), "bodies arrived changed")
    await driver.settle(session, taken)
    return CaseOutcome.passed


@case(2)
async def headers(driver: Driver) -> CaseOutcome:
    """Headers arrive as they were given; a transport that declares none delivers none."""
    can = driver.harness.headers
    pairs: list[tuple[str, str | bytes]] = []
    if "text" in can:
        pairs += [("trace", "é1"), ("empty", "")]
    if "duplicate" in can:
        pairs += [("twice", "1"), ("twice", "2")]
    if "bytes" in can:
        pairs.append(("raw", b"\xff\xfe"))
    await driver.publish(Sent(b"with", headers=pairs), Sent(b"without"))
    session = await driver.open()
    taken = {one.body: one for one in await driver.take(session, 2)}
    found = {body: _pairs(one.headers) for body, one in taken.items()}
    check(found[b"with"] == sorted(pairs, key=repr), "headers arrived changed")
    check(found[b"without"] == [], "headers arrived that nobody sent")
    await driver.settle(session, list(taken.values()))
    return CaseOutcome.passed if can else CaseOutcome.refused


def _pairs(given: object) -> list[tuple[str, str | bytes]]:
    pairs = given.items() if isinstance(given, dict) else given or ()
    return sorted(((name, value) for name, value in pairs), key=repr)  # type: ignore[attr-defined]


@case(3)
async def envelope(driver: Driver) -> CaseOutcome:
    """Key, timestamp and ids arrive where the transport keeps them, and are None where it does not."""
    keeps = driver.harness.preserves
    hour_ago = float(int(time.time()) - 3600)  # not so old that the transport's retention deletes it
    given = Sent(b"a", key="k-1", message_id="id-1", timestamp=hour_ago)
    carried = Sent(
        b"a",
        key=given.key if "key" in keeps else None,
        message_id=given.message_id if "producer_id" in keeps else None,
        timestamp=given.timestamp if "timestamp" in keeps else None,
    )
    await driver.publish(carried)
    session = await driver.open()
    (first,) = await driver.take(session, 1)
    key = first.key.decode() if isinstance(first.key, bytes) else first.key
    check(key == carried.key, "the key is another")
    check(first.producer_id == carried.message_id, "the producer's id is another")
    check(("timestamp" not in keeps) or first.timestamp == carried.timestamp, "the timestamp is another")
    check(("native_id" in keeps) == (first.native_id is not None), "the native id is not as declared")
    if driver.harness.reads_once:
        await driver.settle(session, [first])
        return CaseOutcome.passed
    await driver.close(session)
    session = await driver.open()
    (second,) = await driver.take(session, 1, driver.harness.redelivery_seconds)
    check(second.native_id == first.native_id, "a redelivery has another native id")
    await driver.settle(session, [second])
    return CaseOutcome.passed if keeps else CaseOutcome.refused


@case(4)
async def native(driver: Driver) -> CaseOutcome:
    """The native handle of a message, and the client on its own thread, are within reach."""
    await driver.publish(b"a")
    adapter = driver.adapter()
    session = await driver.open(adapter)
    taken = await driver.take(session, 1)
    check(taken[0].native is not None, "context.native would be None")
    check(await adapter.acall(lambda: adapter.client is not None), "there is no client")
    await driver.settle(session, taken)
    return CaseOutcome.passed


@case(5)
async def attempts(driver: Driver) -> CaseOutcome:
    """Deliveries are counted as exactly as declared."""
    await driver.publish(b"a")
    counts: list[int] = []
    for turn in range(3):
        if turn and driver.harness.reads_once:
            break
        session = await driver.open()
        declared = session.capabilities.attempts
        taken = await driver.take(session, 1, driver.harness.redelivery_seconds)
        counts += [one.attempt for one in taken]
        if turn == 2 or driver.harness.reads_once:
            await driver.settle(session, taken)
        await driver.close(session)
    if declared == "exact":
        check(counts == [1, 2, 3], f"exact counts are {counts}")
    elif declared == "approximate":
        check(counts[0] == 1 and all(later > 1 for later in counts[1:]), f"approximate counts are {counts}")
    else:
        check(set(counts) == {1}, f"deliveries are not counted, and the counts are {counts}")
        return CaseOutcome.refused
    return CaseOutcome.passed


@case(6)
async def undecodable(driver: Driver) -> CaseOutcome:
    """What cannot be decoded becomes a dead letter, and what comes after it is handled."""
    processor = Processor(JSONMessage, name="conformance", dlq=driver.dlq)
    handled = asyncio.Event()

    @processor.handle_for(Field("n", Present()))
    async def handle(message: JSONMessage, context: HandlingContext[JSONMessage]) -> None:
        driver.log.handled[message.raw_data] += 1
        handled.set()

    await driver.publish(b'{"broken', b'{"n": 1}')
    async with driver.serving(driver.adapter(processor)):
        await driver.until(handled.is_set, "the good one handled")
    filed = [record.body for record in await driver.in_thread(driver.dead_letters)]
    check(filed == [b'{"broken'], f"{len(filed)} dead letters, and not the one that cannot be decoded")
    driver.log.handled.update(filed)
    return CaseOutcome.passed
