"""Cases 51 and 52: worker processes that die or freeze."""

from __future__ import annotations

import contextlib
import random
import signal
import time

from missive.testing.conformance import processes
from missive.testing.conformance.catalogue import CaseOutcome, case
from missive.testing.conformance.checks import check
from missive.testing.conformance.driver import Driver, numbered

_CREDIT = 100
"""Credit of a worker, in messages. It is smaller than the load, so that it bounds the duplicates of a fault."""
_LATE = 1.5
"""Time in which the late ack of a frozen worker would take effect, in seconds."""

_COUNTING = """
import os, time
import missive
from missive.engine.limits import Limits
from missive.engine.runtime import Runtime
from missive.matchers import Everything

Runtime.limits = Limits(items=%d)

proc = missive.Processor(name="conformance")
out = os.open("handled.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

@proc.handle_for(Everything())
def handle(message, context):
    time.sleep(0.001)
    os.write(out, message.raw_data + b"\\n")
"""


@case(51)
async def worker_killed(driver: Driver) -> CaseOutcome:
    """A worker that receives SIGKILL repeatedly loses nothing."""
    url = driver.harness.url
    if url is None:
        return CaseOutcome.refused
    kills, count = (100, 20_000) if driver.deep else (3, 1500)
    (driver.directory / "conformance_worker.py").write_text(_COUNTING % _CREDIT)
    out = driver.directory / "handled.txt"
    await driver.publish(*numbered(count))

    def lines() -> list[bytes]:
        return out.read_bytes().split() if out.exists() else []

    chance = random.Random(count)  # noqa: S311 - when to kill is no secret
    command = ("run", "conformance_worker.py:proc", "--from", url, "--dlq", driver.dlq)
    for _ in range(kills):
        async with processes.running(driver.directory, *command):
            goal = len(lines()) + chance.randrange(1, count // (kills + 2))
            await driver.until(lambda goal=goal: len(lines()) >= goal or len(set(lines())) == count, "progress", 60)  # type: ignore[misc]
    async with processes.running(driver.directory, *command) as worker:
        await driver.until(
            lambda: len(set(lines())) == count, "every message to be handled", 60 + driver.harness.redelivery_seconds
        )
        await processes.stop(worker)
    driver.log.handled.update(lines())
    driver.duplicates, driver.faults, driver.credit = len(lines()) - count, kills, _CREDIT
    return CaseOutcome.passed


_FREEZING = """
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
async def worker_frozen(driver: Driver) -> CaseOutcome:
    """The late ack of a worker that froze for too long is fenced, and no message is lost."""
    url = driver.harness.url
    session = await driver.open()
    leased = session.capabilities.lease is not None and session.capabilities.renewable
    if url is None or not (leased or driver.adapter().exclusive_lanes):
        # A connected consumer keeps its messages, however long it freezes.
        await driver.publish(b"0")
        await driver.settle(session, await driver.take(await driver.open() if driver.harness.ends else session, 1))
        return CaseOutcome.refused
    await driver.close(session)
    (driver.directory / "conformance_worker.py").write_text(_FREEZING)
    out = driver.directory / "handled.txt"

    def lines() -> list[str]:
        return out.read_text().splitlines() if out.exists() else []

    await driver.publish(b"0")
    command = ("run", "conformance_worker.py:proc", "--from", url, "--dlq", driver.dlq)
    async with (
        processes.running(driver.directory, *command, env={"WORKER": "first"}) as first,
        contextlib.AsyncExitStack() as stack,
    ):
        await driver.until(lambda: "first begins 0" in lines(), "the first worker to start the message")
        first.send_signal(signal.SIGSTOP)
        running = processes.running(driver.directory, *command, env={"WORKER": "second"})
        second = await stack.enter_async_context(running)
        await driver.until(
            lambda: "second begins 0" in lines(), "the second worker to take over", driver.harness.redelivery_seconds
        )
        (driver.directory / "first").touch()
        first.send_signal(signal.SIGCONT)
        await driver.until(lambda: "first ends 0" in lines(), "the first worker to continue")
        deadline = time.monotonic() + _LATE
        while time.monotonic() < deadline:
            left = await driver.in_thread(driver.harness.remaining)
            check(left in (None, 1), "the late ack of the frozen worker was accepted")
        (driver.directory / "second").touch()
        await driver.publish(*numbered(1, 20))
        await driver.until(
            lambda: len({line.split()[2] for line in lines() if " ends " in line}) == 20, "every message to be handled"
        )
        for worker in (second, first):
            await processes.stop(worker)
    ends = [line.split()[2].encode() for line in lines() if " ends " in line]
    driver.log.handled.update(ends)
    driver.duplicates, driver.faults = len(ends) - 20, 1
    return CaseOutcome.passed
