"""Workers, commands and servers killed at random moments, on every store: nothing is lost or left inconsistent."""

from __future__ import annotations

import contextlib
import json
import random
import sqlite3
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from missive.adapters.sqlite import SCHEMA
from missive.dlq import Query, Status, Store, open_store
from missive.dlq.redis import RedisStore
from tests.conftest import wait_until
from tests.support.process import Running
from tests.support.redis_store import check

STORES = [
    "sqlite",
    pytest.param("postgres", marks=pytest.mark.postgres),
    pytest.param("mariadb", marks=pytest.mark.mariadb),
    pytest.param("redis", marks=pytest.mark.redis),
]
SERVERS = STORES[1:]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

APPLICATION = """
import os, time
import missive
from missive.adapters import replay as source
from missive.engine.limits import Limits
from missive.engine.runtime import Runtime
from missive.matchers import Everything, by_field

Runtime.limits = Limits(hold_seconds=0.01)  # so that retries are parked
source._LEASE = 1.0  # so that the records of a killed worker are soon free

proc = missive.Processor(missive.JSONMessage, name="kill", concurrency=4)
handled = os.open("handled.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
soon = missive.Retry(attempts=100, immediate=0, delays=missive.constant(0.05))

def is_first_time(number):
    try:
        os.close(os.open(f"seen-{number}", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True

@proc.handle_for(Everything(), name="h", retry=soon, ordered_by=by_field("lane"), on_lane_retry="park")
def handle(message, context):
    number = message.get_json()["n"]
    if number % 5 == 0 and is_first_time(number):
        raise ConnectionError("on purpose")
    if number % 10 == 0 and not os.path.exists("fixed"):
        raise missive.DeadLetter("bad")
    if os.path.exists("fixed"):
        time.sleep(0.003)
    os.write(handled, b"%d\\n" % number)
"""

PURGE = """
import time
from missive.operations import purge
from missive.cli import main

query = purge.Query

def one_after_another(**conditions):
    time.sleep(0.02)
    return query(**conditions)

purge._BATCH, purge.Query = 1, one_after_another
main()
"""


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of a new store of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/dlq.db"
    server = request.getfixturevalue(request.param)
    return str(server.store() if request.param == "redis" else server.url(server.database()))


def enqueue(directory: Path, count: int) -> str:
    """Insert messages into a queue, and return its URL."""
    with contextlib.closing(sqlite3.connect(directory / "queue.db")) as connection:
        connection.executescript(SCHEMA)
        rows = [("q", json.dumps({"n": n, "lane": n % 40}).encode()) for n in range(count)]
        connection.executemany("INSERT INTO missive_queue (queue, body) VALUES (?, ?)", rows)
        connection.commit()
    return "sqlite:///queue.db?queue=q&lease=1"


def numbers(store: Store, *statuses: Status) -> Counter[int]:
    """Count the numbers of the messages of records."""
    return Counter(json.loads(one.body)["n"] for one in store.query(Query(statuses=statuses)))


def check_counts(store: Store) -> None:
    """Assert that the groups count the records, and that the indexes of a Redis store are right."""
    if isinstance(store, RedisStore):
        check(store)
    expected = Counter((one.fingerprint, str(one.status)) for one in store.query(Query()))
    assert Counter({(group.fingerprint, group.status): group.count for group in store.groups(Query())}) == expected


def handled(directory: Path) -> Counter[int]:
    """Count the numbers of handled messages."""
    path = directory / "handled.txt"
    return Counter(map(int, path.read_text().split())) if path.exists() else Counter()


def kill_a_purge(start: Callable[..., Running], directory: Path, url: str, store: Store, chance: random.Random) -> None:
    """Kill a purge before its end. The deleted records are gone, and the others remain."""
    (directory / "purge.py").write_text(PURGE)
    before = store.count(Query())
    most = before - 1 - int(before / 10 * chance.random())
    running = start(sys.executable, "purge.py", "dlq", "purge", "status:resolved", "--yes", "--dlq", url)
    wait_until(lambda: store.count(Query()) <= most, f"{most} left", 60)
    running.kill()
    check_counts(store)
    assert 0 < store.count(Query()) <= most


