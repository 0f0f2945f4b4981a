"""A store that does not answer, without closing its connections: messages that do not need it run and settle."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from missive.adapters.sqlite import SCHEMA
from missive.dlq import Query, open_store
from missive.testing.conformance.proxy import Fault, FaultProxy
from tests.conftest import wait_until
from tests.support.process import Running
from tests.support.stores import REDIS, SERVERS

Start = Callable[..., Running]

APPLICATION = """
import os
import missive
from missive.matchers import Field
proc = missive.Processor(missive.JSONMessage, name="app", max_unfiled=20)
@proc.handle_for(Field("ok", True))
def fine(message, context):
    os.write(1, b"ok\\n")
@proc.handle_for(Field("ok", False))
def broken(message, context):
    raise ValueError
@proc.handle_for(Field("ok", "once"), name="once", once=missive.Once(lambda message: message.get_json()["n"]))
def once(message, context):
    os.write(1, b"once\\n")
"""


class Queue:
    """A queue in an SQLite file."""

    def __init__(self, directory: Path) -> None:
        self._connection = sqlite3.connect(directory / "queue.db", isolation_level=None, timeout=30)
        self._connection.executescript(SCHEMA)
        (directory / "queue.db").chmod(0o600)
        self._sent = 0

    def send(self, ok: object, count: int = 1) -> None:
        """Add messages."""
        for _ in range(count):
            self._sent += 1
            body = json.dumps({"ok": ok, "n": self._sent}).encode()
            self._connection.execute("INSERT INTO missive_queue (queue, body) VALUES ('q', ?)", (body,))

    def __len__(self) -> int:
        return int(self._connection.execute("SELECT count(*) FROM missive_queue").fetchone()[0])

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    """Return a new queue, and write the application."""
    (tmp_path / "app.py").write_text(APPLICATION)
    with contextlib.closing(Queue(tmp_path)) as queue:
        yield queue


@pytest.fixture(params=[*SERVERS, REDIS])
def proxied(request: pytest.FixtureRequest) -> Iterator[tuple[FaultProxy, str, str]]:
    """Return a proxy in front of a server, and the URLs of a new store, behind the proxy and without it."""
    server: Any = request.getfixturevalue(request.param)
    url = str(server.store()) if hasattr(server, "store") else str(server.url(server.database()))
    with FaultProxy("127.0.0.1", server.port) as proxy:
        yield proxy, url.replace(f":{server.port}/", f":{proxy.address[1]}/"), url


def test_a_store_that_does_not_answer(missive: Start, queue: Queue, proxied: tuple[FaultProxy, str, str]):
    """Good messages run and settle, intake pauses at `max_unfiled` only, and one line reports each change."""
    proxy, url, direct = proxied
    worker = missive("run", "app:proc", "--from", "sqlite:///queue.db?queue=q", "--dlq", url, "--concurrency", "2")
    queue.send(True)
    assert worker.line() == "ok\n"
    queue.send(False)
    wait_until(lambda: not len(queue), "the first dead letter")
    proxy.set(Fault.half_open)
    queue.send(False, 5)
    queue.send("once", 5)
    queue.send(True, 50)
    began = time.monotonic()
    assert [worker.line(20) for _ in range(50)] == ["ok\n"] * 50
    assert time.monotonic() - began < 20
    wait_until(lambda: len(queue) == 10, "good messages to be settled")
    assert "it wait, unsettled, and the others run; trying again" in worker.error_line()
    queue.send(False, 10)  # 20 messages wait for the store
    assert "intake is paused: 20 messages wait for the dead letter store, unsettled" in worker.error_line()
    proxy.set()
    assert [worker.line(60) for _ in range(5)] == ["once\n"] * 5
    wait_until(lambda: not len(queue), "every message to be settled", 60)
    queue.send(True)
    assert worker.line() == "ok\n"
    _, err = worker.terminate()
    lines = err.splitlines()
    assert [line.partition("missive: ")[2] or line for line in lines if "intake continues" in line], err
    assert sum("works again" in line for line in lines) == 1, err
    assert not any("Traceback" in line or "unsettled" in line for line in lines), err
    assert "57 handled, 16 dead-lettered (16 failed)" in lines[-1], err
    with contextlib.closing(open_store(direct)) as store:
        assert store.count(Query()) == 16


def test_a_drain_keeps_its_time(missive: Start, queue: Queue, proxied: tuple[FaultProxy, str, str]):
    """The drain ends in time, and the last line counts the messages that are left."""
    proxy, url, _ = proxied
    command = ("run", "app:proc", "--from", "sqlite:///queue.db?queue=q", "--dlq", url, "--drain", "5")
    worker = missive(*command)
    queue.send(True)
    assert worker.line() == "ok\n"
    proxy.set(Fault.half_open)
    queue.send(False, 5)
    queue.send("once", 3)
    queue.send(True)
    assert worker.line() == "ok\n"
    began = time.monotonic()
    _, err = worker.terminate()
    assert 4 < time.monotonic() - began < 9, err
    assert worker.code == 1
    assert f"stopped before {len(queue)} messages were settled" in err.splitlines()[-1], err
