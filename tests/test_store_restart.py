"""A store that is restarted during a replay: every result is kept, and no record runs twice."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from missive.adapters.sqlite import SCHEMA
from missive.dlq import Query, Status, open_store
from tests.conftest import wait_until
from tests.support.process import Running
from tests.support.stores import REDIS, SERVERS, record

RECORDS = 2000
APPLICATION = """
import os, time
import missive
from missive.matchers import Everything

proc = missive.Processor(missive.JSONMessage, name="shop", concurrency=4)
handled = os.open("handled.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

@proc.handle_for(Everything(), name="h")
def handle(message, context):
    time.sleep(0.002)
    os.write(handled, b"%d\\n" % message.get_json()["n"])
"""


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("how", ["kill", "stop"])
@pytest.mark.parametrize("name", [*SERVERS, REDIS])
def test_a_restart_during_a_replay(
    missive: Callable[..., Running], tmp_path: Path, request: pytest.FixtureRequest, name: str, how: str
):
    """A replay by workers continues after a restart of its store, `--wait` follows it, and each record runs once."""
    server = request.getfixturevalue(name)
    url = str(server.store() if name == "redis" else server.url(server.database()))
    (tmp_path / "app.py").write_text(APPLICATION)
    with contextlib.closing(open_store(url)) as store:
        store.put([record(body=json.dumps({"n": number}).encode(), headers=()) for number in range(RECORDS)])
    with contextlib.closing(sqlite3.connect(tmp_path / "queue.db")) as connection:
        connection.executescript(SCHEMA)
    worker = missive("run", "app:proc", "--from", "sqlite:///queue.db?queue=q", "--dlq", url)
    waiting = missive("dlq", "replay", "status:dead", "--yes", "--wait", "--dlq", url)

    def handled() -> list[str]:
        path = tmp_path / "handled.txt"
        return path.read_text().split() if path.exists() else []

    wait_until(lambda: len(handled()) > RECORDS // 4, "a part to be handled", 60)
    (server.kill if how == "kill" else server.stop)()
    wait_until(lambda: "results of replays are kept" in worker.errors, "the outage to be noticed", 60)
    server.start()
    waiting.finish(240)  # a lease whose answer was lost ends after a minute, and locks of a lost client after two
    assert waiting.code == 0
    with contextlib.closing(open_store(url)) as store:
        assert store.count(Query(statuses=(Status.resolved,))) == RECORDS
    assert Counter(handled()) == Counter(map(str, range(RECORDS)))
    worker.terminate(60)
    assert worker.code == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SERVERS, REDIS])
def test_a_restart_during_a_replay_by_a_command(
    missive: Callable[..., Running], tmp_path: Path, request: pytest.FixtureRequest, name: str
):
    """`replay --with` keeps its results while the store is down, writes them afterwards, and repeats no record."""
    server = request.getfixturevalue(name)
    url = str(server.store() if name == "redis" else server.url(server.database()))
    (tmp_path / "app.py").write_text(APPLICATION)
    with contextlib.closing(open_store(url)) as store:
        store.put([record(body=json.dumps({"n": number}).encode(), headers=()) for number in range(RECORDS)])
    replay = missive("dlq", "replay", "status:dead", "--yes", "--json", "--with", "app:proc", "--dlq", url)
    handled = tmp_path / "handled.txt"
    wait_until(lambda: handled.exists() and handled.read_bytes().count(b"\n") > RECORDS // 8, "the first records")
    server.kill()
    wait_until(lambda: "results of replays are kept" in replay.errors, "the outage to be noticed")
    server.start()
    out, _ = replay.finish(60)
    assert (replay.code, json.loads(out)["resolved"]) == (0, RECORDS)
    assert Counter(handled.read_text().split()) == Counter(map(str, range(RECORDS)))