@pytest.mark.parametrize("url", STORES, indirect=True)
def test_killed_workers_and_commands_lose_nothing(
    start: Callable[..., Running],
    missive: Callable[..., Running],
    tmp_path: Path,
    url: str,
    request: pytest.FixtureRequest,
    record_property,
):
    """Workers and commands are killed while they park, replay and purge: each message is handled, or dead once."""
    count, kills = (10_000, 30) if request.config.getoption("--deep") else (500, 3)
    seed = random.SystemRandom().randrange(10**6)
    chance = random.Random(seed)
    (tmp_path / "app.py").write_text(APPLICATION)
    source = enqueue(tmp_path, count)
    worker = ("run", "app:proc", "--from", source, "--dlq", url)
    with contextlib.closing(open_store(url)) as store:

        def done() -> int:
            return len(handled(tmp_path)) + store.count(Query(statuses=(Status.dead,)))

        for number in range(kills):
            running = missive(*worker)
            enough = count * (number + chance.random()) / (kills + 1)
            wait_until(lambda enough=enough: done() >= enough, f"{enough} done (seed {seed})", 60)
            running.kill()
            check_counts(store)
        running = missive(*worker)
        waiting = Query(statuses=(Status.parked, Status.queued))
        wait_until(lambda: done() == count and not store.count(waiting), f"all (seed {seed})", 120)
        running.terminate(60)
        bad = Counter(range(0, count, 10))
        assert numbers(store, Status.dead) == bad, f"seed {seed}"
        assert set(handled(tmp_path)) == set(range(count)) - set(bad), f"seed {seed}"
        once = handled(tmp_path)

        # The cause is fixed, and killed commands replay the dead letters.
        (tmp_path / "fixed").touch()
        replay = ("replay", "label:bad", "--with", "app:proc", "--yes")
        for number in range(kills):
            running = missive("dlq", *replay, "--dlq", url)
            enough = len(once) + 1 + len(bad) * (number + chance.random()) / (kills + 2)
            wait_until(lambda enough=enough: len(handled(tmp_path)) >= enough, f"replayed (seed {seed})", 60)
            running.kill()
            check_counts(store)
            resolved = numbers(store, Status.resolved)
            assert set(resolved) <= set(handled(tmp_path)), f"a resolved message was not handled (seed {seed})"
            (kept,) = store.replays(limit=1)
            replay = ("resume", kept.id, "--with", "app:proc")
        running = missive("dlq", *replay, "--dlq", url)
        running.finish(120)
        assert running.code == 0, f"seed {seed}"
        (kept,) = store.replays(limit=1)
        assert (kept.total, kept.resolved, kept.left, kept.status) == (len(bad), len(bad), 0, "done"), f"seed {seed}"
        assert set(handled(tmp_path)) == set(range(count))
        check_counts(store)

        for _ in range(kills):
            kill_a_purge(start, tmp_path, url, store, chance)
        missive("dlq", "purge", "status:resolved", "--yes", "--dlq", url).finish(60)
        assert store.count(Query()) == 0
        check_counts(store)
    record_property("kills", f"{count} messages, 3 × {kills} kills, seed {seed}")


@pytest.mark.parametrize("name", SERVERS)
def test_a_worker_survives_kills_of_its_store(
    missive: Callable[..., Running], tmp_path: Path, request: pytest.FixtureRequest, name: str
):
    """The worker waits for its store and then continues: no message is lost, and none is dead twice."""
    count, kills = (5000, 10) if request.config.getoption("--deep") else (400, 2)
    server = request.getfixturevalue(name)
    url = str(server.store() if name == "redis" else server.url(server.database()))
    (tmp_path / "app.py").write_text(APPLICATION)
    running = missive("run", "app:proc", "--from", enqueue(tmp_path, count), "--dlq", url, "--log-level", "error")
    for number in range(kills):
        enough = count * (number + 1) / (kills + 2)
        wait_until(lambda enough=enough: len(handled(tmp_path)) >= enough, f"{enough} handled", 60)
        server.kill()
        server.start()
    with contextlib.closing(open_store(url)) as store:
        waiting = Query(statuses=(Status.parked, Status.queued))
        bad = Counter(range(0, count, 10))
        wait_until(
            lambda: len(handled(tmp_path)) == count - len(bad) and not store.count(waiting), "all to be handled", 120
        )
        wait_until(lambda: store.count(Query(statuses=(Status.dead,))) == len(bad), "all to be filed", 60)
        running.terminate(60)
        assert running.code == 0
        assert numbers(store, Status.dead) == bad
        check_counts(store)
