"""Mutation tests of parking: each mutant is an engine or a store with one fault, which a run finds."""

from __future__ import annotations

import threading
from contextlib import closing

import pytest
import sqlalchemy as sa

from missive import JSONMessage, Processor, Retry, constant
from missive.adapters.replay import ReplayAdapter
from missive.dlq import Query, Status
from missive.dlq.record import Record
from missive.dlq.sql import SQLStore, leases
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


class Observations:
    """The observations of one run."""

    def __init__(self):
        self.runs: list[tuple[int, int]] = []
        self.done: list[int] = []
        self.early = 0
        """Number of messages that were settled before the store contained them."""


def observe(path) -> Observations:
    """Run two lanes whose first messages fail twice and are parked. Return the observations."""
    seen, lock = Observations(), threading.Lock()
    with closing(SQLStore(f"sqlite:///{path}/dlq.db")) as store:
        proc = Processor(JSONMessage, name="app", dlq=store, concurrency=4)

        def handle(message, context):
            with lock:
                seen.runs.append((message.get_json()["n"], context.attempt))
                if context.attempt < 3 and message.get_json()["n"] < 4:
                    raise ConnectionError("down")
                seen.done.append(message.get_json()["n"])

        policy = Retry(attempts=5, immediate=0, delays=constant(0.1))
        by = by_field("k")
        proc.add_handler(Everything(), handle, name="h", retry=policy, ordered_by=by, on_lane_retry="park")
        deliveries = [Delivery(b'{"n":%d,"k":%d}' % (n, n % 2), position=n) for n in range(12)]
        broker = Broker(proc, deliveries, ends=False)

        def settle(session, settlements):
            known = {record.origin.position for record in store.query(Query())}
            waits = [settlement for settlement in settlements if settlement.outcome in ("retried", "nacked")]
            seen.early += sum(settlement.delivery.position not in known for settlement in waits)

        broker.intercept["settle"] = settle

        async def meanwhile(engine):
            await until(lambda: len(broker.acked) == 12, "all messages to be settled", 5)
            late = [Delivery(b'{"n":%d,"k":%d}' % (n, n % 2), position=n) for n in range(12, 16)]
            session = broker.sessions[-1]
            session._loop.call_soon_threadsafe(session.receive, late)
            await until(lambda: len(set(seen.done)) == 16, "all messages to be handled", 5)
            waiting = Query(statuses=(Status.parked, Status.queued))
            await until(lambda: store.count(waiting) == 0, "parked messages to be handled", 5)
            engine.stop()

        run(broker, ReplayAdapter(proc, store), meanwhile=meanwhile, check_left=False)
    return seen


def faults(path) -> list[str]:
    """Return the guarantees that a run breaks."""
    try:
        seen = observe(path)
    except (pytest.fail.Exception, AssertionError):
        return ["progress"]
    broken = []
    if seen.early:
        broken.append("durable")
    for key in range(2):
        mine = [n for n in dict.fromkeys(seen.done) if n % 2 == key]
        if mine != sorted(mine):
            broken.append("order")
    if sorted(seen.runs) != sorted({*seen.runs}) or len(seen.done) != 16:
        broken.append("once")
    if any([attempt for number, attempt in seen.runs if number == n] != [1, 2, 3] for n in range(4)):
        broken.append("attempts")
    return broken


@pytest.fixture(autouse=True)
def no_hold(monkeypatch):
    """Hold no message in memory, so that each retry is parked."""
    monkeypatch.setattr(Runtime, "limits", Limits(hold_seconds=0.0))


def settled_before_parked(patch):
    """Settle a message before its parked record is durable."""
    add = DeadLetterWriter.add

    def mutant(self, job):
        add(self, job)
        if job.parked is not None:
            self.on_filed([job])

    patch.setattr(DeadLetterWriter, "add", mutant)


def attempts_restarted(patch):
    """Forget the attempts that a message made before it was parked."""
    patch.setattr(Record, "next_attempt", 1)


def lane_overtaken(patch):
    """Run new messages of a lane that has parked messages."""
    patch.setattr(ParkingLot, "_parks_behind_lane", lambda self, job: False)


def rest_of_lane_not_parked(patch):
    """Run the messages that waited behind a parked message before it."""
    patch.setattr(Exits, "withdraw", lambda self, which: [])


def lane_leased_at_once(patch):
    """Lease several records of a lane at once, although its first record is not due."""
    c = records.c
    of_any = sa.select(c.id).where(c.lane.is_not(None)).subquery()
    patch.setattr(leases, "_first_of_lanes", lambda service: of_any)


MUTANTS = {
    settled_before_parked: {"durable", "once", "progress"},
    attempts_restarted: {"attempts", "progress"},
    lane_overtaken: {"order"},
    rest_of_lane_not_parked: {"order"},
    lane_leased_at_once: {"order"},
}


def test_a_run_without_a_mutant_has_no_faults(tmp_path):
    """A run without a mutant has no faults."""
    assert faults(tmp_path) == []


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_run_finds_a_mutant(mutant, monkeypatch, tmp_path):
    """A run finds a fault in parking, and names the guarantee that the fault breaks."""
    mutant(monkeypatch)
    found = faults(tmp_path)
    assert found
    assert set(found) <= MUTANTS[mutant] | {"once"}, found
