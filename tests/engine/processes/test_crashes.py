"""Crashes: a message that kills its process is a dead letter at the third death, and those beside it are handled."""

from __future__ import annotations

import json
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from missive import JSONMessage, Processor
from missive.dlq.sql import SQLStore
from missive.engine.processes import crashes
from missive.engine.processes.crashes import Count
from missive.engine.processes.inflight import delivery_mark
from missive.engine.runner import execute
from missive.matchers import Everything, Field
from missive.testing import MemoryAdapter
from missive.transport import Delivery
from tests.conftest import wait_until
from tests.support.process import Running

MESSAGES, CULPRIT = 12, 5

APPLICATION = f"""
import asyncio, ctypes, os, signal, time
import missive
from missive.matchers import Field, Present

proc = missive.Processor(missive.JSONMessage, name="crashes", concurrency=4)
log = os.open("log.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
running = set()
kill = dict(
    exit=lambda: os._exit(1), segfault=lambda: ctypes.string_at(0), kill=lambda: os.kill(os.getpid(), signal.SIGKILL)
)[os.environ["HOW"]]

def steps(number):
    # The culprit waits for somebody beside it, and the others for the culprit; not for ever, for one runs alone.
    os.write(log, b"start %d\\n" % number)
    running.add(number)
    for _ in range(15):
        if len(running) > 1 if number == {CULPRIT} else {CULPRIT} in running:
            break
        yield 0.01
    if number == {CULPRIT}:
        kill()
    os.write(log, b"done %d\\n" % number)
    running.discard(number)

if os.environ["KIND"] == "sync":
    @proc.handle_for(Field("n", Present()))
    def handle(message, context):
        for seconds in steps(message.get_json()["n"]):
            time.sleep(seconds)
else:
    @proc.handle_for(Field("n", Present()))
    async def handle(message, context):
        for seconds in steps(message.get_json()["n"]):
            await asyncio.sleep(seconds)
"""

BLOCKING = """
import sys, threading
import missive

proc = missive.Processor(name="crashes")

@proc.handle_for(lambda message: True)
def handle(message, context):
    print("started", flush=True)
    if b"wait" in message.raw_data:
        threading.Event().wait(60)
"""


def kept(directory: Path) -> dict[str, Any]:
    """Return the counts in the store."""
    with sqlite3.connect(directory / "missive-dlq.db") as connection:
        found = connection.execute("SELECT value FROM missive_checkpoints WHERE source = 'crashes'").fetchone()
    connection.close()
    return {} if found is None else json.loads(found[0])


def dead(directory: Path) -> list[tuple[str, str, str]]:
    """Return reason, handler and body of the dead letters."""
    with sqlite3.connect(directory / "missive-dlq.db") as connection:
        found = connection.execute("SELECT reason, handler, body FROM missive_dead_letters").fetchall()
    connection.close()
    return [(reason, handler, body.decode()) for reason, handler, body in found]


@pytest.mark.parametrize(
    ("how", "kind"), [("exit", "sync"), ("segfault", "sync"), ("kill", "sync"), ("segfault", "async")]
)
def test_the_third_death_quarantines(missive: Callable[..., Running], tmp_path: Path, how: str, kind: str):
    """The first time others run beside it, then it runs alone, then not at all; all others are handled."""
    (tmp_path / "app.py").write_text(APPLICATION)
    (tmp_path / "in.jsonl").write_text("".join(f'{{"n": {n}}}\n' for n in range(MESSAGES)))
    codes, beside = [], []
    for _ in range(4):
        before = len(lines) if (lines := words(tmp_path)) else 0
        worker = missive("run", "app:proc", "--from", "file:in.jsonl", env={"HOW": how, "KIND": kind})
        _, err = worker.finish()
        codes.append(worker.code)
        seen = Counter(n for what, n in words(tmp_path)[before:] if what == "start")
        seen.subtract(Counter(n for what, n in words(tmp_path)[before:] if what == "done"))
        beside.append(+seen)
    assert codes == [{"exit": 1, "segfault": -signal.SIGSEGV, "kill": -signal.SIGKILL}[how]] * 3 + [0]
    assert len(beside[0]) > 1, "nothing ran beside it the first time: this shows nothing"
    assert beside[1:] == [Counter([CULPRIT])] * 2 + [Counter()]
    assert dead(tmp_path) == [("poison", "app:handle", f'{{"n": {CULPRIT}}}')]
    assert {n for what, n in words(tmp_path) if what == "done"} == set(range(MESSAGES)) - {CULPRIT}
    assert kept(tmp_path) == {}, "all others came back, and the culprit is where it can be looked at"
    assert "1 dead-lettered (1 poison)" in err


def words(directory: Path) -> list[tuple[str, int]]:
    path = directory / "log.txt"
    return [(what, int(n)) for what, n in map(str.split, path.read_text().splitlines())] if path.exists() else []


