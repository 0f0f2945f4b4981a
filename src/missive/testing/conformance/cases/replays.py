"""Cases 64 to 66: dead letters are looked at without harm, and replayed without loss and without a loop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from typing import TYPE_CHECKING

from missive import operations
from missive.app.context import HandlingContext
from missive.app.processor import Processor
from missive.dlq.contract import Query, Replay
from missive.dlq.record import Status
from missive.dlq.sql import SQLStore
from missive.matchers import Everything
from missive.messages import RawMessage
from missive.testing.conformance import processes
from missive.testing.conformance.catalogue import CaseOutcome, case
from missive.testing.conformance.checks import check

if TYPE_CHECKING:
    from missive.testing.conformance.driver import Driver

_FAILED = 16
_RATE, _WINDOW = 2, 0.25


def _failing(driver: Driver) -> Processor[RawMessage]:
    """Return a processor of which every message fails: odd numbers with a ValueError, even ones with a KeyError."""
    processor = Processor(name="conformance", dlq=driver.dlq)

    @processor.handle_for(Everything())
    async def handle(message: RawMessage, context: HandlingContext[RawMessage]) -> None:
        driver.log.handled[message.raw_data] += 1
        raise ValueError if int(message.raw_data) % 2 else KeyError

    return processor


async def _filed(driver: Driver, count: int) -> None:
    """Let messages fail, so that there are dead letters."""
    await driver.publish(*(b"%d" % number for number in range(count)))
    async with driver.serving(driver.adapter(_failing(driver))):
        await driver.until(lambda: len(driver.log.handled) == count, "all handled")
    check(len(driver.dead_letters()) == count, "not all that failed is a dead letter")


def _dump(driver: Driver) -> list[str]:
    with contextlib.closing(sqlite3.connect(driver.directory / "dlq.db")) as connection:
        return list(connection.iterdump())


@case(64)
async def browsed(driver: Driver) -> CaseOutcome:
    """Lists, groups, counts, pages and exports change neither the store nor the source."""
    await _filed(driver, 4)
    if not driver.harness.reads_once:
        await driver.publish(b"4")
    before = _dump(driver), await driver.in_thread(driver.harness.remaining)

    def browse() -> int:
        with contextlib.closing(SQLStore(driver.dlq)) as store:
            seen = [operations.details(record, store.notes(record.id)) for record in store.query(Query())]
            seen += [operations.summary(record) for record in store.query(Query(error="ValueError"), limit=1, offset=1)]
            for group in store.groups(Query()):
                seen += map(operations.summary, store.query(Query(group=group.fingerprint)))
            selection = operations.select_records(store, [str(seen[0]["id"])], Query())
            tried = list(operations.preview_routes(store, selection.ids, _failing(driver)))
            lines = [
                *operations.export_records(store, Query(), content=True),
                *operations.export_records(store, Query(), content=False),
            ]
            told = [store.count(Query()), store.stats(), store.services(Query()), store.replays(), store.lanes("x")]
            return len(seen) + len(tried) + len(lines) + len(told)

    check(await driver.in_thread(browse) >= 20, "browsing shows less than there is")
    for words in (["groups"], ["list", "error:ValueError"]):
        shown = await processes.output(driver.directory, "dlq", *words, "--json", "--dlq", driver.dlq)
        check(json.loads(shown), f"missive dlq {' '.join(words)} shows nothing")
    check(before == (_dump(driver), await driver.in_thread(driver.harness.remaining)), "browsing changed something")
    return CaseOutcome.passed


_REPLAYS = """
import os, time
import missive
from missive.matchers import Everything

proc = missive.Processor(name="conformance")
out = os.open("replayed.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

@proc.handle_for(Everything())
def handle(message, context):
    os.write(out, message.raw_data + b" %d %.3f\\n" % (os.getpid(), time.monotonic()))
"""


@case(65)
async def replayed(driver: Driver) -> CaseOutcome:
    """A replay takes what was chosen, at its rate; killed midway it is resumed, and everything is handled."""
    await _filed(driver, _FAILED)
    (driver.directory / "fixed.py").write_text(_REPLAYS)
    out = driver.directory / "replayed.txt"
    wanted = {b"%d" % number for number in range(1, _FAILED, 2)}

    def lines() -> list[list[bytes]]:
        return [line.split() for line in out.read_bytes().splitlines()] if out.exists() else []

    rate = f"{_RATE}/{_WINDOW * 1000:g}ms"
    replay = ("dlq", "replay", "error:ValueError", "--rate", rate, "--with", "fixed.py:proc", "--yes")
    async with processes.running(driver.directory, *replay, "--dlq", driver.dlq):
        await driver.until(lambda: len(lines()) >= 2, "a replay under way")
    with contextlib.closing(SQLStore(driver.dlq)) as store:
        (kept,) = store.replays()
    check(kept.total == len(wanted), f"{kept.total} were chosen of {len(wanted)}")
    with contextlib.closing(sqlite3.connect(driver.directory / "dlq.db")) as connection, connection:
        # As a minute later, when what a dead command had taken up is free.
        connection.execute("UPDATE missive_dead_letters SET leased_until = 0 WHERE leased_until IS NOT NULL")
    resume = ("dlq", "resume", kept.id, "--with", "fixed.py:proc", "--dlq", driver.dlq)
    await processes.output(driver.directory, *resume)
    check({body for body, _, _ in lines()} == wanted, "others were handled than were chosen")
    records = driver.dead_letters()
    check({one.body for one in records if one.status is Status.resolved} == wanted, "not all of them are resolved")
    check(all(one.status is Status.dead for one in records if one.body not in wanted), "others were touched")
    for process in {process for _, process, _ in lines()}:
        begun = [float(at) for _, one, at in lines() if one == process]
        most = max(sum(first <= later < first + 0.9 * _WINDOW for later in begun) for first in begun)
        check(most <= _RATE, f"{most} began within {_WINDOW:g} s")
    return CaseOutcome.passed


@case(66)
async def no_loop(driver: Driver) -> CaseOutcome:
    """What fails at each replay is tried once for each, keeps one record, and is never queued by itself."""
    await _filed(driver, 1)
    for turn in (1, 2, 3):
        now = await driver.in_thread(_replay_all, driver)
        check((now.failed, now.resolved, now.queued) == (1, 0, 0), "a replay that failed does not say so")
        check(driver.log.handled[b"0"] == turn + 1, f"it was handled {driver.log.handled[b'0']} times")
        (record,) = driver.dead_letters()
        check((record.status, record.attempts) == (Status.dead, turn + 1), "its record does not say what happened")
    if not driver.harness.ends:
        async with driver.serving(driver.adapter(_failing(driver))):
            await asyncio.sleep(1.2)  # longer than a worker waits until it looks for what is queued
    check(driver.log.handled[b"0"] == 4, "it was taken up again by itself")
    return CaseOutcome.passed


def _replay_all(driver: Driver) -> Replay:
    with contextlib.closing(SQLStore(driver.dlq)) as store:
        selection = operations.select_records(store, [], Query(statuses=operations.REPLAYABLE))
        replay = operations.start_replay(store, selection, Replay("", "conformance", "all", by_command=True))
        return operations.run_replay(store, replay, _failing(driver))
