"""An outage of the dead letter store: failures stay unsettled, and processing continues when the outage ends."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import sqlite3
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pika
import pytest
import sqlalchemy as sa

import missive as m
from missive.dlq.sql import SQLStore
from missive.engine.runner import execute
from missive.matchers import Field
from missive.testing import MemoryAdapter
from missive.transport import Delivery
from tests.conftest import wait_until
from tests.support.process import Running
from tests.support.rabbitmq import RabbitMQ

Start = Callable[..., Running]

BIN = str(Path(sys.executable).parent)
APPLICATION = """
import missive
from missive.matchers import Field
proc = missive.Processor(missive.JSONMessage, name="app")
@proc.handle_for(Field("ok", True))
def fine(message, context):
    print("ok", flush=True)
@proc.handle_for(Field("ok", False))
def broken(message, context):
    raise ValueError
"""


@pytest.mark.rabbitmq
def test_a_store_at_its_file_size_limit(start: Start, tmp_path: Path, rabbitmq: RabbitMQ):
    """With a store that cannot grow, failures stay at the broker, and successes are acked. One line reports the fault.

    Without the limit, all dead letters are stored, and the queue is empty.
    """
    (tmp_path / "app.py").write_text(APPLICATION)
    queue = f"full-{os.getpid()}"
    with rabbitmq.channel() as channel:
        channel.queue_declare(queue, durable=True)
        filler = "x" * 5000
        for n in range(300):
            body = json.dumps({"ok": n % 3 == 0, "filler": filler}).encode()
            channel.basic_publish("", queue, body, pika.BasicProperties(delivery_mode=2, message_id=str(n)))
    # The shell sets the limit and then becomes the worker. The unit is 512 or 1024 bytes.
    limited = ("sh", "-c", 'ulimit -S -f 400; exec "$@"', "sh", shutil.which("missive", path=BIN))
    process = start(*limited, "run", "app:proc", "--from", rabbitmq.url(queue), "--dlq", "sqlite:///dlq.db")
    complaint = process.error_line()
    assert "the dead letter store sqlite:///dlq.db cannot be written" in complaint
    assert "messages that need it wait, unsettled, and the others run; trying again" in complaint
    assert stored(tmp_path) < 200
    # Messages that were fetched before the pause are handled. Their number depends on the broker.
    assert process.line() == "ok\n"
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    wait_until(lambda: stored(tmp_path) == 200, "all dead letters in the store")
    assert "the dead letter store works again" in process.error_line()
    assert [process.line() for _ in range(99)] == ["ok\n"] * 99
    with rabbitmq.channel() as channel:
        channel.basic_publish("", queue, b'{"ok": true}')
    assert process.line() == "ok\n"
    _, err = process.terminate()
    assert (process.code, "101 handled, 200 dead-lettered (200 failed)" in err) == (0, True)
    with rabbitmq.channel() as channel:
        assert channel.queue_declare(queue, passive=True).method.message_count == 0


def stored(directory: Path) -> int:
    """Return the number of records in the store."""
    with contextlib.closing(sqlite3.connect(directory / "dlq.db", timeout=30)) as connection, connection:
        count = connection.execute("SELECT count(*) FROM missive_dead_letters").fetchone()[0]
    connection.close()
    return int(count)


def test_a_stop_during_an_outage_leaves_messages_unsettled(missive: Start, tmp_path: Path):
    """A stop during an outage exits with 1 and counts the unstored dead letters. The queue still has them."""
    from missive.adapters.sqlite import SCHEMA

    (tmp_path / "app.py").write_text(APPLICATION)
    producer = sqlite3.connect(tmp_path / "queue.db", isolation_level=None)
    (tmp_path / "queue.db").chmod(0o600)
    producer.executescript(SCHEMA)
    producer.execute("INSERT INTO missive_queue (queue, body) VALUES ('q', '{\"ok\": false}')")
    producer.execute("INSERT INTO missive_queue (queue, body) VALUES ('q', '{\"ok\": true}')")
    command = ("run", "app:proc", "--from", "sqlite:///queue.db?queue=q&lease=1", "--drain", "0.5")
    process = missive(*command, "--dlq", "sqlite:///dlq.db")
    assert process.line() == "ok\n"
    wait_until(lambda: stored(tmp_path) == 1, "the first dead letter")
    blocker = sqlite3.connect(tmp_path / "dlq.db", isolation_level=None)
    blocker.execute("BEGIN EXCLUSIVE")
    producer.execute("INSERT INTO missive_queue (queue, body) VALUES ('q', '{\"ok\": false}')")
    assert "cannot be written: database is locked; messages that need it wait, unsettled" in process.error_line()
    _, err = process.terminate()
    assert (process.code, "1 dead letters not yet in their store" in err) == (1, True)
    blocker.close()
    assert producer.execute("SELECT count(*) FROM missive_queue").fetchone()[0] == 1
    producer.close()


def test_a_full_database(tmp_path: Path):
    """At SQLite's page limit, no unstored dead letter is settled. With room again, all of them are."""
    store = SQLStore(f"sqlite:///{tmp_path}/dlq.db")
    pages = {"limit": 40}

    @sa.event.listens_for(store._engine, "begin")
    def limited(connection: Any) -> None:
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages['limit']}")

    proc = m.Processor(m.JSONMessage, name="t", dlq=store)
    handled = threading.Event()

    @proc.handle_for(Field("ok", True))
    def fine(message: m.JSONMessage, context: m.HandlingContext) -> None:
        handled.set()

    body = json.dumps({"ok": False, "filler": "x" * 3000}).encode()
    adapter = MemoryAdapter(proc, [*(Delivery(body, position=n) for n in range(100)), b'{"ok": true}'])

    def make_room() -> None:
        assert handled.wait(20)
        wait_until(lambda: adapter.settled, "the success to be settled")
        assert [str(item.outcome) for item in adapter.settled] == ["acked"]
        pages["limit"] = 100_000

    room = threading.Thread(target=make_room)
    room.start()
    (report,) = execute([adapter])
    room.join(30)
    assert (report.total_handled, report.total_dead, len(adapter.settled)) == (1, 100, 101)
    assert stored(tmp_path) == 100