@pytest.mark.parametrize(("told", "deaths"), [("", 1), ("once", 0), ("twice", 0)])
def test_a_death_after_sigterm_does_not_count(missive: Callable[..., Running], tmp_path: Path, told: str, deaths: int):
    """What is killed, or forced, while it stops was not killed by its message; without a signal it was."""
    (tmp_path / "app.py").write_text(BLOCKING)
    (tmp_path / "in.jsonl").write_text("wait\n")
    worker = missive("run", "app:proc", "--from", "file:in.jsonl")
    assert worker.line() == "started\n"
    if told:
        worker.send(signal.SIGTERM)
        while "waiting" not in worker.error_line():
            pass
    if told == "twice":
        worker.terminate()
    else:
        worker.kill()
    (tmp_path / "in.jsonl").write_text("wait\nmore\n")
    following = missive("run", "app:proc", "--from", "file:in.jsonl")
    assert following.line() == "started\n"
    assert [count for count, _ in kept(tmp_path).values()] == [1] * deaths


def test_a_suspect_that_comes_back_is_forgotten(missive: Callable[..., Running], tmp_path: Path):
    """One death, then a good run: nothing is held against the message any more."""
    (tmp_path / "app.py").write_text(BLOCKING)
    (tmp_path / "in.jsonl").write_text("wait\n")
    worker = missive("run", "app:proc", "--from", "file:in.jsonl")
    assert worker.line() == "started\n"
    worker.kill()
    (tmp_path / "app.py").write_text(BLOCKING.replace("wait(60)", "wait(0)"))
    following = missive("run", "app:proc", "--from", "file:in.jsonl")
    _, err = following.finish()
    assert "1 handled" in err
    assert kept(tmp_path) == {}


# In one process, with counts that were there before


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SQLStore:
    monkeypatch.chdir(tmp_path)
    return SQLStore("sqlite:///dlq.db")


def accuse(store: SQLStore, deaths: int, *deliveries: Delivery, at: float | None = None) -> None:
    counts = {delivery_mark(delivery): Count(deaths, at or time.time()) for delivery in deliveries}
    store.save_checkpoint("t", crashes.KEY, crashes.dump_counts(counts))


def recalled() -> dict[int, Count]:
    again = SQLStore("sqlite:///dlq.db")
    try:
        return crashes.load_counts(again.load_checkpoint("t", crashes.KEY), time.time())
    finally:
        again.close()


def delivery(n: int, kind: str = "sync", **more: Any) -> Delivery:
    return Delivery(json.dumps({"n": n, "kind": kind}).encode(), position=n, **more)


class Together:
    """Handlers that note who ran at the same time as whom, and in which order they began."""

    def __init__(self) -> None:
        self.order: list[int] = []
        self.with_others: set[int] = set()
        self._running: set[int] = set()
        self._lock = threading.Lock()

    def processor(self, **terms: Any) -> Processor[JSONMessage]:
        proc = Processor(JSONMessage, name="t", concurrency=4)

        @proc.handle_for(Field("kind", "sync"), **terms)
        def handle(message: JSONMessage, context: Any) -> None:
            self._run(message.get_json()["n"])
            if context.attempt == 1 and message.get_json()["n"] == 99:
                context.retry(0)

        @proc.handle_for(Field("kind", "async"), **terms)
        async def handle_async(message: JSONMessage, context: Any) -> None:
            self._run(message.get_json()["n"])

        return proc

    def _run(self, n: int) -> None:
        with self._lock:
            self.order.append(n)
            self._running.add(n)
            self._note()
        time.sleep(0.01)  # so long that others run at the same time, if they may
        with self._lock:
            self._note()
            self._running.discard(n)

    def _note(self) -> None:
        if len(self._running) > 1:
            self.with_others |= self._running


@pytest.mark.parametrize("kinds", [["sync"], ["sync", "async"]])
def test_suspects_run_alone_and_in_their_turn(store: SQLStore, kinds: list[str]):
    """Nothing runs beside a suspect, of whatever kind; the others run beside one another."""
    together = Together()
    deliveries = [delivery(n, kinds[n % len(kinds)]) for n in range(40)]
    suspects = {7, 8, 20, 39}
    accuse(store, 2, *(deliveries[n] for n in suspects))
    (report,) = execute([MemoryAdapter(together.processor(), deliveries)], sink=store)
    assert report.total_handled == 40
    assert not suspects & together.with_others
    assert len(together.with_others) > 20, "the others ran one by one: this shows nothing"
    for n in suspects:
        assert set(together.order[:n]) == set(range(n)), "a suspect keeps its turn"
    assert recalled() == {}


def test_suspects_keep_the_order_of_their_lane(store: SQLStore):
    """With a key in order, a suspect is not overtaken, also when it is run a second time."""
    together = Together()
    deliveries = [delivery(n) for n in (1, 99, 2, 3)]
    accuse(store, 1, deliveries[1])
    proc = together.processor(ordered_by=lambda message: "one")
    execute([MemoryAdapter(proc, deliveries)], sink=store)
    assert together.order == [1, 99, 99, 2, 3]
    assert recalled() == {}


