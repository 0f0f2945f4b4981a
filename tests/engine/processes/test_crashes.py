"""Crashes: a message that kills its process is a dead letter at the third death; other messages are handled."""

from __future__ import annotations

import contextlib
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

KILLING = f"""
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
    # The culprit waits for another message, and the others for the culprit: 150 ms, because a suspect runs alone.
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


def counts_in(directory: Path) -> dict[str, Any]:
    """Return the stored counts of deaths."""
    with contextlib.closing(sqlite3.connect(directory / "missive-dlq.db")) as connection, connection:
        found = connection.execute("SELECT value FROM missive_checkpoints WHERE source = 'crashes'").fetchone()
    connection.close()
    return {} if found is None else json.loads(found[0])


def dead_letters_in(directory: Path) -> list[tuple[str, str, str]]:
    """Return reason, handler and body of the dead letters."""
    with contextlib.closing(sqlite3.connect(directory / "missive-dlq.db")) as connection, connection:
        found = connection.execute("SELECT reason, handler, body FROM missive_dead_letters").fetchall()
    connection.close()
    return [(reason, handler, body.decode()) for reason, handler, body in found]


def log_lines(directory: Path) -> list[tuple[str, int]]:
    """Return the lines of the application's log, as pairs of an event and a number."""
    path = directory / "log.txt"
    return [(event, int(n)) for event, n in map(str.split, path.read_text().splitlines())] if path.exists() else []


# Workers that die


@pytest.mark.parametrize(
    ("how", "kind"), [("exit", "sync"), ("segfault", "sync"), ("kill", "sync"), ("segfault", "async")]
)
def test_a_message_is_quarantined_at_the_third_death(
    missive: Callable[..., Running], tmp_path: Path, how: str, kind: str
):
    """A message kills its process among others, then twice alone, and is then quarantined. All others are handled."""
    (tmp_path / "app.py").write_text(KILLING)
    (tmp_path / "in.jsonl").write_text("".join(f'{{"n": {n}}}\n' for n in range(MESSAGES)))
    codes, running = [], []
    for _ in range(4):
        before = len(log_lines(tmp_path))
        worker = missive("run", "app:proc", "--from", "file:in.jsonl", env={"HOW": how, "KIND": kind})
        _, err = worker.finish()
        codes.append(worker.code)
        started = Counter(n for event, n in log_lines(tmp_path)[before:] if event == "start")
        started.subtract(Counter(n for event, n in log_lines(tmp_path)[before:] if event == "done"))
        running.append(+started)
    assert codes == [{"exit": 1, "segfault": -signal.SIGSEGV, "kill": -signal.SIGKILL}[how]] * 3 + [0]
    assert len(running[0]) > 1, "no other message ran at the first death, so the test shows nothing"
    assert running[1:] == [Counter([CULPRIT])] * 2 + [Counter()]
    assert dead_letters_in(tmp_path) == [("poison", "app:handle", f'{{"n": {CULPRIT}}}')]
    assert {n for event, n in log_lines(tmp_path) if event == "done"} == set(range(MESSAGES)) - {CULPRIT}
    assert counts_in(tmp_path) == {}, "the others came back, and the culprit is a dead letter"
    assert "1 dead-lettered (1 poison)" in err


@pytest.mark.parametrize(("sigterms", "deaths"), [(0, 1), (1, 0), (2, 0)])
def test_a_death_during_the_drain_does_not_count(
    missive: Callable[..., Running], tmp_path: Path, sigterms: int, deaths: int
):
    """A process that is killed or forced to stop during its drain was not killed by its message."""
    (tmp_path / "app.py").write_text(BLOCKING)
    (tmp_path / "in.jsonl").write_text("wait\n")
    worker = missive("run", "app:proc", "--from", "file:in.jsonl")
    assert worker.line() == "started\n"
    if sigterms:
        worker.send(signal.SIGTERM)
        while "waiting" not in worker.error_line():
            pass
    if sigterms == 2:
        worker.terminate()
    else:
        worker.kill()
    (tmp_path / "in.jsonl").write_text("wait\nmore\n")
    following = missive("run", "app:proc", "--from", "file:in.jsonl")
    assert following.line() == "started\n"
    assert [count for count, _ in counts_in(tmp_path).values()] == [1] * deaths


