"""The test of the tests of parking: engines and stores with one thing wrong, each of which a run on a store finds."""

from __future__ import annotations

import threading
from contextlib import closing

import pytest
import sqlalchemy as sa

from missive import JSONMessage, Processor, Retry, constant
from missive.adapters.replay import ReplayAdapter
from missive.dlq import Query, Status
from missive.dlq.record import Record
from missive.dlq.sql import SQLStore
from missive.dlq.sql import leases as claims
from missive.dlq.sql.schema import records
from missive.engine.completion.dead_letters import DeadLetterWriter
from missive.engine.completion.exits import Exits
from missive.engine.completion.parking import ParkingLot
from missive.engine.limits import Limits
from missive.engine.runtime import Runtime
from missive.matchers import Everything, by_field
from missive.transport import Delivery
from tests.support.broker import Broker
from tests.support.engine import run, until


class Books:
    """What one run came to."""

    def __init__(self):
        self.runs: list[tuple[int, int]] = []
        self.done: list[int] = []
        self.early = 0
        """How many were settled before the store had them."""


def keep_books(path) -> Books:
    """Fail the first two attempts at every message of two lanes, which are parked; then see what became of all."""
    books, lock = Books(), threading.Lock()
    with closing(SQLStore(f"sqlite:///{path}/dlq.db")) as kept:
        proc = Processor(JSONMessage, name="app", dlq=kept, concurrency=4)

        def handle(message, context):
            with lock:
                books.runs.append((message.get_json()["n"], context.attempt))
                if context.attempt < 3 and message.get_json()["n"] < 4:
                    raise ConnectionError("down")
                books.done.append(message.get_json()["n"])

        policy = Retry(attempts=5, immediate=0, delays=constant(0.1))
        by = by_field("k")
        proc.add_handler(Everything(), handle, name="h", retry=policy, ordered_by=by, on_lane_retry="park")
        deliveries = [Delivery(b'{"n":%d,"k":%d}' % (n, n % 2), position=n) for n in range(12)]
        broker = Broker(proc, deliveries, ends=False)

        def settle(session, settlements):
            known = {record.origin.position for record in kept.query(Query())}
            waits = [settlement for settlement in settlements if settlement.outcome in ("retried", "nacked")]
            books.early += sum(settlement.delivery.position not in known for settlement in waits)

        broker.intercept["settle"] = settle

        async def meanwhile(engine):
            await until(lambda: len(broker.acked) == 12, "all to be settled", 5)
            late = [Delivery(b'{"n":%d,"k":%d}' % (n, n % 2), position=n) for n in range(12, 16)]
            session = broker.sessions[-1]
            session._loop.call_soon_threadsafe(session.receive, late)
            await until(lambda: len(set(books.done)) == 16, "all to be handled", 5)
            waiting = Query(statuses=(Status.parked, Status.queued))
            await until(lambda: kept.count(waiting) == 0, "nothing to be parked", 5)
            engine.stop()

        run(broker, ReplayAdapter(proc, kept), meanwhile=meanwhile, check_left=False)
    return books


def complaints(path) -> list[str]:
    """Return what is wrong with a run."""
    try:
        books = keep_books(path)
    except (pytest.fail.Exception, AssertionError):
        return ["progress"]
    wrong = []
    if books.early:
        wrong.append("durable")
    for key in range(2):
        mine = [n for n in dict.fromkeys(books.done) if n % 2 == key]
        if mine != sorted(mine):
            wrong.append("order")
    if sorted(books.runs) != sorted({*books.runs}) or len(books.done) != 16:
        wrong.append("once")
    if any([attempt for number, attempt in books.runs if number == n] != [1, 2, 3] for n in range(4)):
        wrong.append("attempts")
    return wrong


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Hold nothing, so that all is parked that fails."""
    monkeypatch.setattr(Runtime, "limits", Limits(hold_seconds=0.0))


def settled_before_parked(patch):
    """The source is settled before the record is durable."""
    add = DeadLetterWriter.add

    def mutant(self, job):
        add(self, job)
        if job.parked is not None:
            self.on_filed([job])

    patch.setattr(DeadLetterWriter, "add", mutant)


def attempts_begin_anew(patch):
    """What was spent before it was parked is forgotten."""
    patch.setattr(Record, "next_attempt", 1)


def lane_overtaken(patch):
    """What comes later of a lane does not wait behind what is parked of it."""
    patch.setattr(ParkingLot, "_parks_behind_lane", lambda self, job: False)


def behind_left_behind(patch):
    """What waits behind a message that is parked runs before it."""
    patch.setattr(Exits, "withdraw", lambda self, which: [])


def lanes_taken_up_at_once(patch):
    """Several of a lane are taken up together, whatever the first of them is due."""
    c = records.c
    of_any = sa.select(c.id).where(c.lane.is_not(None)).subquery()
    patch.setattr(claims, "_first_of_lanes", lambda service: of_any)


MUTANTS = {
    settled_before_parked: {"durable", "once", "progress"},
    attempts_begin_anew: {"attempts", "progress"},
    lane_overtaken: {"order"},
    behind_left_behind: {"order"},
    lanes_taken_up_at_once: {"order"},
}


def test_an_engine_with_nothing_wrong(tmp_path):
    """Without a mutant there is no complaint."""
    assert complaints(tmp_path) == []


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_mutant_is_found(mutant, monkeypatch, tmp_path):
    """A run on a store finds an engine that parks wrongly, and says what it breaks."""
    mutant(monkeypatch)
    found = complaints(tmp_path)
    assert found
    assert set(found) <= MUTANTS[mutant] | {"once"}, found
