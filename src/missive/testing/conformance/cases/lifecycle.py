"""Cases 38 to 44: connecting, sharing a source, draining and closing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections import Counter
from pathlib import Path

from missive.adapters.base import Adapter
from missive.app.context import HandlingContext
from missive.app.processor import Processor
from missive.errors import Fatal, ForcedStop, Transient
from missive.matchers import Everything
from missive.messages import RawMessage
from missive.testing.conformance.catalogue import CaseOutcome, case
from missive.testing.conformance.checks import ConformanceError, check
from missive.testing.conformance.driver import WAIT_SECONDS, Driver, numbered
from missive.testing.conformance.harness import Sent
from missive.testing.conformance.host import KitHost
from missive.transport import Credit, Disposition, Settlement, Watermark

_SECRET = "canary-9d1c-secret"  # noqa: S105 - a canary that must never be printed


@case(38)
async def drain(driver: Driver) -> CaseOutcome:
    """A drain waits for running handlers, and settles their messages."""
    processor = Processor(name="conformance", dlq=driver.dlq)
    started = asyncio.Event()

    @processor.handle_for(Everything())
    async def handle(message: RawMessage, context: HandlingContext[RawMessage]) -> None:
        started.set()
        await asyncio.sleep(0.3)
        driver.log.handled[message.raw_data] += 1

    await driver.publish(b"0")
    async with driver.serving(driver.adapter(processor)):
        await driver.until(started.is_set, "a handler to start")
    check(driver.log.handled[b"0"] == 1, "the drain did not wait for the running handler")
    return CaseOutcome.passed


@case(39)
async def deadline(driver: Driver) -> CaseOutcome:
    """A message that is unfinished at the drain deadline is redelivered."""
    processor = Processor(name="conformance", dlq=driver.dlq)
    started = asyncio.Event()

    @processor.handle_for(Everything())
    async def handle(message: RawMessage, context: HandlingContext[RawMessage]) -> None:
        started.set()
        await asyncio.sleep(60)

    await driver.publish(b"0")
    adapter = driver.adapter(processor)
    adapter.drain = 0.2
    with contextlib.suppress(ForcedStop):
        async with driver.serving(adapter):
            await driver.until(started.is_set, "a handler to start")
    if driver.harness.reads_once:
        driver.log.handled[b"0"] += 1
        return CaseOutcome.refused
    session = await driver.open()
    again = await driver.take(session, 1, driver.harness.redelivery_seconds)
    await driver.settle(session, again)
    return CaseOutcome.passed


@case(40)
async def close(driver: Driver) -> CaseOutcome:
    """A cancelled fetch loses nothing, and a session can be closed twice, also concurrently."""
    ends = driver.harness.ends
    if ends:
        await driver.publish(*numbered(20))
    session = await driver.open()
    for turn in range(20):
        waiting = asyncio.ensure_future(session.fetch(Credit(1, 1000)))
        if not ends:
            await driver.publish(b"%d" % turn)
        await asyncio.sleep(0.002 * turn)
        if not waiting.done():
            waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            driver.record(session, await waiting)
    got = list(driver.recorded(session))
    got += await driver.take(session, 20 - len(got), driver.harness.redelivery_seconds)
    check(len({one.body for one in got}) == 20, "a cancelled fetch lost messages")
    await driver.settle(session, got)
    async with asyncio.timeout(30):
        await asyncio.gather(session.close(), session.close())
        await session.close()
    return CaseOutcome.passed


@case(41)
async def no_leaks(driver: Driver) -> CaseOutcome:
    """Closed sessions leave no task, thread or open file behind."""
    if not driver.harness.reads_once:
        await driver.publish(b"0", b"1")

    async def use() -> None:
        session = await driver.open()
        if not driver.harness.reads_once:
            await driver.take(session, 1, driver.harness.redelivery_seconds)
        await driver.close(session)

    await use()
    before = _census()
    for _ in range(3):
        await use()
    await asyncio.sleep(0)
    for kind, count in _census().items():
        check(count <= before[kind], f"three sessions left {count - before[kind]} {kind} behind")
    return CaseOutcome.passed


def _census() -> dict[str, int]:
    files = Path("/proc/self/fd")
    return {
        "tasks": len(asyncio.all_tasks()),
        "threads": sum(1 for one in threading.enumerate() if not one.name.startswith("asyncio")),
        "files": len(os.listdir(files)) if files.is_dir() else 0,  # noqa: PTH208 - a listed entry may be gone already
    }


@case(42, created=False)
async def missing(driver: Driver) -> CaseOutcome:
    """Connecting to a missing source raises Transient with its name; once the source exists, connecting works."""
    harness = driver.harness
    if not harness.creatable:
        await driver.in_thread(harness.create)
        return CaseOutcome.refused
    adapter = driver.adapter()
    try:
        session = await adapter.connect(KitHost())
    except Transient as error:
        check(adapter.destination in str(error), "the error does not name the missing source")
    else:
        await session.close()
        raise ConformanceError("connect() succeeded, but the source does not exist")
    await driver.in_thread(harness.create)
    await driver.publish(b"0")
    session = await driver.open(adapter)
    await driver.settle(session, await driver.take(session, 1))
    return CaseOutcome.passed


@case(43)
async def credentials(driver: Driver) -> CaseOutcome:
    """Wrong credentials raise Fatal at once, and are not printed."""
    if not driver.harness.credentials:
        return CaseOutcome.refused
    adapter = driver.adapter(password=_SECRET)
    try:
        session = await adapter.connect(KitHost())
    except Fatal as error:
        shown = f"{error!r} {error} {adapter!r} {adapter.url} {error.__cause__!r} {error.__context__!r}"
        check(_SECRET not in shown, "an error, a repr or the URL shows the password")
        return CaseOutcome.passed
    except Transient:
        raise ConformanceError(
            "wrong credentials raised Transient, so that the engine would try them for ever"
        ) from None
    await session.close()
    raise ConformanceError("wrong credentials were accepted")


@case(44, created=False)
async def groups(driver: Driver) -> CaseOutcome:
    """Each group receives all messages. The members of a group share them, and none receives another's message."""
    harness, outcome = driver.harness, CaseOutcome.refused
    harness.lanes = 2
    await driver.in_thread(harness.create)
    if harness.groups:
        outcome = CaseOutcome.passed
        bodies = {b"group-%d" % number for number in range(20)}
        await driver.publish(*bodies)
        session = await driver.open()
        await driver.settle(session, await driver.take(session, 20))
        await driver.close(session)
        await _other_group(driver, bodies)
    if driver.adapter().shareable:
        outcome = CaseOutcome.passed
        await _members(driver)
    elif not harness.groups:
        await driver.publish(b"0")
        session = await driver.open()
        await driver.settle(session, await driver.take(session, 1))
    return outcome


