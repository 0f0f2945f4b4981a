"""The watchdog: a consumer that is dead or gets nothing is made anew, and one that has a reason is left alone."""

from __future__ import annotations

import asyncio
import re
import threading

import pytest

from missive import JSONMessage, Processor, StoreError
from missive.dlq.contract import Sink
from missive.engine.intake import watchdog
from missive.engine.limits import Limits
from missive.engine.runtime import Runtime
from missive.errors import Transient
from missive.matchers import Everything
from missive.transport import Capabilities, Delivery, SessionStatus
from tests.support.broker import Broker
from tests.support.engine import SMALL_LIMITS, run, until

CANARY = "canary-4711"


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """It looks fifty times a second, and has little patience."""
    monkeypatch.setattr(watchdog, "EVERY", 0.02)
    monkeypatch.setattr(watchdog, "ANSWER_SECONDS", 0.1)
    monkeypatch.setattr(watchdog, "_STALLED", 0.15)


def processor(**settings):
    return Processor(**{"name": "app", "dlq": {}, "concurrency": 2, **settings})


def bodies(count):
    return [b"%d" % n for n in range(count)]


class Watched(Broker):
    """Counts how often it was asked how it is, and says what it is told to say of its first session."""

    def __init__(self, *given, first, **settings):
        super().__init__(*given, **settings)
        self.asked = 0
        self.first = first
        self.intercept["status"] = self.status

    def status(self, session):
        """Answer."""
        self.asked += 1
        if session is self.sessions[0]:
            return self.first() if callable(self.first) else self.first
        return None

    async def asked_again(self, times=15):
        """Wait until it was asked some more times: long enough for all patience to end."""
        seen = self.asked
        await until(lambda: self.asked >= seen + times, f"{times} more looks")


def deaf(broker):
    """Let the first session get nothing, though much waits."""

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
    ("first", "said"),
    [
        (SessionStatus(connected=False), "lost its consumer without noticing"),
        (SessionStatus(connected=True, lag=3), r"has 3 messages and delivered none for \d+ s"),
        (SessionStatus(lag=3), "has 3 messages and delivered none"),
        (never, "does not answer"),
        (fail_transient, "lost its consumer"),
        (fail_store, "lost its consumer"),
    ],
    ids=["not connected", "stalled", "stalled, and not known if connected", "no answer", "transient", "store"],
)
def test_what_is_dead_is_made_anew(first, said, caplog):
    """A session that is not connected, gets nothing of what waits, or does not answer is replaced, and that is said."""
    proc = processor()
    proc.add_handler(Everything(), lambda message, context: None)
    broker = Watched(proc, bodies(3), first=first)
    deaf(broker)
    _, report = run(broker)
    assert sorted(broker.acked) == bodies(3)
    assert report.total_handled == 3
    assert len(broker.sessions) == 2
    assert broker.sessions[0].closed
    warnings = [record.getMessage() for record in caplog.records if "; reconnecting" in record.getMessage()]
    assert len(warnings) == 1
    assert re.match(f"broker:queue {said}", warnings[0])


def test_what_is_held_comes_again():
    """What a session held that is found dead comes again and is settled by the next; nothing is settled twice."""
    proc, go_on, ran = processor(concurrency=1), threading.Event(), []

    @proc.handle_for(Everything())
    def handle(message, context):
        ran.append(message.raw_data)
        go_on.wait(10)

    broker = Watched(proc, bodies(4), first=SessionStatus())

    async def meanwhile(engine):
        await until(lambda: len(broker.held) == 4, "all to be held")
        broker.first = SessionStatus(connected=False)
        await until(lambda: len(broker.sessions) == 2 and len(broker.held) == 4, "all to come again")
        go_on.set()

    _, report = run(broker, meanwhile=meanwhile)
    assert sorted(broker.acked) == bodies(4)
    assert ran == [b"0", *bodies(4)]
    assert report.redelivered == 4


@pytest.mark.parametrize(
    "first", [SessionStatus(), SessionStatus(connected=True), SessionStatus(connected=True, lag=0, oldest_age=5.0)]
)
def test_what_is_idle_is_left_alone(first):
    """A session that gets nothing because nothing waits, or that does not tell, is left alone."""
    proc = processor()
    proc.add_handler(Everything(), lambda message, context: None)
    broker = Watched(proc, bodies(1), first=first, ends=False)

    async def meanwhile(engine):
        await until(lambda: broker.acked, "the message")
        await broker.asked_again()
        engine.stop()

    run(broker, meanwhile=meanwhile)
    assert len(broker.sessions) == 1


def test_a_status_that_raises_is_no_reason(caplog):
    """An adapter's mistake in telling its status is said, without its text, and drops nothing."""
    proc = processor()
    proc.add_handler(Everything(), lambda message, context: None)

    def fail():
        raise ValueError(CANARY)

    broker = Watched(proc, bodies(1), first=fail, ends=False)

    async def meanwhile(engine):
        await broker.asked_again()
        engine.stop()

    run(broker, meanwhile=meanwhile)
    assert len(broker.sessions) == 1
    assert "broker:queue failed to report its status: ValueError" in caplog.text
    assert CANARY not in caplog.text


