"""Parking behind an open breaker: a parked message stays in the store while nothing can probe for it."""

from __future__ import annotations

import threading
import time

import pytest

from missive import Breaker, DependencyDown, JSONMessage, Processor, Retry, constant
from missive.adapters.replay import ReplayAdapter
from missive.dlq import Query, Status
from missive.dlq.sql import SQLStore
from missive.matchers import Field
from tests.support.broker import Broker
from tests.support.engine import run, until
from tests.support.stores import queued

PARKED = Query(statuses=(Status.parked,))
WAITING = Query(statuses=(Status.parked, Status.queued))


class CountingStore(SQLStore):
    """A store that counts the records that it stores and leases."""

    stored = leased = 0

    def put(self, records):
        """Count and store records."""
        self.stored += len(records)
        super().put(records)

    def lease_records(self, *arguments, **options):
        """Lease records and count them."""
        leases = super().lease_records(*arguments, **options)
        self.leased += len(leases)
        return leases


@pytest.fixture
def store(tmp_path):
    """Yield a counting store and close it."""
    opened = CountingStore(f"sqlite:///{tmp_path}/dlq.db")
    yield opened
    opened.close()


class Dependency:
    """A dependency that is down until `up` is set, with the handlers that need it."""

    def __init__(self):
        self.up, self.go_on = threading.Event(), threading.Event()
        self.calls = 0
        self.done: list[tuple[int, int]] = []

    def call(self, message, context):
        """Handle a message while the dependency is up."""
        self.calls += 1
        if not self.up.is_set():
            raise ConnectionError("down")
        self.done.append((message.get_json()["n"], context.attempt))

    def report(self, message, context):
        """Handle a message, or report the dependency as down."""
        self.calls += 1
        if not self.up.is_set():
            raise DependencyDown("b")
        self.done.append((message.get_json()["n"], context.attempt))

    def block(self, message, context):
        """Keep a worker busy until `go_on` is set."""
        self.go_on.wait(30)


def processor(store, dependency, *, probe=0.3, concurrency=1, handler=None):
    """Return a processor with a handler of the dependency, and one that keeps a worker busy."""
    proc = Processor(JSONMessage, name="app", dlq=store, concurrency=concurrency)
    breaker = Breaker("b", after=1, probe=probe)
    retry = Retry(attempts=3, immediate=0, delays=constant(0.01))
    proc.add_handler(Field("k", 0), handler or dependency.call, name="h", breaker=breaker, retry=retry)
    proc.add_handler(Field("k", 1), dependency.block, name="busy", timeout=60)
    return proc


def needy(count, start=0):
    """Return bodies for the handler of the dependency."""
    return [b'{"n":%d,"k":0}' % n for n in range(start, start + count)]


def go(proc, store, bodies, meanwhile):
    """Run a broker and the store until no message waits."""
    broker = Broker(proc, bodies)
    broker.ends = False

    async def done(engine):
        try:
            await meanwhile(engine, broker)
            await until(lambda: not broker.held and not broker.ready, "the broker to be empty", 20)
            await until(lambda: store.count(WAITING) == 0, "parked messages to be handled", 20)
        finally:
            engine.stop()

    return run(broker, ReplayAdapter(proc, store), meanwhile=done)


def steady(store):
    """Return a condition that is true when the store has not written for half a second."""
    seen, since = store.stored, time.monotonic()

    def is_steady():
        nonlocal seen, since
        if store.stored != seen:
            seen, since = store.stored, time.monotonic()
        return time.monotonic() - since > 0.5

    return is_steady


def check_waiting(store, dependency, seconds, most_leased):
    """Wait, and check that nothing moves between the store and the engine meanwhile."""

    async def check():
        await until(steady(store), "the parking to end", 20)
        leased, stored, ends = store.leased, store.stored, time.monotonic() + seconds
        await until(lambda: time.monotonic() > ends, "time to pass", seconds + 5)
        assert store.leased - leased <= most_leased
        assert store.stored == stored
        for record in store.query(PARKED):
            assert record.version == 1
            assert [(line.reason, line.attempt) for line in record.history] == [("nacked", 1)]
            assert record.attempts == 0

    return check()


