"""The watchdog: it replaces sessions that are dead or stalled, and no others."""

from __future__ import annotations

import asyncio
import re
import threading

import pytest

from missive import RawMessage, StoreError
from missive.engine.intake import watchdog
from missive.engine.limits import Limits
from missive.engine.runtime import Runtime
from missive.errors import Transient
from missive.matchers import Everything
from missive.transport import Capabilities, Delivery, SessionStatus
from tests.support.broker import Broker
from tests.support.engine import (
    CANARY,
    SMALL_LIMITS,
    RecordingSink,
    plain_bodies,
    processor,
    run,
    sync_and_async,
    until,
)


@pytest.fixture(autouse=True)
def frequent_checks(monkeypatch):
    """Check every 20 ms, with a maximum of 100 ms for a status and of 150 ms without a delivery."""
    monkeypatch.setattr(watchdog, "EVERY", 0.02)
    monkeypatch.setattr(watchdog, "ANSWER_SECONDS", 0.1)
    monkeypatch.setattr(watchdog, "_STALLED", 0.15)


def raw_processor(**settings):
    """Return a processor of raw messages with two workers."""
    return processor(RawMessage, **{"dlq": {}, "concurrency": 2, **settings})


class Watched(Broker):
    """A broker that counts calls of `status`. Its first session returns `first`, or the result of `first()`."""

    def __init__(self, *given, first, **settings):
        super().__init__(*given, **settings)
        self.calls = 0
        self.first = first
        self.intercept["status"] = self.status

    def status(self, session):
        """Return the status of a session; None for the default status."""
        self.calls += 1
        if session is self.sessions[0]:
            return self.first() if callable(self.first) else self.first
        return None

    async def checked(self, times=15):
        """Wait for more checks of the watchdog. The default is enough to exceed the maximum time without a delivery."""
        seen = self.calls
        await until(lambda: self.calls >= seen + times, f"{times} more checks")


def block_first_fetch(broker):
    """Let the first session receive nothing, although messages wait."""

    async def fetch(session, credit):
        if session is broker.sessions[0]:
            await asyncio.Event().wait()

    broker.intercept["fetch"] = fetch


def fail_transient():
    raise Transient("not connected")


def fail_store():
    raise StoreError("locked")


async def never():
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("first", "warning"),
    [
        (SessionStatus(connected=False), "lost its consumer without noticing"),
        (SessionStatus(connected=True, lag=3), r"has 3 messages and delivered none for \d+ s"),
        (SessionStatus(lag=3), "has 3 messages and delivered none"),
        (never, "does not answer"),
        (fail_transient, "lost its consumer"),
        (fail_store, "lost its consumer"),
    ],
    ids=["not connected", "stalled", "stalled, connection unknown", "no answer", "transient", "store"],
)
def test_a_faulty_session_is_replaced(first, warning, caplog):
    """A session that is disconnected, stalled or unresponsive is replaced, with a warning that names the fault."""
    proc = raw_processor()
    proc.add_handler(Everything(), lambda message, context: None)
    broker = Watched(proc, plain_bodies(3), first=first)
    block_first_fetch(broker)
    _, report = run(broker)
    assert sorted(broker.acked) == plain_bodies(3)
    assert report.total_handled == 3
    assert len(broker.sessions) == 2
    assert broker.sessions[0].closed
    warnings = [record.getMessage() for record in caplog.records if "; reconnecting" in record.getMessage()]
    assert len(warnings) == 1
    assert re.match(f"broker:queue {warning}", warnings[0])


def test_held_messages_are_redelivered_after_a_reconnect():
    """Messages of a dead session are redelivered and settled once, by the next session."""
    proc, go_on, ran = raw_processor(concurrency=1), threading.Event(), []

    @proc.handle_for(Everything())
    def handle(message, context):
        ran.append(message.raw_data)
        go_on.wait(10)

    broker = Watched(proc, plain_bodies(4), first=SessionStatus())

    async def meanwhile(engine):
        await until(lambda: len(broker.held) == 4, "all messages to be held")
        broker.first = SessionStatus(connected=False)
        await until(lambda: len(broker.sessions) == 2 and len(broker.held) == 4, "all messages to be redelivered")
        go_on.set()

    _, report = run(broker, meanwhile=meanwhile)
    assert sorted(broker.acked) == plain_bodies(4)
    assert ran == [b"0", *plain_bodies(4)]
    assert report.redelivered == 4


@pytest.mark.parametrize(
    "first", [SessionStatus(), SessionStatus(connected=True), SessionStatus(connected=True, lag=0, oldest_age=5.0)]
)
def test_an_idle_session_is_not_replaced(first):
    """A session without waiting messages, or with an unknown number of them, is not replaced."""
    proc = raw_processor()
    proc.add_handler(Everything(), lambda message, context: None)
    broker = Watched(proc, plain_bodies(1), first=first, ends=False)

    async def meanwhile(engine):
        await until(lambda: broker.acked, "the message")
        await broker.checked()
        engine.stop()

    run(broker, meanwhile=meanwhile)
    assert len(broker.sessions) == 1


def test_an_error_of_status_does_not_replace_the_session(caplog):
    """An unexpected error of `status` is logged without its text, and the session is not replaced."""
    proc = raw_processor()
    proc.add_handler(Everything(), lambda message, context: None)

    def fail():
        raise ValueError(CANARY)

    broker = Watched(proc, plain_bodies(1), first=fail, ends=False)

    async def meanwhile(engine):
        await broker.checked()
        engine.stop()

    run(broker, meanwhile=meanwhile)
    assert len(broker.sessions) == 1
    assert "broker:queue failed to report its status: ValueError" in caplog.text
    assert CANARY not in caplog.text