def test_progress_is_what_comes():
    """However much waits, a session that delivers now and then is left alone."""
    proc = processor()
    proc.add_handler(Everything(), lambda message, context: None)
    broker = Watched(proc, bodies(1), first=SessionStatus(connected=True, lag=1000), ends=False)

    async def meanwhile(engine):
        for _ in range(12):
            await broker.asked_again(2)
            broker.send(b"more")
        engine.stop()

    run(broker, meanwhile=meanwhile)
    assert len(broker.sessions) == 1


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_full_credit_is_a_reason(is_async, monkeypatch):
    """While handlers hold the whole credit nothing is asked for, and that nothing comes is no trouble."""
    monkeypatch.setattr(Runtime, "limits", Limits(10, 1000))
    proc, go_on = processor(), threading.Event()

    async def handle_async(message, context):
        await until(go_on.is_set, "to go on")

    proc.add_handler(Everything(), handle_async if is_async else lambda message, context: go_on.wait(10))
    broker = Watched(proc, bodies(30), first=SessionStatus(connected=True, lag=20))

    async def meanwhile(engine):
        await until(lambda: len(broker.held) == 10, "the credit to be used")
        await broker.asked_again()
        go_on.set()

    _, report = run(broker, meanwhile=meanwhile)
    assert len(broker.sessions) == 1
    assert (report.total_handled, report.redelivered) == (30, 0)


class Down(Sink):
    """A store that cannot be written until it is told that it can."""

    def __init__(self):
        self.up = threading.Event()
        self.tries = 0
        self.kept = []

    def put(self, records):
        """Keep them, or not."""
        self.tries += 1
        if not self.up.is_set():
            raise StoreError("down")
        self.kept.extend(records)


def test_a_store_that_is_down_is_a_reason(monkeypatch):
    """While intake is paused because dead letters cannot be written, that nothing comes is no trouble."""
    monkeypatch.setattr("missive.engine.completion.dead_letters._LONGEST_BACKOFF", 0.1)
    store = Down()
    proc = processor(dlq=store)

    @proc.handle_for(Everything())
    def handle(message, context):
        if message.raw_data == b"0":
            raise ValueError

    broker = Watched(proc, bodies(1), first=SessionStatus(connected=True, lag=2), ends=False)

    async def meanwhile(engine):
        await until(lambda: store.tries, "the store to be tried")
        broker.send(b"1", b"2")
        await broker.asked_again()
        store.up.set()
        await until(lambda: len(broker.acked) == 3, "all to be settled")
        engine.stop()

    _, report = run(broker, meanwhile=meanwhile)
    assert len(broker.sessions) == 1
    assert (len(store.kept), report.redelivered) == (1, 0)


def test_a_paused_lane_is_a_reason(monkeypatch):
    """While a lane is paused, the session is not replaced although messages wait and none arrives."""
    monkeypatch.setattr(Runtime, "limits", SMALL_LIMITS)
    proc, go_on = Processor(JSONMessage, name="app", dlq={}, concurrency=4), threading.Event()
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


def test_draining_is_a_reason():
    """While processing stops, and running work is waited for, no session is dropped for what it does not deliver."""
    proc, go_on = processor(), threading.Event()
    proc.add_handler(Everything(), lambda message, context: go_on.wait(10))
    broker = Watched(proc, bodies(2), first=SessionStatus(connected=True, lag=100), ends=False)

    async def meanwhile(engine):
        await until(lambda: len(broker.held) == 2, "both to run")
        engine.stop()
        await broker.asked_again()
        go_on.set()

    _, report = run(broker, meanwhile=meanwhile)
    assert len(broker.sessions) == 1
    assert (sorted(broker.acked), report.redelivered) == (bodies(2), 0)


def test_a_slow_answer_is_an_answer(monkeypatch):
    """A status that takes a while is waited for."""
    monkeypatch.setattr(watchdog, "ANSWER_SECONDS", 5)
    proc = processor()
    proc.add_handler(Everything(), lambda message, context: None)

    async def slowly():
        await asyncio.sleep(0.15)
        return SessionStatus(connected=True)

    broker = Watched(proc, bodies(1), first=slowly, ends=False)

    async def meanwhile(engine):
        await broker.asked_again(3)
        engine.stop()

    run(broker, meanwhile=meanwhile)
    assert len(broker.sessions) == 1


def test_each_source_has_its_own():
    """A source that is dead is nothing to another, whose status is fine."""
    proc = processor()
    proc.add_handler(Everything(), lambda message, context: None)
    dead = Watched(proc, bodies(2), first=SessionStatus(connected=False))
    deaf(dead)
    fine = Watched(proc, bodies(2), first=SessionStatus(connected=True), capabilities=Capabilities(lease=5))
    run(dead, fine)
    assert (len(dead.sessions), len(fine.sessions)) == (2, 1)
    assert sorted(dead.acked) == sorted(fine.acked) == bodies(2)