def test_a_convict_is_not_run_again(store: SQLStore):
    """At three deaths it is a dead letter with its handler's name, and forgotten; its replay is run."""
    together = Together()
    convict = delivery(1)
    accuse(store, 3, convict)
    (report,) = execute([MemoryAdapter(together.processor(), [convict, delivery(2)])], sink=store)
    assert together.order == [2]
    assert report.dead == {"poison": 1}
    assert recalled() == {}
    again = SQLStore("sqlite:///dlq.db")
    accuse(again, 3, convict)
    replayed = delivery(1, record_id="a record", redelivered=True)
    execute([MemoryAdapter(together.processor(), [replayed])], sink=again)
    assert together.order == [2, 1]


def test_what_is_not_run_is_not_convicted(store: SQLStore):
    """A declared discard and an unmatched message end as ever, whatever is said of them."""
    proc = Processor(JSONMessage, name="t")
    proc.discard_for(Field("kind", "sync"), reason="old")
    deliveries = [delivery(1), delivery(2, "other"), Delivery(b"{", position=3)]
    accuse(store, 3, *deliveries)
    (report,) = execute([MemoryAdapter(proc, deliveries)], sink=store)
    assert (sum(report.discarded.values()), report.dead) == (1, {"unmatched": 1, "unreadable": 1})


def test_a_suspect_that_is_not_run_does_not_hold_the_others_up(store: SQLStore):
    """After one that is unmatched, or whose key cannot be had, the rest runs side by side as before."""
    together = Together()
    deliveries = [delivery(0, "other"), *(delivery(n) for n in range(1, 9))]
    accuse(store, 1, deliveries[0])
    (report,) = execute([MemoryAdapter(together.processor(), deliveries)], sink=store)
    assert (report.total_handled, report.dead) == (8, {"unmatched": 1})
    assert together.with_others


def test_a_redelivered_message_has_the_counts_read_again(store: SQLStore):
    """What another process died of after this one started is known when it comes here."""
    together = Together()
    convict = delivery(1, redelivered=True)
    adapter = MemoryAdapter(together.processor(), [delivery(2)], ends=False)
    running = threading.Thread(target=execute, args=([adapter],), kwargs={"sink": store})
    running.start()
    wait_until(lambda: len(adapter.settled) == 1, "the first message")
    other = SQLStore("sqlite:///dlq.db")
    accuse(other, 3, convict)
    other.close()
    session = adapter.session
    adapter.waiting.append(convict)
    adapter.ends = True
    session._loop.call_soon_threadsafe(session._more.set)
    running.join(30)
    assert not running.is_alive()
    assert (together.order, len(adapter.settled)) == ([2], 2)


def test_without_a_store_there_are_no_seats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Where counts cannot be kept, nothing is noted, and nothing is looked for."""
    monkeypatch.setattr(
        "missive.engine.processes.inflight.InFlightDirectory.__init__", lambda *_: pytest.fail("a room was opened")
    )
    proc = Processor(name="t", dlq={})
    proc.add_handler(Everything(), lambda message, context: None)
    (report,) = execute([MemoryAdapter(proc, [b"1"])])
    assert report.total_handled == 1


def test_where_nothing_can_be_shared_processing_goes_on(
    store: SQLStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """One warning, and everything else as ever; what the store says of suspects still holds."""

    def no_room(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("missive.engine.processes.inflight.InFlightDirectory.__init__", no_room)
    convict = delivery(1)
    accuse(store, 3, convict)
    together = Together()
    (report,) = execute([MemoryAdapter(together.processor(), [convict, delivery(2)])], sink=store)
    assert (report.total_handled, report.dead) == (1, {"poison": 1})
    assert caplog.text.count("cannot be found: Permission denied") == 1


# What is kept


def test_counts_lapse_after_a_week():
    """What was counted longer ago counts no more."""
    counts = {1: Count(2, 1000.0), 2: Count(1, 2000.0)}
    text = crashes.dump_counts(counts)
    assert crashes.load_counts(text, 3000.0) == counts
    assert crashes.load_counts(text, 1500.0 + 7 * 86400) == {2: Count(1, 2000.0)}


def test_a_thousand_counts_are_kept_the_newest():
    """The store's row does not grow without bounds."""
    counts = {n + 1: Count(1, float(n)) for n in range(1500)}
    assert sorted(crashes.load_counts(crashes.dump_counts(counts), 1500.0)) == list(range(501, 1501))


@pytest.mark.parametrize(
    "text", [None, "", "[]", "1", "{", '{"x": 1}', '{"zz": [1, 2]}', '{"1": [1]}', '{"1": ["a", 2]}']
)
def test_what_cannot_be_read_counts_nothing(text: str | None):
    """A store that somebody wrote into by hand stops nobody."""
    assert crashes.load_counts(text, 0.0) == {}