async def _other_group(driver: Driver, bodies: set[bytes]) -> None:
    """Take every message as another group, without the log of the case."""
    seen: list[bytes] = []
    session = await driver.adapter(group="other").connect(KitHost(driver.dlq))
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            while len(seen) < len(bodies):
                deliveries = await session.fetch(Credit(100, 1 << 20))
                seen += [one.body for one in deliveries]
                if session.capabilities.commit == "cumulative":
                    await session.commit({one.lane: Watermark(one.position or 0) for one in deliveries})
                else:
                    await session.settle([Settlement(one, Disposition.ack) for one in deliveries])
    finally:
        await session.close()
    check(sorted(seen) == sorted(bodies), "the other group did not receive every message once")


async def _members(driver: Driver) -> None:
    """Run two members of one group concurrently."""
    shares: Counter[str] = Counter()

    def member(name: str) -> Adapter:
        processor = Processor(name="conformance", dlq=driver.dlq)

        @processor.handle_for(Everything(), ordered_by=lambda _: None)
        async def handle(message: RawMessage, context: HandlingContext[RawMessage]) -> None:
            await asyncio.sleep(0.005)
            shares[name] += 1
            driver.log.handled[message.raw_data] += 1

        return driver.adapter(processor)

    one, two = member("one"), member("two")
    async with driver.serving(one), driver.serving(two):
        await driver.until(lambda: _connected(one) and _connected(two), "two connected members")
        count = 0
        while len(shares) < 2:
            check(count < 2000, "one of the members received no message")
            await driver.publish(*(Sent(b"%d" % number, key=f"k{number}") for number in range(count, count + 40)))
            count += 40
            await driver.until(lambda: sum(shares.values()) >= count - 20, "progress")  # noqa: B023 - called in this turn only
        await driver.until(lambda: sum(shares.values()) >= count, "every message to be handled")
        await driver.until_empty()
    twice = sum(shares.values()) - count
    check(twice <= driver.harness.handover_duplicates, f"{twice} messages went to both members")


def _connected(adapter: Adapter) -> bool:
    try:
        return adapter.session is not None
    except Transient:
        return False
