"""Cases 1 to 6, 73 and 76: messages arrive as they were published."""

from __future__ import annotations

import asyncio
import time

from missive.app.context import HandlingContext
from missive.app.processor import Processor
from missive.dlq.record import Record
from missive.errors import DeadLetter
from missive.matchers import Everything, Field, Present
from missive.messages import JSONMessage, Message, RawMessage
from missive.outcome import Reason
from missive.testing.conformance.catalogue import CaseOutcome, case
from missive.testing.conformance.checks import check
from missive.testing.conformance.driver import POLL_SECONDS, WAIT_SECONDS, Driver
from missive.testing.conformance.harness import Sent
from missive.testing.conformance.wrapping import WrappedSession
from missive.transport import Session


@case(1)
async def bodies(driver: Driver) -> CaseOutcome:
    """Empty, binary, text and largest bodies arrive byte for byte."""
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
    check(sorted(one.body for one in taken) == sorted(sent), "a body changed on its way")
    await driver.settle(session, taken)
    return CaseOutcome.passed


@case(2)
async def headers(driver: Driver) -> CaseOutcome:
    """Headers arrive unchanged. A transport without headers delivers none."""
    carried = driver.harness.headers
    pairs: list[tuple[str, str | bytes]] = []
    if "text" in carried:
        pairs += [("trace", "é1"), ("empty", "")]
    if "duplicate" in carried:
        pairs += [("twice", "1"), ("twice", "2")]
    if "bytes" in carried:
        pairs.append(("raw", b"\xff\xfe"))
    await driver.publish(Sent(b"with", headers=pairs), Sent(b"without"))
    session = await driver.open()
    taken = {one.body: one for one in await driver.take(session, 2)}
    found = {body: _pairs(one.headers) for body, one in taken.items()}
    check(found[b"with"] == sorted(pairs, key=repr), "a header changed on its way")
    check(found[b"without"] == [], "a message that was sent without headers arrived with headers")
    await driver.settle(session, list(taken.values()))
    return CaseOutcome.passed if carried else CaseOutcome.refused


def _pairs(given: object) -> list[tuple[str, str | bytes]]:
    pairs = given.items() if isinstance(given, dict) else given or ()
    return sorted(((name, value) for name, value in pairs), key=repr)  # type: ignore[attr-defined]


@case(3)
async def envelope(driver: Driver) -> CaseOutcome:
    """Key, timestamp and ids arrive where the harness declares them, and are None elsewhere."""
    preserved = driver.harness.preserves
    hour_ago = float(int(time.time()) - 3600)  # recent enough for the retention of the transport
    given = Sent(b"a", key="k-1", message_id="id-1", timestamp=hour_ago)
    carried = Sent(
        b"a",
        key=given.key if "key" in preserved else None,
        message_id=given.message_id if "producer_id" in preserved else None,
        timestamp=given.timestamp if "timestamp" in preserved else None,
    )
    await driver.publish(carried)
    session = await driver.open()
    (first,) = await driver.take(session, 1)
    key = first.key.decode() if isinstance(first.key, bytes) else first.key
    check(key == carried.key, "the key changed on its way")
    check(first.producer_id == carried.message_id, "the producer's id changed on its way")
    check(("timestamp" not in preserved) or first.timestamp == carried.timestamp, "the timestamp changed on its way")
    check(
        ("native_id" in preserved) == (first.native_id is not None),
        "the harness and the delivery disagree about a native id",
    )
    if driver.harness.reads_once:
        await driver.settle(session, [first])
        return CaseOutcome.passed
    await driver.close(session)
    session = await driver.open()
    (second,) = await driver.take(session, 1, driver.harness.redelivery_seconds)
    check(second.native_id == first.native_id, "a redelivery has a different native id")
    await driver.settle(session, [second])
    return CaseOutcome.passed if preserved else CaseOutcome.refused


@case(4)
async def native(driver: Driver) -> CaseOutcome:
    """A handler reaches the native handle of its message, and the client in the client's own thread."""
    await driver.publish(b"a")
    adapter = driver.adapter()
    session = await driver.open(adapter)
    taken = await driver.take(session, 1)
    check(taken[0].native is not None, "the delivery has no native handle")
    check(await adapter.acall(lambda: adapter.client is not None), "the adapter has no client")
    await driver.settle(session, taken)
    return CaseOutcome.passed


@case(5)
async def attempts(driver: Driver) -> CaseOutcome:
    """The delivery count is as exact as the adapter declares."""
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
        check(counts == [1, 2, 3], f"the counts are declared as exact, but they are {counts}")
    elif declared == "approximate":
        check(
            counts[0] == 1 and all(later > 1 for later in counts[1:]),
            f"the counts are declared as approximate, but they are {counts}",
        )
    else:
        check(set(counts) == {1}, f"no counts are declared, but they are {counts}")
        return CaseOutcome.refused
    return CaseOutcome.passed


