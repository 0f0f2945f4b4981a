"""`once=` under random kills and stops: each effect happens once, or as often as documented."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from missive.adapters.sqlite import SCHEMA
from missive.engine.completion.idempotency import _AHEAD
from missive.once import create_table
from tests.conftest import wait_until
from tests.support.process import Running

CONCURRENCY = 2

TRANSACTION = """
import os
import missive
from missive.matchers import Everything, by_field

def connect():
CONNECT

proc = missive.Processor(missive.JSONMessage, name="kill", concurrency=2)
calls = os.open("calls.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

@proc.resource(scope="worker")
def database(worker):
    connection = connect()
    yield connection
    connection.close()

@proc.handle_for(Everything(), name="handle", once=missive.Once(by_field("n"), form="transaction"))
def handle(message, context):
    number, connection = message.get_json()["n"], context.get(database)
    os.write(calls, b"%d\\n" % number)
    try:
        if context.claim(connection):
            connection.cursor().execute(f"INSERT INTO effects VALUES ({number})")
        connection.commit()
    except BaseException:
        connection.rollback()
        raise
"""

SQLITE = """
    import sqlite3
    connection = sqlite3.connect("business.db", timeout=30)
    connection.execute("PRAGMA synchronous=OFF")  # a killed process loses no write that the system has received
    return connection
"""

LEASE = """
import os, time
import missive
from missive.matchers import Everything, by_field

proc = missive.Processor(missive.JSONMessage, name="kill", concurrency=2)
effects = os.open(os.environ.get("EFFECTS", "effects.txt"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)

@proc.handle_for(Everything(), name="handle", once=missive.Once(by_field("n"), lease=2))
def handle(message, context):
    os.write(effects, b"%d\\n" % message.get_json()["n"])
    time.sleep(PAUSE)
"""


def enqueue(directory: Path, count: int) -> None:
    """Insert `count` messages into the queue, and every tenth of them twice."""
    with closing(sqlite3.connect(directory / "queue.db")) as connection, connection:
        connection.executescript(SCHEMA)
        numbers = [*range(count), *range(0, count, 10)]
        connection.executemany(
            "INSERT INTO missive_queue (queue, body) VALUES ('work', ?)",
            [(json.dumps({"n": n}).encode(),) for n in numbers],
        )


def left(directory: Path) -> int:
    with closing(sqlite3.connect(directory / "queue.db", timeout=30)) as connection:
        return int(connection.execute("SELECT count(*) FROM missive_queue").fetchone()[0])


def lines(path: Path) -> Counter[int]:
    return Counter(map(int, path.read_text().split())) if path.exists() else Counter()


def kill_repeatedly(
    start: Callable[[], Running], progress: Callable[[], int], count: int, kills: int, chance: random.Random
) -> Running:
    """Kill workers at random moments, each after some progress, and return a last worker, which continues."""
    for number in range(kills):
        worker = start()
        enough = min(progress() + chance.randint(1, max(1, count // kills)), count * (number + 1) // (kills + 1))
        wait_until(lambda enough=enough: progress() >= enough, f"{enough} effects", 60)
        worker.kill()
    return start()


class SQLite:
    """The interface of the database servers, for SQLite."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "business.db"

    def database(self) -> str:
        with closing(self.connect("")) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
        return ""

    def connect(self, database: str) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=30)

    def source(self, database: str) -> str:
        return SQLITE


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("postgres", marks=pytest.mark.postgres),
        pytest.param("mariadb", marks=pytest.mark.mariadb),
    ]
)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Return the database of the effects."""
    return SQLite(tmp_path) if request.param == "sqlite" else request.getfixturevalue(request.param)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_effects_in_a_transaction_happen_exactly_once(
    missive: Callable[..., Running],
    tmp_path: Path,
    server: Any,
    request: pytest.FixtureRequest,
    record_property: Callable[[str, object], None],
) -> None:
    """Transactional form: each effect happens exactly once, despite kills and redeliveries."""
    deep = request.config.getoption("--deep")
    count, kills = (50_000, 50) if deep else (5_000, 8) if isinstance(server, SQLite) else (2_000, 4)
    seed = random.SystemRandom().randrange(10**6)
    enqueue(tmp_path, count)
    database = server.database()
    (tmp_path / "app.py").write_text(TRANSACTION.replace("CONNECT", server.source(database)))
    with closing(server.connect(database)) as business:
        cursor = business.cursor()
        create_table(business)
        cursor.execute("CREATE TABLE effects (n INTEGER)")
        business.commit()

        def progress() -> int:
            cursor.execute("SELECT count(*) FROM effects")
            (done,) = cursor.fetchone()
            business.commit()
            return int(done)

        def start() -> Running:
            return missive(
                "run", "app:proc", "--from", "sqlite:///queue.db?queue=work&lease=2", "--dlq", "sqlite:///d.db"
            )

        last = kill_repeatedly(start, progress, count, kills, random.Random(seed))
        wait_until(lambda: not left(tmp_path), f"the queue to be empty (seed {seed})", 600 if deep else 60)
        last.terminate(60)
        assert last.code == 0
        cursor.execute("SELECT n FROM effects")
        effects = Counter(n for (n,) in cursor.fetchall())
    assert effects == Counter(range(count)), f"seed {seed}"
    calls = lines(tmp_path / "calls.txt")
    assert sum(calls.values()) > count + count // 10  # some messages were redelivered, or the test shows nothing
    record_property(
        "calls", f"{count} messages, {kills} kills, seed {seed}: {sum(calls.values())} calls of the handler"
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["sqlite", pytest.param("redis", marks=pytest.mark.redis)])
def test_leases_bound_repeated_effects(
    missive: Callable[..., Running],
    tmp_path: Path,
    kind: str,
    request: pytest.FixtureRequest,
    record_property: Callable[[str, object], None],
) -> None:
    """Lease form: no effect is lost, and a death repeats at most the claims whose end was not recorded."""
    deep, few = request.config.getoption("--deep"), (5_000, 5) if kind == "sqlite" else (1_000, 3)
    count, kills = (50_000, 50) if deep else few
    dlq = "sqlite:///d.db" if kind == "sqlite" else request.getfixturevalue("redis").store()
    seed = random.SystemRandom().randrange(10**6)
    (tmp_path / "app.py").write_text(LEASE.replace("PAUSE", "0"))
    enqueue(tmp_path, count)
    path = tmp_path / "effects.txt"

    def start() -> Running:
        return missive("run", "app:proc", "--from", "sqlite:///queue.db?queue=work&lease=2", "--dlq", dlq)

    last = kill_repeatedly(start, lambda: len(lines(path)), count, kills, random.Random(seed))
    wait_until(lambda: not left(tmp_path), f"the queue to be empty (seed {seed})", 300 if deep else 120)
    last.terminate(60)
    assert last.code == 0
    effects = lines(path)
    assert set(effects) == set(range(count)), f"seed {seed}"
    twice = sum(effects.values()) - count
    assert twice <= kills * (CONCURRENCY + _AHEAD), f"seed {seed}"
    record_property("effects", f"{count} messages, {kills} kills, seed {seed}: {twice} effects happened twice")


@pytest.mark.slow
def test_a_stopped_process_starts_no_lost_claims(missive: Callable[..., Running], tmp_path: Path) -> None:
    """Lease form: a process that stops for longer than its lease repeats only the effects in progress."""
    count = 300
    (tmp_path / "app.py").write_text(LEASE.replace("PAUSE", "0.01"))
    enqueue(tmp_path, count)
    command = ("run", "app:proc", "--from", "sqlite:///queue.db?queue=work&lease=2", "--dlq", "sqlite:///d.db")
    first = missive(*command, env={"EFFECTS": "first.txt"})
    wait_until(lambda: len(lines(tmp_path / "first.txt")) > 10, "some effects")
    os.kill(first.pid, signal.SIGSTOP)
    before = lines(tmp_path / "first.txt")
    second = missive(*command, env={"EFFECTS": "second.txt"})
    wait_until(lambda: not left(tmp_path), "the other process to handle all messages", 120)
    os.kill(first.pid, signal.SIGCONT)
    for worker in (first, second):
        worker.terminate(30)
    after = lines(tmp_path / "first.txt")
    assert set(after) | set(lines(tmp_path / "second.txt")) == set(range(count))
    assert len(before) < count
    assert sum(after.values()) - sum(before.values()) <= CONCURRENCY  # the messages that its threads were running