def test_parked_messages_stay_in_the_store_while_no_probe_can_run(store):
    """While the only worker is busy, no probe runs: parked messages are neither leased nor parked again."""
    dependency = Dependency()

    async def meanwhile(engine, broker):
        await until(lambda: store.count(PARKED) >= 250, "messages to be parked", 20)
        await check_waiting(store, dependency, 3.0, 0)
        now = time.time()
        assert min(record.due for record in store.query(PARKED)) > now - 1.5
        dependency.up.set()
        dependency.go_on.set()

    bodies = [*needy(1), b'{"n":-1,"k":1}', *needy(399, 1)]
    go(processor(store, dependency), store, bodies, meanwhile)
    assert sorted(dependency.done) == [(n, 1) for n in range(400)]
    assert store.leased <= 300
    assert store.count(Query(statuses=(Status.dead,))) == 0


def test_parked_messages_stay_in_the_store_while_the_dependency_is_down(store):
    """While the messages in memory provide the probes, no parked message is leased."""
    dependency = Dependency()

    async def meanwhile(engine, broker):
        await until(lambda: store.count(PARKED) >= 250, "messages to be parked", 20)
        calls = dependency.calls
        await check_waiting(store, dependency, 3.0, 0)
        assert dependency.calls - calls <= 12
        dependency.up.set()

    go(processor(store, dependency, concurrency=4), store, needy(400), meanwhile)
    assert sorted(dependency.done) == [(n, 1) for n in range(400)]


def test_several_processes_leave_the_messages_of_a_dependency_in_their_store(store):
    """Two engines with one store hold at most a hundred messages each, and lease no others."""
    first, second = Dependency(), Dependency()
    second.up = first.up
    ended = []

    def other():
        async def meanwhile(engine, broker):
            await until(lambda: ended, "the other engine", 60)

        go(processor(store, second), store, needy(150, 400), meanwhile)

    thread = threading.Thread(target=other)

    async def meanwhile(engine, broker):
        thread.start()
        await until(lambda: store.count(PARKED) >= 250, "messages to be parked", 20)
        await until(lambda: second.calls, "the other engine to call the dependency", 20)
        await check_waiting(store, first, 2.0, 400)
        first.up.set()

    try:
        go(processor(store, first, concurrency=2), store, needy(400), meanwhile)
    finally:
        first.up.set()
        ended.append(True)
        thread.join()
    assert sorted({n for n, _ in (*first.done, *second.done)}) == list(range(550))


def test_a_replay_while_the_dependency_is_down_changes_no_record(store):
    """Records that are replayed while the breaker is open stay queued, and keep their error, group and history."""
    dependency = Dependency()
    failing = Processor(JSONMessage, name="app", dlq=store, concurrency=4)
    failing.add_handler(Field("k", 0), dependency.call, name="h")
    run(Broker(failing, needy(300)))
    before = {record.id: record for record in store.query(Query())}
    assert {record.error_type for record in before.values()} == {"ConnectionError"}
    assert queued(store, list(before), "r1") == 300
    versions = {record.id: record.version for record in store.query(Query())}
    stored = store.stored

    async def meanwhile(engine, broker):
        await until(lambda: store.leased >= 200, "records to be leased", 20)
        leased, ends = store.leased, time.monotonic() + 2.0
        await until(lambda: time.monotonic() > ends, "time to pass")
        assert store.leased - leased <= 100
        assert store.stored == stored
        for record in store.query(Query()):
            assert (record.status, record.version) == (Status.queued, versions[record.id])
            assert record.fingerprint == before[record.id].fingerprint
            assert (record.error_type, record.history) == ("ConnectionError", before[record.id].history)
        dependency.up.set()

    go(processor(store, dependency), store, [], meanwhile)
    assert sorted(n for n, _ in dependency.done) == list(range(300))


def test_a_reported_dependency_parks_like_a_failed_one(store):
    """A handler that raises `DependencyDown` opens its breaker; its messages wait in the store without attempts."""
    dependency = Dependency()

    async def meanwhile(engine, broker):
        await until(lambda: store.count(PARKED) >= 250, "messages to be parked", 20)
        await check_waiting(store, dependency, 2.0, 0)
        dependency.up.set()

    go(processor(store, dependency, handler=dependency.report), store, needy(400), meanwhile)
    assert sorted(dependency.done) == [(n, 1) for n in range(400)]