def test_a_suspect_that_is_handled_is_forgotten(missive: Callable[..., Running], tmp_path: Path):
    """After one death, a message that is handled has no count any more."""
    (tmp_path / "app.py").write_text(BLOCKING)
    (tmp_path / "in.jsonl").write_text("wait\n")
    worker = missive("run", "app:proc", "--from", "file:in.jsonl")
    assert worker.line() == "started\n"
    worker.kill()
    (tmp_path / "app.py").write_text(BLOCKING.replace("wait(60)", "wait(0)"))
    following = missive("run", "app:proc", "--from", "file:in.jsonl")
    _, err = following.finish()
    assert "1 handled" in err
    assert counts_in(tmp_path) == {}


# Counts from earlier runs, in one process


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SQLStore:
    monkeypatch.chdir(tmp_path)
    return SQLStore("sqlite:///dlq.db")


def save_deaths(store: SQLStore, deaths: int, *deliveries: Delivery, at: float | None = None) -> None:
    """Store a number of deaths for each delivery."""
    counts = {delivery_mark(delivery): Count(deaths, at or time.time()) for delivery in deliveries}
    store.save_checkpoint("t", crashes.KEY, crashes.dump_counts(counts))


def load_deaths() -> dict[int, Count]:
    """Return the stored counts of deaths by delivery mark."""
    store = SQLStore("sqlite:///dlq.db")
    try:
        return crashes.load_counts(store.load_checkpoint("t", crashes.KEY), time.time())
    finally:
        store.close()


def delivery(n: int, kind: str = "sync", **more: Any) -> Delivery:
    return Delivery(json.dumps({"n": n, "kind": kind}).encode(), position=n, **more)


class Overlaps:
    """Handlers that record their order, and which messages ran at the same time."""

    def __init__(self) -> None:
        self.order: list[int] = []
        self.overlapping: set[int] = set()
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
        time.sleep(0.01)  # long enough for others to run at the same time, if they may
        with self._lock:
            self._note()
            self._running.discard(n)

    def _note(self) -> None:
        if len(self._running) > 1:
            self.overlapping |= self._running


@pytest.mark.parametrize("kinds", [["sync"], ["sync", "async"]])
def test_suspects_run_alone_and_in_their_turn(store: SQLStore, kinds: list[str]):
    """No message runs at the same time as a suspect, in a thread or on the loop. Other messages run together."""
    overlaps = Overlaps()
    deliveries = [delivery(n, kinds[n % len(kinds)]) for n in range(40)]
    suspects = {7, 8, 20, 39}
    save_deaths(store, 2, *(deliveries[n] for n in suspects))
    (report,) = execute([MemoryAdapter(overlaps.processor(), deliveries)], sink=store)
    assert report.total_handled == 40
    assert not suspects & overlaps.overlapping
    assert len(overlaps.overlapping) > 20, "the other messages ran one by one, so the test shows nothing"
    for n in suspects:
        assert set(overlaps.order[:n]) == set(range(n)), "a suspect keeps its turn"
    assert load_deaths() == {}


def test_suspects_keep_the_order_of_their_lane(store: SQLStore):
    """A suspect is not overtaken in its lane, even when it is retried."""
    overlaps = Overlaps()
    deliveries = [delivery(n) for n in (1, 99, 2, 3)]
    save_deaths(store, 1, deliveries[1])
    proc = overlaps.processor(ordered_by=lambda message: "one")
    execute([MemoryAdapter(proc, deliveries)], sink=store)
    assert overlaps.order == [1, 99, 99, 2, 3]
    assert load_deaths() == {}


def test_a_message_with_three_deaths_does_not_run(store: SQLStore):
    """A message with three deaths is a dead letter, and its count is forgotten. Its replay runs."""
    overlaps = Overlaps()
    culprit = delivery(1)
    save_deaths(store, 3, culprit)
    (report,) = execute([MemoryAdapter(overlaps.processor(), [culprit, delivery(2)])], sink=store)
    assert overlaps.order == [2]
    assert report.dead == {"poison": 1}
    assert load_deaths() == {}
    again = SQLStore("sqlite:///dlq.db")
    save_deaths(again, 3, culprit)
    replayed = delivery(1, record_id="a record", redelivered=True)
    execute([MemoryAdapter(overlaps.processor(), [replayed])], sink=again)
    assert overlaps.order == [2, 1]