@case(6)
async def undecodable(driver: Driver) -> CaseOutcome:
    """An undecodable message becomes a dead letter, and the next message is handled."""
    processor = Processor(JSONMessage, name="conformance", dlq=driver.dlq)
    handled = asyncio.Event()

    @processor.handle_for(Field("n", Present()))
    async def handle(message: JSONMessage, context: HandlingContext[JSONMessage]) -> None:
        driver.log.handled[message.raw_data] += 1
        handled.set()

    await driver.publish(b'{"broken', b'{"n": 1}')
    async with driver.serving(driver.adapter(processor)):
        await driver.until(handled.is_set, "the good message to be handled")
    stored = [record.body for record in await driver.in_thread(driver.dead_letters)]
    check(stored == [b'{"broken'], f"the store has {len(stored)} dead letters, not just the undecodable message")
    driver.log.handled.update(stored)
    return CaseOutcome.passed


@case(73)
async def odd_headers(driver: Driver) -> CaseOutcome:
    """Messages with odd headers, keys and ids are handled, or filed as unreadable, and their session goes on."""
    processor = Processor(RawMessage, name="conformance", dlq=driver.dlq)
    seen: dict[bytes, tuple[object, ...]] = {}
    sessions: list[Session] = []

    @processor.handle_for(Everything())
    def handle(message: RawMessage, context: HandlingContext[RawMessage]) -> None:
        check(repr(context.native) != "", "the native handle has no repr")
        seen[message.raw_data] = _storable(message)
        if message.raw_data != b"last":
            raise DeadLetter("odd")
        driver.log.handled[b"last"] += 1

    def opened(session: Session) -> Session:
        sessions.append(session)
        return WrappedSession(session)

    odd = await driver.in_thread(driver.harness.publish_odd)
    driver.log.published.update(odd)
    check(bool(odd) and len(set(odd)) == len(odd), "the harness published no odd messages with different bodies")
    await driver.publish(b"last")
    deadline = time.monotonic() + WAIT_SECONDS
    stored: list[Record] = []
    async with driver.serving(driver.adapter(processor, inside=opened)):
        while len(stored) < len(odd) or b"last" not in seen:
            check(len(sessions) <= 1, "a session ended at a message with odd headers")
            check(time.monotonic() < deadline, f"{len(odd) - len(stored)} messages with odd headers did not arrive")
            await asyncio.sleep(POLL_SECONDS)
            stored = await driver.in_thread(driver.dead_letters)
    check(len(sessions) == 1, "a session ended at a message with odd headers")
    check(sorted(one.body for one in stored) == sorted(odd), "the dead letters are not the odd messages")
    for record in stored:
        handled = seen.get(record.body)
        check(
            (handled is None) == (record.reason is Reason.unreadable),
            f"a message with odd headers was filed as {record.reason}",
        )
        check(
            handled in (None, (record.headers, record.key, record.sent_at)),
            "a dead letter has other headers, another key or another timestamp than the handler received",
        )
    driver.log.handled.update(odd)
    return CaseOutcome.passed


def _storable(message: Message) -> tuple[object, ...]:
    """Return the parts of a message that a dead letter keeps unchanged."""
    check(isinstance(message.message_id, str), "a message id is not text")
    check(message.topic is None or isinstance(message.topic, str), "a topic is not text")
    check(message.content_type is None or isinstance(message.content_type, str), "a content type is not text")
    check(message.timestamp is None or isinstance(message.timestamp, (int, float)), "a timestamp is not a number")
    for name, value in message.headers.pairs:
        check(isinstance(name, str) and isinstance(value, (str, bytes)), "a header is neither text nor bytes")
    return (message.headers.pairs, message.key, message.timestamp)


@case(76)
async def too_large(driver: Driver) -> CaseOutcome:
    """A body over the bound becomes a dead letter without its body, and the messages around it are handled."""
    bound = min(100_000, driver.harness.largest_body // 8)  # a pipe without a reader holds few bytes
    processor = Processor(name="conformance", dlq=driver.dlq)

    @processor.handle_for(Everything())
    async def handle(message: RawMessage, context: HandlingContext[RawMessage]) -> None:
        driver.log.handled[message.raw_data] += 1

    fitting = [b"first", b"f" * bound, b"last"]
    over = [b"o" * (bound + 1), b"p" * (5 * bound)]
    await driver.publish(fitting[0], over[0], fitting[1], over[1], fitting[2])
    async with driver.serving(driver.adapter(processor, max_body=bound)):
        await driver.until(lambda: set(driver.log.handled) >= set(fitting), "the messages within the bound")
        await driver.until(lambda: len(driver.dead_letters()) == len(over), "a dead letter for each message over it")
        await driver.until_empty()
    stored = {(str(record.reason), record.body) for record in await driver.in_thread(driver.dead_letters)}
    check(stored == {("too_large", b"")}, "a dead letter of a message over the bound has another reason, or a body")
    check(set(driver.log.handled) == set(fitting), "a handler ran for a message over the bound")
    driver.log.handled.update(over)
    return CaseOutcome.passed
