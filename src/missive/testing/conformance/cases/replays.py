"""Cases 64 to 66: dead letters are browsed without a change, and replayed without loss and without a loop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3

from missive.app.context import HandlingContext
from missive.app.processor import Processor
from missive.dlq.contract import Query, Replay
from missive.dlq.record import Status
from missive.dlq.sql import SQLStore
from missive.matchers import Everything
from missive.messages import RawMessage
from missive.operations.export import export_records
from missive.operations.preview import preview_routes
from missive.operations.replay import run_replay, start_replay
from missive.operations.selection import REPLAYABLE, select_records
from missive.operations.views import details, summary
from missive.testing.conformance import processes
from missive.testing.conformance.catalogue import CaseOutcome, case
from missive.testing.conformance.checks import check
from missive.testing.conformance.driver import Driver, numbered

_FAILED = 16
_RATE, _WINDOW = 2, 0.25


def _failing(driver: Driver) -> Processor[RawMessage]:
    """Return a processor whose handler fails: with a ValueError for odd numbers, with a KeyError for even ones."""
    processor = Processor(name="conformance", dlq=driver.dlq)

    @processor.handle_for(Everything())
    async def handle(message: RawMessage, context: HandlingContext[RawMessage]) -> None:
        driver.log.handled[message.raw_data] += 1
        raise ValueError if int(message.raw_data) % 2 else KeyError

    return processor


async def _fail(driver: Driver, count: int) -> None:
    """Publish messages whose handlers fail, and wait for their dead letters."""
    await driver.publish(*numbered(count))
    async with driver.serving(driver.adapter(_failing(driver))):
        await driver.until(lambda: len(driver.log.handled) == count, "every message to be handled")
    check(len(driver.dead_letters()) == count, "a failed message has no dead letter")


def _dump(driver: Driver) -> list[str]:
    with contextlib.closing(sqlite3.connect(driver.directory / "dlq.db")) as connection:
        return list(connection.iterdump())


@case(64)
async def browsed(driver: Driver) -> CaseOutcome:
    """Lists, groups, counts, pages and exports change neither the store nor the source."""
    await _fail(driver, 4)
    if not driver.harness.reads_once:
        await driver.publish(b"4")
    before = _dump(driver), await driver.in_thread(driver.harness.remaining)

    def browse() -> int:
        with contextlib.closing(SQLStore(driver.dlq)) as store:
            seen = [details(record, store.notes(record.id)) for record in store.query(Query())]
            seen += [summary(record) for record in store.query(Query(error="ValueError"), limit=1, offset=1)]
            for group in store.groups(Query()):
                seen += map(summary, store.query(Query(group=group.fingerprint)))
            selection = select_records(store, [str(seen[0]["id"])], Query())
            tried = list(preview_routes(store, selection.ids, _failing(driver)))
            lines = [
                *export_records(store, Query(), content=True),
                *export_records(store, Query(), content=False),
            ]
            told = [store.count(Query()), store.stats(), store.services(Query()), store.replays(), store.lanes("x")]
            return len(seen) + len(tried) + len(lines) + len(told)

    check(await driver.in_thread(browse) >= 20, "browsing returned fewer entries than the store has")
    for words in (["groups"], ["list", "error:ValueError"]):
        printed = await processes.output(driver.directory, "dlq", *words, "--json", "--dlq", driver.dlq)
        check(json.loads(printed), f"missive dlq {' '.join(words)} printed no entry")
    check(
        before == (_dump(driver), await driver.in_thread(driver.harness.remaining)),
        "browsing changed the store or the source",
    )
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
    """A replay handles the selected messages at its rate. A killed replay resumes and loses none."""
    await _fail(driver, _FAILED)
    (driver.directory / "fixed.py").write_text(_REPLAYS)
    out = driver.directory / "replayed.txt"
    wanted = set(numbered(1, _FAILED, 2))

    def lines() -> list[list[bytes]]:
        return [line.split() for line in out.read_bytes().splitlines()] if out.exists() else []

    rate = f"{_RATE}/{_WINDOW * 1000:g}ms"
    command = ("dlq", "replay", "error:ValueError", "--rate", rate, "--with", "fixed.py:proc", "--yes")
    async with processes.running(driver.directory, *command, "--dlq", driver.dlq):
        await driver.until(lambda: len(lines()) >= 2, "a replay under way")
    with contextlib.closing(SQLStore(driver.dlq)) as store:
        (replay,) = store.replays()
    check(replay.total == len(wanted), f"the replay selected {replay.total} messages instead of {len(wanted)}")
    with contextlib.closing(sqlite3.connect(driver.directory / "dlq.db")) as connection, connection:
        # End the record leases of the killed command, which would otherwise last for a minute.
        connection.execute("UPDATE missive_dead_letters SET leased_until = 0 WHERE leased_until IS NOT NULL")
    resume = ("dlq", "resume", replay.id, "--with", "fixed.py:proc", "--dlq", driver.dlq)
    await processes.output(driver.directory, *resume)
    check({body for body, _, _ in lines()} == wanted, "the handled messages are not the selected ones")
    records = driver.dead_letters()
    check(
        {one.body for one in records if one.status is Status.resolved} == wanted,
        "the resolved records are not the selected ones",
    )
    check(
        all(one.status is Status.dead for one in records if one.body not in wanted),
        "a record that was not selected changed",
    )
    for process in {process for _, process, _ in lines()}:
        begun = [float(at) for _, one, at in lines() if one == process]
        most = max(sum(first <= later < first + 0.9 * _WINDOW for later in begun) for first in begun)
        check(most <= _RATE, f"{most} handlers began within {_WINDOW:g} s, and the rate limit is {_RATE}")
    return CaseOutcome.passed


@case(66)
async def no_loop(driver: Driver) -> CaseOutcome:
    """A message that fails at each replay has one attempt for each and one record, and is never queued again."""
    await _fail(driver, 1)
    for turn in (1, 2, 3):
        replay = await driver.in_thread(_replay_all, driver)
        check((replay.failed, replay.resolved, replay.queued) == (1, 0, 0), "the replay does not report its failure")
        check(
            driver.log.handled[b"0"] == turn + 1,
            f"the message was handled {driver.log.handled[b'0']} times instead of {turn + 1}",
        )
        (record,) = driver.dead_letters()
        check((record.status, record.attempts) == (Status.dead, turn + 1), "the record does not count the attempts")
    if not driver.harness.ends:
        async with driver.serving(driver.adapter(_failing(driver))):
            await asyncio.sleep(1.2)  # longer than the poll interval of a worker for queued records
    check(driver.log.handled[b"0"] == 4, "the message was handled again without a replay")
    return CaseOutcome.passed


def _replay_all(driver: Driver) -> Replay:
    with contextlib.closing(SQLStore(driver.dlq)) as store:
        selection = select_records(store, [], Query(statuses=REPLAYABLE))
        replay = start_replay(store, selection, Replay("", "conformance", "all", by_command=True))
        return run_replay(store, replay, _failing(driver))