def test_a_message_without_a_handler_is_not_quarantined(store: SQLStore):
    """A declared discard, an unmatched and an unreadable message keep their outcome for any number of deaths."""
    proc = Processor(JSONMessage, name="t")
    proc.discard_for(Field("kind", "sync"), reason="old")
    deliveries = [delivery(1), delivery(2, "other"), Delivery(b"{", position=3)]
    save_deaths(store, 3, *deliveries)
    (report,) = execute([MemoryAdapter(proc, deliveries)], sink=store)
    assert (sum(report.discarded.values()), report.dead) == (1, {"unmatched": 1, "unreadable": 1})


def test_a_suspect_without_a_handler_does_not_delay_others(store: SQLStore):
    """After an unmatched suspect, other messages run together."""
    overlaps = Overlaps()
    deliveries = [delivery(0, "other"), *(delivery(n) for n in range(1, 9))]
    save_deaths(store, 1, deliveries[0])
    (report,) = execute([MemoryAdapter(overlaps.processor(), deliveries)], sink=store)
    assert (report.total_handled, report.dead) == (8, {"unmatched": 1})
    assert overlaps.overlapping


def test_counts_are_read_again_for_a_redelivered_message(store: SQLStore):
    """The deaths that another process has stored after the start are known when a message is redelivered."""
    overlaps = Overlaps()
    culprit = delivery(1, redelivered=True)
    adapter = MemoryAdapter(overlaps.processor(), [delivery(2)], ends=False)
    running = threading.Thread(target=execute, args=([adapter],), kwargs={"sink": store})
    running.start()
    wait_until(lambda: len(adapter.settled) == 1, "the first message to be settled")
    other = SQLStore("sqlite:///dlq.db")
    save_deaths(other, 3, culprit)
    other.close()
    session = adapter.session
    adapter.waiting.append(culprit)
    adapter.ends = True
    session._loop.call_soon_threadsafe(session._more.set)
    running.join(30)
    assert not running.is_alive()
    assert (overlaps.order, len(adapter.settled)) == ([2], 2)


def test_running_messages_are_not_recorded_without_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Without a store of counts, the engine opens no in-flight directory."""
    monkeypatch.setattr(
        "missive.engine.processes.inflight.InFlightDirectory.__init__",
        lambda *_: pytest.fail("the engine opened an in-flight directory"),
    )
    proc = Processor(name="t", dlq={})
    proc.add_handler(Everything(), lambda message, context: None)
    (report,) = execute([MemoryAdapter(proc, [b"1"])])
    assert report.total_handled == 1


def test_processing_continues_without_an_in_flight_directory(
    store: SQLStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """When the in-flight directory cannot be opened, the engine warns once and runs. Stored counts still apply."""

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("missive.engine.processes.inflight.InFlightDirectory.__init__", refuse)
    culprit = delivery(1)
    save_deaths(store, 3, culprit)
    overlaps = Overlaps()
    (report,) = execute([MemoryAdapter(overlaps.processor(), [culprit, delivery(2)])], sink=store)
    assert (report.total_handled, report.dead) == (1, {"poison": 1})
    assert caplog.text.count("cannot be found: Permission denied") == 1


# The stored counts


def test_counts_lapse_after_a_week():
    """A count is dropped seven days after the last death."""
    counts = {1: Count(2, 1000.0), 2: Count(1, 2000.0)}
    text = crashes.dump_counts(counts)
    assert crashes.load_counts(text, 3000.0) == counts
    assert crashes.load_counts(text, 1500.0 + 7 * 86400) == {2: Count(1, 2000.0)}


def test_the_newest_thousand_counts_are_stored():
    """At most a thousand counts are stored: the newest."""
    counts = {n + 1: Count(1, float(n)) for n in range(1500)}
    assert sorted(crashes.load_counts(crashes.dump_counts(counts), 1500.0)) == list(range(501, 1501))


@pytest.mark.parametrize(
    "text", [None, "", "[]", "1", "{", '{"x": 1}', '{"zz": [1, 2]}', '{"1": [1]}', '{"1": ["a", 2]}']
)
def test_an_unreadable_checkpoint_has_no_counts(text: str | None):
    """A checkpoint that cannot be read has no counts."""
    assert crashes.load_counts(text, 0.0) == {}