def test_a_session_that_delivers_is_not_replaced():
    """A session that delivers a message now and then is not replaced, whatever its lag."""
    proc = raw_processor()
    proc.add_handler(Everything(), lambda message, context: None)
    broker = Watched(proc, plain_bodies(1), first=SessionStatus(connected=True, lag=1000), ends=False)

    async def meanwhile(engine):
        for _ in range(12):
            await broker.checked(2)
            broker.send(b"more")
        engine.stop()

    run(broker, meanwhile=meanwhile)
    assert len(broker.sessions) == 1


@sync_and_async
def test_a_session_is_not_replaced_while_the_credit_is_used_up(is_async, monkeypatch):
    """The session is not replaced while the handlers hold the whole credit and nothing is fetched."""
    monkeypatch.setattr(Runtime, "limits", Limits(10, 1000))
    proc, go_on = raw_processor(), threading.Event()

    async def handle_async(message, context):
        await until(go_on.is_set, "permission to go on")

    proc.add_handler(Everything(), handle_async if is_async else lambda message, context: go_on.wait(10))
    broker = Watched(proc, plain_bodies(30), first=SessionStatus(connected=True, lag=20))

    async def meanwhile(engine):
        await until(lambda: len(broker.held) == 10, "the credit to be used")
        await broker.checked()
        go_on.set()

    _, report = run(broker, meanwhile=meanwhile)
    assert len(broker.sessions) == 1
    assert (report.total_handled, report.redelivered) == (30, 0)


def test_a_session_is_not_replaced_while_the_store_is_down(monkeypatch):
    """The session is not replaced while intake is paused because dead letters cannot be written."""
    monkeypatch.setattr("missive.engine.completion.dead_letters._LONGEST_BACKOFF", 0.1)
    store = RecordingSink(failures=float("inf"))
    proc = raw_processor(dlq=store, max_unfiled=1)

    @proc.handle_for(Everything())
    def handle(message, context):
        if message.raw_data == b"0":
            raise ValueError

    broker = Watched(proc, plain_bodies(1), first=SessionStatus(connected=True, lag=2), ends=False)

    async def meanwhile(engine):
        await until(lambda: store.tries, "a write to the store")
        broker.send(b"1", b"2")
        await broker.checked()
        store.failures = 0
        await until(lambda: len(broker.acked) == 3, "all messages to be settled")
        engine.stop()

    _, report = run(broker, meanwhile=meanwhile)
    assert len(broker.sessions) == 1
    assert (len(store.records), report.redelivered) == (1, 0)


def test_a_session_is_not_replaced_while_a_lane_is_paused(monkeypatch):
    """The session is not replaced while a lane is paused, although messages wait and none arrives."""
    monkeypatch.setattr(Runtime, "limits", SMALL_LIMITS)
    proc, go_on = processor(dlq={}), threading.Event()
    proc.add_handler(Everything(), lambda message, context: go_on.wait(10))
    deliveries = [Delivery(b'{"k":0}', lane="p0") for _ in range(900)]
    broker = Broker(proc, deliveries, capabilities=Capabilities(pauses=True), per_fetch=10)
    calls = []

    def status(session):
        calls.append(1)
        return SessionStatus(connected=True, lag=len(broker.ready))

    broker.intercept["status"] = status

    async def meanwhile(engine):
        await until(lambda: broker.lane_calls, "the lane to be paused")
        seen = len(calls)
        await until(lambda: len(calls) > seen + 20, "twenty polls of the watchdog")
        go_on.set()

    _, report = run(broker, meanwhile=meanwhile)
    assert (len(broker.sessions), report.redelivered) == (1, 0)


def test_a_session_is_not_replaced_during_the_drain():
    """The session is not replaced while the engine drains, although messages wait and none arrives."""
    proc, go_on = raw_processor(), threading.Event()
    proc.add_handler(Everything(), lambda message, context: go_on.wait(10))
    broker = Watched(proc, plain_bodies(2), first=SessionStatus(connected=True, lag=100), ends=False)

    async def meanwhile(engine):
        await until(lambda: len(broker.held) == 2, "both messages to run")
        engine.stop()
        await broker.checked()
        go_on.set()

    _, report = run(broker, meanwhile=meanwhile)
    assert len(broker.sessions) == 1
    assert (sorted(broker.acked), report.redelivered) == (plain_bodies(2), 0)


def test_a_slow_status_is_awaited(monkeypatch):
    """The watchdog awaits a status that takes less than the maximum time."""
    monkeypatch.setattr(watchdog, "ANSWER_SECONDS", 5)
    proc = raw_processor()
    proc.add_handler(Everything(), lambda message, context: None)

    async def slowly():
        await asyncio.sleep(0.15)
        return SessionStatus(connected=True)

    broker = Watched(proc, plain_bodies(1), first=slowly, ends=False)

    async def meanwhile(engine):
        await broker.checked(3)
        engine.stop()

    run(broker, meanwhile=meanwhile)
    assert len(broker.sessions) == 1


def test_a_healthy_source_is_unaffected_by_a_dead_one():
    """The session of a dead source is replaced, and the session of a healthy source is not."""
    proc = raw_processor()
    proc.add_handler(Everything(), lambda message, context: None)
    dead = Watched(proc, plain_bodies(2), first=SessionStatus(connected=False))
    block_first_fetch(dead)
    fine = Watched(proc, plain_bodies(2), first=SessionStatus(connected=True), capabilities=Capabilities(lease=5))
    run(dead, fine)
    assert (len(dead.sessions), len(fine.sessions)) == (2, 1)
    assert sorted(dead.acked) == sorted(fine.acked) == plain_bodies(2)
